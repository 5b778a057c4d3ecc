"""Reading a user's text files: UTF-8, or UTF-16 or UTF-32 with a byte order mark, as on Windows."""

from __future__ import annotations

import codecs
from pathlib import Path

from clipdex.base.errors import InvalidArgument

__all__ = ["decoded", "encoding_of", "read_lines", "read_text"]

# UTF-32 before UTF-16, whose mark is the beginning of its mark.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LARGEST = 256 << 20  # bytes; labels, queries, captions


def encoding_of(start: bytes) -> str:
    """Detect the encoding of a text from its first bytes, at least four: by its mark, or UTF-8 without one."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def decoded(data: bytes, errors: str = "strict") -> str:
    """Decode a text and remove its byte order mark.

    errors: as for `bytes.decode`.

    Raises:
        UnicodeDecodeError: it is not what its mark says, or not UTF-8.
    """
    return data.decode(encoding_of(data[:4]), errors)


def read_text(file: Path, errors: str = "strict") -> str:
    """Read the text in a file, without the byte order mark.

    Raises:
        InvalidArgument: the file cannot be read, is too large, or is not UTF-8 (or what its mark says).
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"{file}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(data) > _LARGEST:
        raise InvalidArgument(f"{file}: has more than {_LARGEST >> 20} MiB; expected a list of texts")
    try:
        return decoded(data, errors)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        name = "UTF-8" if encoding_of(data[:4]).startswith("utf-8") else exc.encoding.upper()
        raise InvalidArgument(
            f"{file}: cannot be read: it is not {name} (in line {line}); save it as UTF-8"
        ) from exc


def read_lines(file: Path) -> list[str]:
    """Read the lines of a file that are not blank, without leading and trailing white space.

    Raises:
        InvalidArgument: see `read_text`.
    """
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]
