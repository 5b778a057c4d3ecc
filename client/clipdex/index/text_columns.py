"""Making the columns of texts that rows.columns has: collected piece by piece, or read in order from SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipdex.index.schema import DAMAGE, require_still, unreadable
from clipdex.index.side.text_column import MOST_BYTES, SortedTexts, TextColumn

__all__ = ["FewTexts", "texts_in_order"]

# Texts of these columns repeat, or are not worth their memory and their room.
_MOST_DISTINCT = 65_535
_MOST_FEW_BYTES = 4 << 20

_AT_ONCE = 10_000


class FewTexts:
    """A column of texts that are mostly the same few, collected piece by piece."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._codes: list[npt.NDArray[np.int32]] = []
        self._bytes = 0

    def add(self, texts: Sequence[bytes | None]) -> bool:
        """Add the texts of the next rows; False if there are too many different ones, or one has a zero byte."""
        numbers = self._numbers
        for text in dict.fromkeys(texts):
            if text is not None and text not in numbers:
                self._bytes += len(text)
                if len(numbers) >= _MOST_DISTINCT or self._bytes > _MOST_FEW_BYTES or b"\0" in text:
                    return False
                numbers[text] = len(numbers)
        found = [-1 if text is None else numbers[text] for text in texts]
        self._codes.append(np.array(found, np.int32))
        return True

    def column(self) -> TextColumn:
        """Return the column of all that was added."""
        texts = sorted(self._numbers)
        places = np.empty(len(texts) + 1, np.int32)
        for place, text in enumerate(texts):
            places[self._numbers[text]] = place
        places[-1] = len(texts)  # of NULL, whose number is -1
        codes = np.concatenate([*self._codes, np.empty(0, np.int32)])
        ends = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
        return _of(places[codes], ends, np.frombuffer(b"".join(texts), np.uint8))


def texts_in_order(db: sqlite3.Connection, path: Path, name: str, rows: int) -> TextColumn | None:
    """Read a column of the view `pictures`, of which most texts differ: SQLite sorts them, on disk if need be.

    None if they are too long, one has a zero byte, or a row is missing.

    path: of the database.

    Raises:
        IndexDamaged, IndexFault: as reading it raises them.
    """
    codes = np.full(rows, -1, np.int32)
    data, ends = bytearray(), [0]
    last: bytes | None = None
    nulls: list[int] = []
    try:
        cursor = db.execute(
            f"SELECT row, CAST({name} AS BLOB) FROM pictures WHERE row < ? ORDER BY {name}",  # noqa: S608
            (rows,),
        )
        while some := cursor.fetchmany(_AT_ONCE):
            for row, text in some:
                if text is None:
                    nulls.append(row)
                    continue
                if text != last:
                    if b"\0" in text or len(data) + len(text) > MOST_BYTES:
                        return None
                    data += text
                    ends.append(len(data))
                    last = text
                codes[row] = len(ends) - 2
        require_still(db)
    except DAMAGE as exc:
        require_still(db)
        raise unreadable(path, exc) from exc
    codes[nulls] = len(ends) - 1
    if (codes < 0).any():
        return None
    return _of(codes, np.array(ends, np.uint32), np.frombuffer(bytes(data), np.uint8))


def _of(codes: npt.NDArray[np.int32], offsets: npt.NDArray[np.uint32], data: npt.NDArray[np.uint8]) -> TextColumn:
    count = len(offsets) - 1
    nulls = bool((codes == count).any())
    most = count - (not nulls)
    kind = next(kind for kind in ("<u1", "<u2", "<u4") if most <= np.iinfo(kind).max)
    return TextColumn(codes.astype(kind), SortedTexts(offsets, data), nulls)
