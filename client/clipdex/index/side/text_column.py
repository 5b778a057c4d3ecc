"""A column of texts in rows.columns: its distinct values in order, and which of them each row has.

docs/index-format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.index.side.derived_file import padded

__all__ = ["MOST_BYTES", "SortedTexts", "TextColumn", "text_bytes", "text_column_of", "text_length"]

MOST_BYTES = (1 << 32) - 1  # of all distinct texts, whose offsets are uint32

_ASCII = 0x80


class SortedTexts(Sequence[bytes]):
    """Distinct texts, ascending by their bytes: mostly UTF-8, as SQLite has them.

    offsets: uint32 (n + 1,), where each begins in `data`, uint8, and the end.
    """

    def __init__(self, offsets: npt.NDArray[np.uint32], data: npt.NDArray[np.uint8]) -> None:
        self.offsets, self.data = offsets, data
        self._bytes = data.data

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return bytes(self._bytes[int(self.offsets[at]) : int(self.offsets[at + 1])])

    @cached_property
    def is_ascii(self) -> bool:
        """Whether each byte is a character."""
        return int(self.data.max(initial=0)) < _ASCII

    @cached_property
    def is_utf8(self) -> bool:
        """Whether all are valid UTF-8, so that no two spellings are one character to SQLite."""
        if self.is_ascii:
            return True
        begins = self.offsets[:-1][self.offsets[:-1] < self.offsets[1:]]
        if ((self.data[begins] & 0xC0) == 0x80).any():  # in the middle of a character that the one before begins
            return False
        try:
            str(self._bytes, "utf-8")
        except UnicodeDecodeError:
            return False
        return True


@dataclass(frozen=True)
class TextColumn:
    """Texts of rows. codes: (rows,), the number of each row's text; that of none, len(texts), is NULL."""

    codes: npt.NDArray[Any]
    texts: SortedTexts
    nulls: bool


def text_length(rows: int, width: int, distinct: int, size: int) -> int:
    """The bytes of a column in the file: codes of `width` bytes, offsets, and `size` bytes of texts."""
    return padded(rows * width) + padded(4 * (distinct + 1)) + size


def text_bytes(column: TextColumn) -> bytes:
    """Encode a column as in the file: codes, offsets, each followed by zeros up to its end, and the texts."""
    parts = [column.codes.tobytes(), column.texts.offsets.astype("<u4").tobytes()]
    return b"".join([*(part.ljust(padded(len(part)), b"\0") for part in parts), column.texts.data.tobytes()])


def text_column_of(
    raw: npt.NDArray[np.uint8], rows: int, width: int, distinct: int, nulls: bool
) -> TextColumn | None:
    """Read a column from its bytes in the file; None if it is damaged."""
    codes = raw[: rows * width].view(f"<u{width}")
    start = padded(rows * width)
    offsets = raw[start : start + 4 * (distinct + 1)].view("<u4")
    data = raw[start + padded(4 * (distinct + 1)) :]
    if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
        return None
    if rows and int(codes.max()) > distinct - (not nulls):
        return None
    return TextColumn(codes, SortedTexts(offsets, data), nulls)
