"""What benchmarks/local_matching.py searches: the pool, its descriptors in lists, and what the other methods know.

Not a script: local_matching_pool.py makes the pool.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import matching_pictures
import numpy as np
from local_matching_pool import Described, describe, unpacked

from clipdex.features.build_neighbours import write_lists
from clipdex.features.neighbours import POINTS_A_ROW, PROBES, import_faiss
from clipdex.features.pairs import numbers
from clipdex.looks.compare import MIN_SIMILARITY, similarities
from clipdex.looks.frequencies import Looks
from clipdex.looks.local_features import LocalFeatures
from clipdex.looks.signature import PHASH_BYTES

__all__ = ["Lists", "Others", "Pool", "chunks"]

_AT_ONCE = 500


class Pool:
    """The features of all pictures in one mapped file, and what the other methods know of them in memory."""

    def __init__(self, folder: Path, place: Path, seed: int) -> None:
        self.seed = seed
        self.numbers_drawn: list[int] = []
        counts: list[int] = []
        sizes: list[tuple[int, int]] = []
        signatures: list[bytes] = []
        vectors: list[np.ndarray] = []
        points, descriptors = open(place / "points", "wb"), open(place / "descriptors", "wb")  # noqa: SIM115
        with points, descriptors:
            for some, drawn in self._parts(folder):
                self.numbers_drawn += drawn
                for each in some:
                    f = each.features
                    counts.append(len(f))
                    sizes.append(f.size)
                    signatures.append(each.signature)
                    vectors.append(each.vector)
                    points.write(np.column_stack([f.points, f.scales, f.angles]).astype("<f4").tobytes())
                    descriptors.write(f.descriptors.tobytes())
        self.counts, self.sizes = np.array(counts), sizes
        self.ends = np.cumsum(counts)
        self.points = np.memmap(place / "points", "<f4", "r").reshape(-1, 4)
        self.descriptors = np.memmap(place / "descriptors", np.uint8, "r").reshape(-1, 128)
        self.signatures = b"".join(signatures)
        self.vectors = np.array(vectors)

    def _parts(self, folder: Path) -> Iterator[tuple[list[Described], list[int]]]:
        """The photographs, as number -1, -2, ..., then the drawn ones."""
        # In a process of its own: the model does not survive the fork of workers.
        with multiprocessing.get_context("spawn").Pool(1) as own:
            photographs = own.apply(describe, (matching_pictures.photographs(),))
        yield photographs, [-1 - k for k in range(len(photographs))]
        for first, some in chunks(folder, self.seed):
            yield some, list(range(first, first + len(some)))

    def __len__(self) -> int:
        return len(self.counts)

    def of(self, row: int) -> LocalFeatures:
        part = slice(self.ends[row] - self.counts[row], self.ends[row])
        table = np.array(self.points[part])
        return LocalFeatures(
            table[:, :2], table[:, 2], table[:, 3], np.array(self.descriptors[part]), self.sizes[row]
        )

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(self)))
            ids = np.concatenate([np.arange(self.counts[row]) + row * POINTS_A_ROW for row in rows])
            yield ids, np.asarray(self.descriptors[self.ends[start] - self.counts[start] : self.ends[rows[-1]]])


class Lists:
    """The pool's descriptors in an inverted file on disk, as an index has it."""

    def __init__(self, pool: Pool, path: Path) -> None:
        faiss = import_faiss()
        began, worked = time.perf_counter(), time.process_time()
        with open(path, "w+b") as file:
            _, self.bytes, self.count, self.lists = write_lists(
                faiss, file.fileno(), pool.blocks, int(pool.counts.sum())
            )
        self.seconds, self.cpu = time.perf_counter() - began, time.process_time() - worked
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        self._parameters = faiss.SearchParametersIVF(nprobe=PROBES)

    def search(self, descriptors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._index.search(numbers(descriptors), k, params=self._parameters)
        return found


class Others:
    """CLIP, the signature and pHash: the first row of each, and how sure it is."""

    def __init__(self, pool: Pool) -> None:
        self.vectors = pool.vectors
        self.looks = Looks.of(pool.signatures, np.array(pool.sizes))
        table = np.frombuffer(pool.signatures, np.uint8).reshape(len(pool), -1)
        self.hashes = np.unpackbits(table[:, :PHASH_BYTES], axis=1)
        self.pool = pool

    def first(self, query: Described) -> dict[str, tuple[int, bool]]:
        """The first row of each method, and whether its own threshold accepts it."""
        cosines = self.vectors @ query.vector
        both = Looks.of(self.pool.signatures + query.signature, np.array([*self.pool.sizes, query.features.size]))
        n = len(self.pool)
        alike = similarities(both, np.arange(n), np.full(n, n), 2.0)
        bits = np.unpackbits(np.frombuffer(query.signature[:PHASH_BYTES], np.uint8))
        far = (self.hashes != bits).sum(axis=1)
        return {
            "CLIP": (int(cosines.argmax()), bool(cosines.max() >= 0.95)),
            "signature": (int(alike.argmax()), bool(alike.max() >= MIN_SIMILARITY)),
            "pHash": (int(far.argmin()), bool(far.min() <= 10)),
        }


def chunks(folder: Path, seed: int) -> Iterator[tuple[int, list[Described]]]:
    """The drawn pictures of a seed, some at a time, with the number of the first."""
    for path in sorted(folder.glob(f"{seed}-*.npz")):
        with np.load(path) as held:
            some = unpacked(held)
        yield int(path.stem.rsplit("-", 1)[1]) * len(some), some
