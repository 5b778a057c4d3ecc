"""Concurrent searches of a collection that share scans, beside one scan for each and beside the bare engine.

    .venv-dev/bin/python benchmarks/collection_search.py [--rows N] [--dim D] [--seconds S] [--rounds R]

1, 8 and 50 threads search a million drawn rows (int8 side file, in the page cache) for the best twenty, each as
soon as its last search is answered. Sides take turns; medians of the rounds. The bare engine is `Index.search`,
one query after another, and 64 at a time. "One scan each" is what the collection did before searches shared scans.
Then the same for 8 threads with one filter, and with four. Needs 2 GB of disk. Figures: docs/performance.md.
"""

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filters import write
from rounds import where as machine

import clipdex
from clipdex.collection import scanning

TOP = 20
BATCH = 64


def rate(threads: int, seconds: float, search: Callable[[int], object]) -> tuple[float, list[float]]:
    """Let threads search for some time -> (searches a second, the seconds that each took)."""
    took: list[float] = []
    numbers = itertools.count()
    start = time.perf_counter()

    def work() -> None:
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            search(next(numbers))
            took.append(time.perf_counter() - began)

    working = [threading.Thread(target=work) for _ in range(threads)]
    for each in working:
        each.start()
    for each in working:
        each.join()
    return len(took) / (time.perf_counter() - start), took


class OneEach(scanning.Scans):
    """No search shares a scan, or waits for another."""

    def search(self, wanted):
        with self._reading() as index:
            vector, excluded = wanted.vector(index)
            rest = {"where": wanted.where, "params": wanted.params, "exclude": excluded}
            return index.search(vector, **rest, **wanted.options)[0]
        yield


def kernels() -> str:
    """The library of the kernels, and what it can use of this processor."""
    try:
        import numkong
    except ImportError:
        return "no NumKong"
    can = [name for name, has in numkong.get_capabilities().items() if has]
    return f"NumKong {version('numkong')}: {', '.join(can)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a side in a round (4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--index", type=Path, help="an index that this script wrote before")
    parser.add_argument("--directory", type=Path)
    asked = parser.parse_args()
    print(f"{machine()}; numpy {np.__version__}, {kernels()}")
    with tempfile.TemporaryDirectory(dir=asked.directory) as made:
        path = asked.index or Path(made) / "x.clipdex"
        if not path.exists():
            write(path, asked.rows, asked.dim)
            clipdex.index.optimize_index(path)
        measure(path, asked.seconds, asked.rounds)


def measure(path: Path, seconds: float, rounds: int) -> None:
    rng = np.random.default_rng(1)
    with clipdex.Index.open(path) as index, clipdex.Collection.open(path, read_only=True) as pictures:
        queries = rng.standard_normal((4096, index.manifest.embedding_dim), dtype=np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        shared, one_each = pictures._core.scans, OneEach(pictures._core.reading, pictures._core.still)
        filters = [f"width > {i}" for i in range(5000, 5008)]
        print(f"{len(index):,} rows × {queries.shape[1]}, top {TOP}, {rounds} rounds of {seconds:g} s a side")

        def collection(scans: scanning.Scans, conditions: int = 0) -> Callable[[int], object]:
            def search(i: int) -> object:
                pictures._core.scans = scans
                where = filters[i % conditions] if conditions else None
                return pictures.search(vector=queries[i % len(queries)], top_k=TOP, where=where)

            return search

        def batch(i: int) -> object:
            first = BATCH * i % len(queries)
            return index.search(queries[first : first + BATCH], TOP)

        sides: dict[str, tuple[int, int, Callable[[int], object]]] = {
            "Index.search, one at a time": (1, 1, lambda i: index.search(queries[i % len(queries)], TOP)),
            "Index.search, 64 at a time": (1, BATCH, batch),
        }
        for threads in (1, 8, 50):
            sides[f"one scan each, {threads} threads"] = (threads, 1, collection(one_each))
            sides[f"shared scans, {threads} threads"] = (threads, 1, collection(shared))
        for conditions, title in ((1, "one filter"), (4, "four filters")):
            sides[f"one scan each, 8 threads, {title}"] = (8, 1, collection(one_each, conditions))
            sides[f"shared scans, 8 threads, {title}"] = (8, 1, collection(shared, conditions))
        rates: dict[str, list[float]] = {name: [] for name in sides}
        took: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(-1, rounds):  # the first turn warms up
            for name, (threads, each, search) in sides.items():
                found, times = rate(threads, seconds if turn >= 0 else 1, search)
                if turn >= 0:
                    rates[name].append(found * each)
                    took[name] += times
    show(rates, took)


def show(rates: dict[str, list[float]], took: dict[str, list[float]]) -> None:
    """Medians; ratios are medians of the rounds' own."""
    bare = list(rates)[:2]
    print(f"\n{'':38} searches/s   p50      p99      of one at a time   of 64 at a time")
    for name, found in rates.items():
        p50, p99 = np.percentile(took[name], (50, 99)) * 1e3
        ratios = [statistics.median(a / b for a, b in zip(found, rates[side], strict=True)) for side in bare]
        print(
            f"{name:38} {statistics.median(found):8.1f} {p50:8.1f} ms {p99:7.1f} ms "
            f"{ratios[0]:10.2f} {ratios[1]:17.2f}"
        )


if __name__ == "__main__":
    main()
