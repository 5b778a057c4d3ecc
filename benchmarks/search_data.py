"""Indexes drawn straight to disk for the search benchmarks, and how their figures are taken."""

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
from text_like import TextLike

from clipdex.index import Manifest, optimize_index
from clipdex.index.checksum import record_crc32c
from clipdex.index.create import create_index
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.schema import connect
from clipdex.index.side.int8_file import Int8File
from clipdex.index.vectors import map_vectors
from clipdex.search.spans import cores, spans_of, work_through

AT_ONCE = 50_000


class Drawn:
    """Rows, their codes if they were made, and queries that are none of the rows.

    Rows lie in a cone, as the vectors of CLIP do: a mean that all have in common, of which one number is a third
    of the length, and numbers that vary unlike each other. Queries lie in another cone, as those of texts do.
    """

    def __init__(
        self, directory: Path, rows: int, dim: int, dtype: str = "float16", optimize: bool = True
    ) -> None:
        self.directory, self.dim = directory, dim
        rng = np.random.default_rng(dim)
        self._mean = 0.6 * _unit(rng.standard_normal(dim, dtype=np.float32))
        self._mean[dim // 3] = 0.35
        self._spread = rng.uniform(0.3, 1.7, dim).astype(np.float32) * np.float32(0.75 / np.sqrt(dim))
        self._other = 0.5 * _unit(rng.standard_normal(dim, dtype=np.float32))
        if not directory.exists():
            self._write(rows, dtype)
        manifest = Manifest.read(directory)
        store = RowStore.open(directory / ROWS_FILE, write=False)
        extents = store.extents()
        store.close()
        self.vectors = map_vectors(directory, manifest, rows)
        self.seconds_to_optimize = 0.0
        self.codes = None
        if optimize:
            began = time.perf_counter()
            optimize_index(directory)
            self.seconds_to_optimize = time.perf_counter() - began
            self.codes = Int8File.require(directory, manifest, extents)

    def _write(self, rows: int, dtype: str) -> None:
        create_index(self.directory, Manifest("f" * 64, "drawn", self.dim, dtype))
        manifest = Manifest.read(self.directory)
        db = connect(self.directory / ROWS_FILE, write=True)
        rng = np.random.default_rng(0)
        with (self.directory / manifest.vectors_file).open("wb") as file:
            for first in range(0, rows, AT_ONCE):
                count = min(AT_ONCE, rows - first)
                data = self._rows(count, rng).astype(manifest.numpy_dtype).tobytes()
                file.write(data)
                extent = (first, count, google_crc32c.value(data), 0)
                db.execute("INSERT INTO extents VALUES (?, ?, ?, ?, ?)", (*extent, record_crc32c(*extent)))
        db.commit()
        db.close()

    def _rows(self, count: int, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.standard_normal((count, self.dim), dtype=np.float32) * self._spread + self._mean
        return _unit(drawn)

    def queries(self, count: int, seed: int = 1) -> np.ndarray:
        """float32 (count, D), of norm 1."""
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal((count, self.dim), dtype=np.float32) * self._spread + self._other
        return _unit(drawn)


class DrawnTexts(Drawn):
    """Rows and queries of text_like.py: groups of very different sizes, and texts that lie apart from them."""

    def __init__(self, directory: Path, rows: int, dim: int) -> None:
        self._like = TextLike(dim)
        super().__init__(directory, rows, dim)

    def _rows(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return self._like.pictures(count, int(rng.integers(1 << 31)))

    def queries(self, count: int, seed: int = 1) -> np.ndarray:
        """float32 (count, D), of norm 1."""
        return self._like.texts(count, seed)


class PeakMemory:
    """The most memory of its own, that no file stands behind, which this process had within a `with` block.

    A thread looks every two milliseconds. `base` is what it had before, `peak` the most, in bytes.
    """

    def __enter__(self) -> "PeakMemory":
        self.base = self.peak = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous())

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """Bytes of memory that no file stands behind."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def bare_read(array: np.ndarray) -> Callable[[], object]:
    """Read all bytes of an array with all cores, and do as little with them as can be done."""
    raw = array.reshape(-1).view(np.uint8)
    words = raw[: len(raw) // 8 * 8].view(np.int64)
    step = 1 << 21  # words

    def read(span) -> None:
        np.add.reduce(words[span.first : span.end])

    return lambda: work_through(spans_of(0, len(words), step, 1 << 62), read, cores())


def alternating(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each side took in each round, after one that does not count."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, act in sides.items():
            began = time.perf_counter()
            act()
            if turn:
                took[name].append(time.perf_counter() - began)
    return took


def show(took: dict[str, list[float]], ours: str = "clipdex") -> None:
    """Medians, and how our side stands beside each other one: the median of the rounds' ratios."""
    for name, times in took.items():
        ratio = statistics.median(other / our for other, our in zip(times, took[ours], strict=True))
        beside = "" if name == ours else f"   {ratio:.2f} of ours"
        print(f"  {name:34} {1e3 * statistics.median(times):9.1f} ms{beside}", flush=True)
