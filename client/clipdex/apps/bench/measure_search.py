"""Benchmark of searching an index, against a bare read of the bytes that a search scans."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdex.apps.bench.load import Latency
from clipdex.apps.bench.machine import cores
from clipdex.base.arrays import Array, Vectors
from clipdex.base.errors import IndexDamaged, InvalidArgument
from clipdex.index import Index, IndexWriter, Manifest, Picture, optimize_index
from clipdex.index.files import open_to_read
from clipdex.index.side.derived_file import Unusable
from clipdex.index.side.int8_file import INT8_FILE, Int8Header

__all__ = ["SearchPoint", "drawn_index", "measure_search", "read_seconds", "scanned"]

_ROWS_AT_ONCE = 50_000
_READ_BLOCK_BYTES = 1 << 20
_CALLS = 10
_LONGEST_HEADER = 1 << 16


@dataclass(frozen=True)
class SearchPoint:
    """The measurement for one number of queries per call.

    latency: of a call with all its queries. bytes_read: what a search scans: the int8 codes if the index has
        them, else the rows. read_ms: median time to read these once on all cores, in the same measurement.
    """

    queries: int
    top_k: int
    calls: int
    queries_per_s: float
    latency: Latency
    read_ms: float
    bytes_read: int

    @property
    def times_read(self) -> float:
        """The number of times they could have been read during a median call."""
        return self.latency.p50_ms / self.read_ms

    @property
    def read_bytes_per_s(self) -> float:
        """Bandwidth of the bare read."""
        return self.bytes_read / self.read_ms * 1e3


def measure_search(
    index: Index, queries: Sequence[int], *, top_k: int = 10, seconds: float = 3.0
) -> Iterator[SearchPoint]:
    """Measure one point for each number of queries, with searches and bare reads in turn.

    Raises:
        InvalidArgument: a number of queries is below 1, or the index is empty.
    """
    if any(count < 1 for count in queries) or not queries:
        raise InvalidArgument(f"the numbers of queries are {list(queries)}; expected at least 1 each")
    if not len(index):
        raise InvalidArgument(f"{index.directory} is empty; there is nothing to search")
    k = min(top_k, len(index))
    arrays = scanned(index)
    for count in queries:
        drawn = _unit_vectors(count, index.manifest.embedding_dim, seed=count)
        index.search(drawn, k)
        read_seconds(*arrays)
        calls: list[float] = []
        reads: list[float] = []
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop or len(calls) < _CALLS:
            began = time.perf_counter()
            index.search(drawn, k)
            calls.append(time.perf_counter() - began)
            reads.append(read_seconds(*arrays))
        latency = Latency.of(calls)
        yield SearchPoint(
            queries=count,
            top_k=k,
            calls=len(calls),
            queries_per_s=count * len(calls) / sum(calls),
            latency=latency,
            read_ms=float(np.median(reads)) * 1e3,
            bytes_read=sum(array.nbytes for array in arrays),
        )


def scanned(index: Index) -> list[Array]:
    """Return what a search scans completely: vectors.int8 and the rows without codes, or all rows."""
    if len(index.pieces()) > 1:
        return [array for _, part in index.pieces() for array in scanned(part) if len(array)]
    try:
        with open_to_read(index.directory / INT8_FILE) as file:
            header = Int8Header.from_bytes(file.readline(_LONGEST_HEADER))
            codes: Array = np.memmap(file, np.uint8, mode="r")
    except (OSError, ValueError, IndexDamaged, Unusable):
        return [index.vectors]
    return [codes, index.vectors[header.rows :]]


def read_seconds(*arrays: Array) -> float:
    """Measure the seconds to read arrays once on all cores, with almost no computation."""
    parts = [part for array in arrays for part in np.array_split(_words(array), cores())]
    step = _READ_BLOCK_BYTES // 8

    def read(part: Array) -> int:
        return int(sum(int(part[at : at + step].max()) & 1 for at in range(0, len(part), step)))

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda _: None, range(cores())))  # start the threads before the clock
        began = time.perf_counter()
        list(pool.map(read, parts))
        return time.perf_counter() - began


def _words(array: Array) -> Array:
    """View an array's bytes as uint64, except for the last few."""
    flat = array.reshape(-1).view(np.uint8)
    return flat[: len(flat) // 8 * 8].view(np.uint64)


@contextmanager
def drawn_index(rows: int, dim: int, *, int8: bool = False, directory: Path | None = None) -> Iterator[Index]:
    """Create a temporary index of random unit vectors, float16, below `directory` if given.

    int8: add int8 codes, as `clipdex optimize` does.

    Raises:
        InvalidArgument: rows or dim are out of range.
    """
    if rows < 1 or dim < 1:
        raise InvalidArgument(f"an index of {rows} rows × {dim} cannot be drawn; expected at least 1 × 1")
    with tempfile.TemporaryDirectory(prefix="clipdex-bench-", dir=directory) as place:
        path = Path(place) / "drawn.clipdex"
        with IndexWriter.open_or_create(path, Manifest("0" * 64, "drawn", dim)) as writer:
            for start in range(0, rows, _ROWS_AT_ONCE):
                count = min(_ROWS_AT_ONCE, rows - start)
                writer.append(
                    [_picture(row) for row in range(start, start + count)], _unit_vectors(count, dim, seed=start)
                )
                writer.commit()
        if int8:
            optimize_index(path)
        with Index.open(path) as index:
            yield index


def _picture(row: int) -> Picture:
    return Picture(b"/drawn/%09d.jpg" % row, 1, 1, row.to_bytes(16, "big"), 1, 1)


def _unit_vectors(count: int, dim: int, seed: int) -> Vectors:
    """Draw float32 (count, dim) of norm 1."""
    drawn = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    unit: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit
