"""Pushing an index into a vector database: all of it once, and then what has changed.

A push that was interrupted goes on where it stopped. It may send points again; their ids depend on the pictures'
paths alone, so nothing is there twice.
"""

from __future__ import annotations

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
_CURSOR_EVERY = 16_384  # rows between two cursors
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
        saved = cursor.rows
        for done, some in self._in_blocks(live):
            pictures = self._pictures(some)
            self._send(some, pictures)
            total += _sum_of(pictures)
            self._progress(done, len(live))
            if (end := int(some[-1]) + 1) - saved >= _CURSOR_EVERY:
                self._save(end, total, complete=False)
                saved = end
        self._save(self._rows, total, complete=True)
        self._sink.optimize()
        return Pushed(len(self._index), self._sent, len(gone), False, self._shortened)

    def compare(self) -> Pushed:
        """Compare every point with its picture; send those that differ, and delete those without a picture."""
        self._mark(replace(self._found.cursor, sum=-1))  # which never fits: until this has ended, compare again
        there = dict(self._sink.digests())
        live = self._live(0)
        total = 0
        for done, some in self._in_blocks(live):
            pictures = self._pictures(some)
            total += _sum_of(pictures)
            other = [
                i
                for i, picture in enumerate(pictures)
                if there.pop(point_id(picture.path), "") != digest_of(picture)
            ]
            self._send(some[other], [pictures[i] for i in other])
            self._progress(done, len(live))
        for ids in cut(list(there), self._sink.most_points):
            self._sink.delete(ids)
        self._save(self._rows, total, complete=True)
        self._sink.optimize()
        return Pushed(len(self._index), self._sent, len(there), True, self._shortened)

    # Rows and pictures

    def _live(self, start: int, end: int | None = None) -> _Rows:
        rows = np.arange(start, self._rows if end is None else end, dtype=np.int64)
        return np.setdiff1d(rows, self._index.tombstones, assume_unique=True)

    def _in_blocks(self, rows: _Rows) -> Iterator[tuple[int, _Rows]]:
        """Yield (number of rows up to its end, rows) of each block."""
        for start in range(0, len(rows), _AT_ONCE):
            yield min(start + _AT_ONCE, len(rows)), rows[start : start + _AT_ONCE]

    def _pictures(self, rows: _Rows) -> list[Picture]:
        found = self._index.pictures(rows.tolist())
        for row in rows.tolist():
            if row not in found:
                raise no_record(self._index.directory, row)
        return [found[row] for row in rows.tolist()]

    def _sum(self, rows: _Rows) -> int:
        total = 0
        for _, some in self._in_blocks(rows):
            total += _sum_of(self._pictures(some))
        return total

    def _gone(self, dead: _Rows) -> list[str]:
        """Return the ids of dead rows' pictures, but for those whose path has another row by now."""
        paths = [picture.path for _, some in self._in_blocks(dead) for picture in self._pictures(some)]
        known = {path: self._index.known(path) for path in paths}
        return [point_id(path) for path, record in known.items() if record is None or record.row is None]

    # Sending

    def _send(self, rows: _Rows, pictures: Sequence[Picture]) -> None:
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
            start = end
        self._sent += len(rows)

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


def _sum_of(pictures: Sequence[Picture]) -> int:
    return sum(int(digest_of(picture), 16) for picture in pictures)
