"""The rows.sqlite of several parts, read as one: rows are numbered part after part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from clipdex.base.errors import InvalidArgument
from clipdex.base.item_paths import path_text
from clipdex.base.records import Extent, Failure, KnownFile, Picture
from clipdex.index.row_reader import RowReader

__all__ = ["PartedRows", "PieceRows"]


@dataclass(frozen=True)
class PieceRows:
    """The rows of one part. number: of the part. first: its first row. count: its rows, tombstones included."""

    number: int
    first: int
    count: int
    store: RowReader


class PartedRows:
    """Reads what `RowReader` does, of several parts. The parts close their own connections."""

    def __init__(self, pieces: Sequence[PieceRows], part_of: Callable[[bytes], int]) -> None:
        """part_of: gives the number of the part that a path belongs to."""
        self._pieces = list(pieces)
        self._part_of = part_of

    def close(self) -> None:
        """Do nothing."""

    def pictures(self, rows: Sequence[int]) -> dict[int, Picture]:
        """Read the pictures of the given rows, by row."""
        found: dict[int, Picture] = {}
        for piece in self._pieces:
            own = [int(row) - piece.first for row in rows if 0 <= row - piece.first < piece.count]
            if own:
                found |= {row + piece.first: picture for row, picture in piece.store.pictures(own).items()}
        return found

    def contents(self, start: int, end: int) -> list[tuple[int, bytes, int, int]]:
        """List (row, content hash, width, height) of every live row in [start, end), by row."""
        return [
            (row + piece.first, content, width, height)
            for piece, low, high in self._within(start, end)
            for row, content, width, height in piece.store.contents(low, high)
        ]

    def signatures(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """List (row, perceptual signature) of the live rows in [start, end) with an undamaged one, by row."""
        return [
            (row + piece.first, signature)
            for piece, low, high in self._within(start, end)
            for row, signature in piece.store.signatures(low, high)
        ]

    def live_paths(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """List (row, path) of every live row in [start, end), by row."""
        return [
            (row + piece.first, path)
            for piece, low, high in self._within(start, end)
            for row, path in piece.store.live_paths(low, high)
        ]

    def known(self, path: bytes) -> KnownFile | None:
        """Look up a path: its live row or its line in the ledger, or None."""
        number = self._part_of(path)
        for piece in self._pieces:
            if piece.number == number:
                return _shifted(piece.store.known(path), piece)
        return None

    def known_by_look(self, path: bytes, rows: int) -> KnownFile | None:
        """Find the picture whose path looks the same; see `RowReader.known_by_look`."""
        if path.isascii():
            return None
        found = [(piece, piece.store.known_by_look(path, piece.count)) for piece in self._pieces]
        meant = [_shifted(known, piece) for piece, known in found if known is not None]
        if len(meant) > 1:
            raise InvalidArgument(
                f"{path_text(path)} is the name of {len(meant)} pictures that differ in how their accents are "
                "written; give the row of one"
            )
        return meant[0] if meant else None

    def failures(self, *, damaged: bool = True) -> list[Failure]:
        """Read the ledger, by path."""
        found = [failure for piece in self._pieces for failure in piece.store.failures(damaged=damaged)]
        return sorted(found, key=lambda failure: failure.path)

    def failures_page(self, limit: int, offset: int) -> list[Failure]:
        """Read `limit` lines of the ledger after the first `offset`, by path."""
        pages = [piece.store.failures_page(limit + offset, 0) for piece in self._pieces]
        found = sorted((failure for page in pages for failure in page), key=lambda failure: failure.path)
        return found[offset : offset + limit]

    def failed_paths(self) -> list[bytes]:
        """List the paths in the ledger, in order."""
        return sorted(path for piece in self._pieces for path in piece.store.failed_paths())

    def failure_counts(self) -> dict[str, int]:
        """Count the lines of the ledger by reason, the most frequent first."""
        counts: Counter[str] = Counter()
        for piece in self._pieces:
            counts.update(piece.store.failure_counts())
        return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))

    def commit_times(self) -> tuple[int | None, int | None]:
        """Read when rows were first and last committed: seconds since 1970, or None."""
        times = [piece.store.commit_times() for piece in self._pieces]
        firsts = [first for first, _ in times if first is not None]
        lasts = [last for _, last in times if last is not None]
        return min(firsts, default=None), max(lasts, default=None)

    def extents(self) -> list[Extent]:
        """Read the commit records, in the order of the rows."""
        return [
            replace(extent, first_row=extent.first_row + piece.first)
            for piece in self._pieces
            for extent in piece.store.extents()
        ]

    def _within(self, start: int, end: int) -> Iterator[tuple[PieceRows, int, int]]:
        """Cut rows [start, end) -> each part, and which of its own rows."""
        for piece in self._pieces:
            low, high = max(0, start - piece.first), min(piece.count, end - piece.first)
            if low < high:
                yield piece, low, high


def _shifted(known: KnownFile | None, piece: PieceRows) -> KnownFile | None:
    if known is None or known.row is None:
        return known
    # A row that was committed since has a number that belongs to the next part.
    return replace(known, row=known.row + piece.first) if known.row < piece.count else None
