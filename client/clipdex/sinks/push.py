"""Pushing an index into a vector database: all of it once, and then what has changed.

A push that was interrupted goes on where it stopped. It may send points again; their ids depend on the pictures'
paths alone, so nothing is there twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array, Vectors
from clipdex.base.records import Picture
from clipdex.index.hits import no_record
from clipdex.index.reader import Index
from clipdex.sinks.batches import batch_ends, cut, fitting
from clipdex.sinks.cursor import Cursor, Described
from clipdex.sinks.payloads import FIELDS, digest_of, metadata_fields, payload_of, point_id
from clipdex.sinks.sink import Points, Sink

__all__ = ["Pushed", "described", "push", "unit"]

_AT_ONCE = 4_096  # pictures read at once
_CURSOR_EVERY = 16_384  # rows between two cursors, or this time if it is over first
_CURSOR_EVERY_S = 3.0
_MODULUS = 1 << 64

Progress = Callable[[int, int], None]
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pushed:
    """What a push did. pictures: number of pictures in the index.

    compared: every point was compared, because records had changed in place, the index was compacted, or it is
    another one than was pushed before. shortened: number of points that were sent without their metadata, and
    without their longest fields if need be, because the database takes no payload of that size.
    """

    pictures: int
    upserted: int
    deleted: int
    compared: bool
    shortened: int = 0


def described(sink: Sink) -> Described | None:
    """Read the description of a collection; None if there is no collection.

    Raises:
        SinkError: it cannot be read, or clipdex did not make it.
    """
    text = sink.description()
    return None if text is None else Described.parse(text, sink.place)


def push(index: Index, sink: Sink, progress: Progress | None = None) -> Pushed:
    """Bring a collection up to date with an index; create it first if it does not exist.

    progress: called with (rows done, rows to do).

    Raises:
        FingerprintMismatch: the collection has vectors of another model.
        SinkError: the database failed; a later push goes on.
        IndexDamaged: a row is damaged.
    """
    found = described(sink)
    if found is None:
        fields = (*FIELDS, *metadata_fields(_every_picture(index)))
        nothing_yet = Cursor(0, 0, Cursor.packed(np.zeros(0, np.int64)), complete=True)
        found = Described.of(index.manifest, fields, nothing_yet)
        sink.create(found.embedding_dim, found.fields)
        sink.describe(found.text())
    else:
        found.require(index.manifest, sink.place)
        sink.create(found.embedding_dim, found.fields)
    job = _Push(index, sink, found, progress or (lambda done, total: None))
    since = job.dead_since()
    return job.compare() if since is None else job.append(since)


class _Push:
    """One push of one snapshot of an index."""

    def __init__(self, index: Index, sink: Sink, found: Described, progress: Progress) -> None:
        self._index = index
        self._sink = sink
        self._found = found
        self._progress = progress
        self._rows = len(index.vectors)
        self._sent = 0
        self._shortened = 0
        # Digests of rows before the cursor, and which of them have been read.
        before = min(found.cursor.rows, self._rows)
        self._known, self._is_known = np.zeros(before, np.uint64), np.zeros(before, bool)

    def dead_since(self) -> _Rows | None:
        """Return the rows that died since the cursor; None if it does not fit, and all must be compared."""
        cursor = self._found.cursor
        if cursor.rows > self._rows:
            return None
        before = cursor.dead_rows()
        if before is None:
            return None
        now = self._index.tombstones
        now = now[now < cursor.rows]
        if not np.isin(before, now).all():
            return None
        since: _Rows = np.setdiff1d(now, before, assume_unique=True)
        live = np.setdiff1d(np.arange(cursor.rows), before, assume_unique=True)
        return since if self._sum(live) % _MODULUS == cursor.sum else None

    def append(self, dead: _Rows) -> Pushed:
        """Send the rows behind the cursor, and delete the pictures of the rows that died before it."""
        cursor = self._found.cursor
        live = self._live(cursor.rows)
        if not cursor.complete:  # rows behind the cursor may have been sent, and died since
            later = self._index.tombstones
            dead = np.concatenate([dead, later[later >= cursor.rows]])
        total = cursor.sum - self._sum(dead[dead < cursor.rows])
        gone = self._gone(dead)
        if len(gone) or len(live):
            self._mark(replace(cursor, complete=False))
        for ids in cut(gone, self._sink.most_points):
            self._sink.delete(ids)
        saved, saved_at = cursor.rows, time.monotonic()
        for start, some in self._in_blocks(live):
            for sent, of_them in self._send(some, self._pictures(some)):
                total += of_them
                self._progress(start + sent, len(live))
                end = int(some[sent - 1]) + 1
                if end - saved >= _CURSOR_EVERY or time.monotonic() - saved_at >= _CURSOR_EVERY_S:
                    self._save(end, total, complete=False)
                    saved, saved_at = end, time.monotonic()
        self._save(self._rows, total, complete=True)
        self._sink.optimize()
        return Pushed(len(self._index), self._sent, len(gone), False, self._shortened)

    def compare(self) -> Pushed:
        """Compare every point with its picture; send those that differ, and delete those without a picture.

        A digest is also of the path, so it tells a picture from all others: a row whose digest is there is not
        read again if `dead_since` has read it.
        """
        self._mark(replace(self._found.cursor, sum=-1))  # which never fits: until this has ended, compare again
        there, stray = {}, set()
        for point, digest in self._sink.digests():
            there[digest] = point
            stray.add(point)
        live = self._live(0)
        total = 0
        for start, some in self._in_blocks(live):
            behind = some[~self._is_read(some)]
            read = dict(zip(behind.tolist(), self._pictures(behind), strict=True))
            digests = [_digest(read[row]) if row in read else int(self._known[row]) for row in some.tolist()]
            total += sum(digests)
            found = [there.get(f"{digest:016x}") for digest in digests]
            stray.difference_update(point for point in found if point is not None)
            other = [i for i, point in enumerate(found) if point is None]
            again = [row for row in some[other].tolist() if row not in read]
            read |= dict(zip(again, self._pictures(np.array(again, np.int64)), strict=True))
            pictures = [read[row] for row in some[other].tolist()]
            for sent, _ in self._send(some[other], pictures):
                self._progress(start + other[sent - 1] + 1, len(live))
            stray.difference_update(point_id(picture.path) for picture in pictures)
            self._progress(start + len(some), len(live))
        for ids in cut(sorted(stray), self._sink.most_points):
            self._sink.delete(ids)
        self._save(self._rows, total, complete=True)
        self._sink.optimize()
        return Pushed(len(self._index), self._sent, len(stray), True, self._shortened)

    # Rows and pictures

    def _live(self, start: int, end: int | None = None) -> _Rows:
        rows = np.arange(start, self._rows if end is None else end, dtype=np.int64)
        return np.setdiff1d(rows, self._index.tombstones, assume_unique=True)

    def _in_blocks(self, rows: _Rows) -> Iterator[tuple[int, _Rows]]:
        """Yield (number of rows before it, rows) of each block."""
        for start in range(0, len(rows), _AT_ONCE):
            yield start, rows[start : start + _AT_ONCE]

    def _pictures(self, rows: _Rows) -> list[Picture]:
        found = self._index.pictures(rows.tolist())
        for row in rows.tolist():
            if row not in found:
                raise no_record(self._index.directory, row)
        return [found[row] for row in rows.tolist()]

    def _is_read(self, rows: _Rows) -> npt.NDArray[np.bool_]:
        """Which rows' digests are known: (n,)."""
        known: npt.NDArray[np.bool_] = rows < len(self._known)
        known[known] = self._is_known[rows[known]]
        return known

    def _sum(self, rows: _Rows) -> int:
        """Add up the digests of rows before the cursor, each of which is read once in a push."""
        total = 0
        for _, some in self._in_blocks(rows):
            unread = some[~self._is_read(some)]
            self._known[unread] = [_digest(picture) for picture in self._pictures(unread)]
            self._is_known[unread] = True
            total += sum(self._known[some].tolist())
        return total

    def _gone(self, dead: _Rows) -> list[str]:
        """Return the ids of dead rows' pictures, but for those whose path has another row by now."""
        paths = [picture.path for _, some in self._in_blocks(dead) for picture in self._pictures(some)]
        known = {path: self._index.known(path) for path in paths}
        return [point_id(path) for path, record in known.items() if record is None or record.row is None]

    # Sending

    def _send(self, rows: _Rows, pictures: Sequence[Picture]) -> Iterator[tuple[int, int]]:
        """Send points in batches -> after each, (number sent of these, sum of the batch's digests)."""
        if not len(rows):
            return
        self._index.require_sound(rows)
        vectors = unit(self._index.vectors[rows])
        whole = [payload_of(picture, self._found.fields) for picture in pictures]
        payloads = [fitting(payload, self._sink.most_payload) for payload in whole]
        self._shortened += sum(len(whole[i]) > len(payloads[i]) for i in range(len(whole)))
        ids = [point_id(picture.path) for picture in pictures]
        start = 0
        for end in batch_ends(payloads, vectors.shape[1], self._sink):
            self._sink.upsert(Points(ids[start:end], vectors[start:end], payloads[start:end]))
            self._sent += end - start
            yield end, sum(_digest(picture) for picture in pictures[start:end])
            start = end

    def _save(self, rows: int, total: int, *, complete: bool) -> None:
        """Flush, then store the cursor: what it says is there must be."""
        self._sink.flush()
        dead = self._index.tombstones
        self._mark(Cursor(rows, total % _MODULUS, Cursor.packed(dead[dead < rows]), complete))

    def _mark(self, cursor: Cursor) -> None:
        self._found = replace(self._found, cursor=cursor)
        self._sink.describe(self._found.text())


def unit(rows: Array) -> Vectors:
    """Return rows as float32 of norm 1, up to float32's rounding: an index may have rounded them to float16."""
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide.astype(np.float32)


def _every_picture(index: Index) -> Iterator[Picture]:
    rows = np.setdiff1d(np.arange(len(index.vectors)), index.tombstones, assume_unique=True)
    for start in range(0, len(rows), _AT_ONCE):
        yield from index.pictures(rows[start : start + _AT_ONCE].tolist()).values()


def _digest(picture: Picture) -> int:
    return int(digest_of(picture), 16)
