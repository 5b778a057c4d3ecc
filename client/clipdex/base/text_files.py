"""Text that a user gives in a file: UTF-8, or what programs of Windows write, with a mark that says so."""

from __future__ import annotations

import codecs
from pathlib import Path

from clipdex.base.errors import InvalidArgument

__all__ = ["decoded", "encoding_of", "read_lines", "read_text"]

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LARGEST = 256 << 20  # bytes; labels, queries, captions


def encoding_of(start: bytes) -> str:
    """The encoding of a text that begins with these bytes, four at least: by its mark, UTF-8 if it has none."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def decoded(data: bytes, errors: str = "strict") -> str:
    """A text's characters, without its mark.

    errors: as for `bytes.decode`.

    Raises:
        UnicodeDecodeError: it is not what its mark says, or not UTF-8.
    """
    return data.decode(encoding_of(data[:4]), errors)


def read_text(file: Path, errors: str = "strict") -> str:
    """The text in a file, without the mark at its beginning.

    Raises:
        InvalidArgument: the file cannot be read, is too large, or is not UTF-8 (or what its mark says).
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"{file}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(data) > _LARGEST:
        raise InvalidArgument(f"{file}: has more than {_LARGEST >> 20} MiB; a list of texts is expected")
    try:
        return decoded(data, errors)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        name = "UTF-8" if encoding_of(data[:4]).startswith("utf-8") else exc.encoding.upper()
        raise InvalidArgument(
            f"{file}: cannot be read: it is not {name} (in line {line}); save it as UTF-8"
        ) from exc


def read_lines(file: Path) -> list[str]:
    """The lines of a file that are not blank, without the white space around them.

    Raises:
        InvalidArgument: as `read_text`.
    """
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]
