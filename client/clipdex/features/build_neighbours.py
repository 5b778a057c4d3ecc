"""Building features.neighbours: an inverted file, written where each descriptor belongs, since it may be large.

It is not written through a memory map: where space cannot be allocated before, a full disk would kill the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from clipdex.base.errors import IndexFault
from clipdex.features.neighbour_file import AGAIN, NEIGHBOURS_FILE, NeighbourFile, NeighbourFooter
from clipdex.features.neighbours import import_faiss, numbered
from clipdex.features.pairs import numbers
from clipdex.features.store import FeatureStore
from clipdex.index.files import allocate, write_at
from clipdex.index.reader import Index
from clipdex.index.side.building import building, digest, install
from clipdex.index.side.neighbour_footer import bytes_crc32c, neighbour_damages

__all__ = ["FEWEST", "BuiltNeighbours", "build_neighbours", "write_lists"]

FEWEST = 50_000  # descriptors; fewer are compared exactly in a tenth of a second
_MOST_LISTS = 65_536
_TRAINED_ON = 40  # descriptors for each list
_GRAPH_FROM = 2048  # lists: more are assigned through a graph

_Blocks = Callable[[], Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]]


@dataclass(frozen=True)
class BuiltNeighbours:
    """The result of building. descriptors: how many the file has. file_bytes: its size; 0 if there is none."""

    descriptors: int
    file_bytes: int


def build_neighbours(
    directory: Path, *, fewest: int = FEWEST, progress: Callable[[int, int], None] | None = None
) -> BuiltNeighbours:
    """Build `features.neighbours` of an index, or of each of its parts, unless it is up to date.

    Memory stays bounded: descriptors are read block by block and written where they belong. Others may use the
    index meanwhile. Of fewer than `fewest` descriptors, and of ORB's, there is no file.

    Raises:
        MissingExtra: FAISS is not installed.
        IndexFault: the index has no local features, or they cannot be read.
        IndexLocked: another process is building one, or the index was compacted meanwhile.
        IndexWriteError: the disk is full or failed; the old file is as it was.
    """
    total = size = 0
    with Index.open(directory) as index:
        for _, part in index.pieces():
            built = _build_one(part.directory, fewest, progress)
            total, size = total + built.descriptors, size + built.file_bytes
    return BuiltNeighbours(total, size)


def _build_one(directory: Path, fewest: int, progress: Callable[[int, int], None] | None) -> BuiltNeighbours:
    path = directory / NEIGHBOURS_FILE
    busy = f"{path}.building is being written by another process; wait for it, or stop it"
    with Index.open(directory) as index, FeatureStore.open(index) as store:
        rows, extents = len(index.vectors), index.extents()
        extents = [extent for extent in extents if extent.first_row < rows]
        if store.recipe.width != 128:
            return BuiltNeighbours(0, 0)
        total = sum(len(found) for found, _ in store.blocks())
        if total < fewest:
            return BuiltNeighbours(total, 0)
        faiss = import_faiss()
        try:
            held = NeighbourFile.open(import_faiss, directory, extents, store.recipe.width)
        except IndexFault:
            held = None
        if (
            held is not None
            and _is_up_to_date(held.footer, store, rows)
            and not neighbour_damages(directory, extents)
        ):
            return BuiltNeighbours(held.footer.descriptors, path.stat().st_size)
        covered = np.zeros(rows, np.bool_)

        def blocks() -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
            for found, descriptors in store.blocks():
                covered[found] = True
                yield numbered(found, descriptors)

        with building(directory, NEIGHBOURS_FILE, busy=busy, overtaken=busy) as fd:
            head, end, count, lists = write_lists(faiss, fd, blocks, total, progress)
            flags = np.packbits(covered, bitorder="little").tobytes()
            footer = NeighbourFooter(
                rows,
                digest(extents),
                store.stamp,
                store.recipe.width,
                count,
                lists,
                len(head),
                end,
                int(google_crc32c.value(head + flags)),
                bytes_crc32c(fd, len(head), end),
            )
            tail = flags + footer.to_bytes()
            write_at(fd, tail, end)
            install(fd, directory, NEIGHBOURS_FILE, AGAIN)
        return BuiltNeighbours(count, end + len(tail))


def _is_up_to_date(footer: NeighbourFooter, store: FeatureStore, rows: int) -> bool:
    return (footer.stamp, footer.rows) == (store.stamp, rows) and footer.lists_crc32c is not None


def write_lists(
    faiss: Any, fd: int, blocks: _Blocks, total: int, progress: Callable[[int, int], None] | None = None
) -> tuple[bytes, int, int, int]:
    """Write an inverted file in FAISS's format -> the bytes before its lists, its length, descriptors, lists.

    blocks: yields (ids, descriptors uint8 (n, 128)), the same each time it is called, some `total` in all.
    """
    lists = int(max(1, min(_MOST_LISTS, 2 * total**0.5, total // 39)))
    sample = _sample(blocks, total, _TRAINED_ON * lists)
    width = sample.shape[1]
    quantizer = faiss.IndexFlatL2(width)
    kind = faiss.ScalarQuantizer.QT_8bit_direct
    made = faiss.IndexIVFScalarQuantizer(quantizer, width, lists, kind, faiss.METRIC_L2, False)
    made.cp.niter, made.cp.seed = 8, 1
    made.train(numbers(sample))
    near = _assigner(faiss, quantizer, lists, width)
    with tempfile.TemporaryFile(dir=None) as spill:
        sizes = np.zeros(lists, np.int64)
        count = 0
        for _, some in blocks():
            assigned = near(some)
            spill.write(assigned.tobytes())
            sizes += np.bincount(assigned, minlength=lists)
            count += len(some)
            if progress is not None:
                progress(min(count, total), total)
        head = _head(faiss, made, count, sizes)
        starts = len(head) + np.concatenate([[0], np.cumsum(sizes)[:-1]]) * (width + 8)
        end = len(head) + count * (width + 8)
        os.ftruncate(fd, end)
        allocate(fd, 0, end)  # a disk that is too small is told before, and not in the middle
        write_at(fd, head, 0)
        spill.seek(0)
        filled = np.zeros(lists, np.int64)
        for ids, some in blocks():
            assigned = np.frombuffer(spill.read(4 * len(some)), np.int32)
            if len(assigned) != len(some):
                raise IndexFault(f"the local features changed while they were read; {AGAIN}")
            _scatter(fd, assigned, ids, some, starts, sizes, filled)
    if not np.array_equal(filled, sizes):
        raise IndexFault(f"the local features changed while they were read; {AGAIN}")
    return head, end, count, lists


def _scatter(
    fd: int,
    assigned: npt.NDArray[np.int32],
    ids: npt.NDArray[np.int64],
    some: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    filled: npt.NDArray[np.int64],
) -> None:
    """Write a block's descriptors and ids into their lists; a list has all its codes, then all its ids."""
    width = some.shape[1]
    order = np.argsort(assigned, kind="stable")
    some, ids = some[order], ids[order].astype("<i8")
    lists, firsts = np.unique(assigned[order], return_index=True)
    for which, first, last in zip(lists, firsts, [*firsts[1:], len(order)], strict=True):
        if last - first > int(sizes[which] - filled[which]):
            raise IndexFault(f"the local features changed while they were read; {AGAIN}")
        write_at(fd, some[first:last].reshape(-1).data, int(starts[which] + filled[which] * width))
        at = starts[which] + sizes[which] * width + filled[which] * 8
        write_at(fd, ids[first:last].view(np.uint8).data, int(at))
        filled[which] += last - first


def _sample(blocks: _Blocks, total: int, wanted: int) -> npt.NDArray[np.uint8]:
    """Take about `wanted` descriptors, evenly."""
    step = max(1, total // max(1, wanted))
    taken, seen = [], 0
    for _, some in blocks():
        taken.append(some[(-seen) % step :: step])
        seen += len(some)
    return np.concatenate(taken)


def _assigner(
    faiss: Any, quantizer: Any, lists: int, width: int
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.int32]]:
    """Return what finds the list of each descriptor: int32 (n,)."""
    graph = quantizer
    if lists >= _GRAPH_FROM:
        graph = faiss.IndexHNSWFlat(width, 16)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = 60, 32
        graph.add(quantizer.reconstruct_n(0, lists))

    def near(some: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        _, found = graph.search(numbers(some), 1)
        return np.asarray(np.maximum(found[:, 0], 0), np.int32)

    return near


def _head(faiss: ModuleType, made: Any, count: int, sizes: npt.NDArray[np.int64]) -> bytes:
    """Return what FAISS writes before the lists: of the empty index, with the numbers of a full one."""
    empty = faiss.serialize_index(made).tobytes()
    at = empty.rindex(b"ilar")
    head = bytearray(empty[: at + 4 + 16])
    head[8:16] = count.to_bytes(8, "little")  # after the name and the width: the number of vectors
    return bytes(head) + b"full" + len(sizes).to_bytes(8, "little") + sizes.astype("<u8").tobytes()
