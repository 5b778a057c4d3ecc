"""Where the time of one exact query goes: processor time of its steps, and that of reading the codes once.

    .venv-dev/bin/python benchmarks/search_budget.py [--rows 100000] [--queries 400] [--directory DIR] [--apart]

One query at a time over drawn rows × 512 (search_data.py) with int8 codes, the ten best, all threads together; the
codes are read once in between, as the floor and so that no cache helps. Then the kernel alone, where no memory
limits it, and for a query asked before how many functions of Python the asking thread calls, and the page faults.
On a busy machine the least figures count. 160 MB of disk for 100,000 rows.

A file that was found in memory is not asked about again for a second; with --apart it is before each query, as for
queries that are further apart.

Figures: docs/performance.md.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
from search_data import Drawn, bare_read

from clipdex.search import readahead, topk
from clipdex.search.int8_estimates import LoneEstimates
from clipdex.search.kernels import Int8Dots
from clipdex.search.readahead import Readahead

IN_CACHE = 2000  # rows of 512 that stay in a core's second-level cache


class Watch:
    """Adds up the processor time of calls, of whatever threads, by name."""

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, owner: object, method: str, name: str) -> None:
        act = getattr(owner, method)

        def timed(*args, **options):
            began = time.thread_time()
            try:
                return act(*args, **options)
            finally:
                with self._lock:
                    self.used[name] = self.used.get(name, 0.0) + time.thread_time() - began

        setattr(owner, method, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--directory", type=Path, help="where to draw the rows, and to keep them")
    parser.add_argument("--apart", action="store_true", help="as if the queries were more than a second apart")
    asked = parser.parse_args()
    if asked.apart:
        readahead._KNOWN_S = 0.0
    with tempfile.TemporaryDirectory() as folder:
        drawn = Drawn((asked.directory or Path(folder)) / f"{asked.rows}.clipdex", asked.rows, 512)
        assert drawn.codes is not None
        queries, read = drawn.queries(asked.queries), bare_read(drawn.codes.stored)
        calls, faults = counted(lambda: topk.top_k(drawn.vectors, queries[:1], 10, codes=drawn.codes))
        watch = Watch()
        watch.of(topk.Search, "__init__", "preparing the query")
        watch.of(Readahead, "__init__", "whether the codes are in memory")
        watch.of(LoneEstimates, "products", "products and their place")
        watch.of(Int8Dots, "single", "of that: products of codes")
        watch.of(topk.Search, "_sift", "bounds and candidates")
        watch.of(topk.Search, "_ranked", "scoring the candidates")
        found: dict[str, list[float]] = {}
        for query in queries:
            watch.used.clear()
            began = time.process_time()
            topk.top_k(drawn.vectors, query[None], 10, codes=drawn.codes)
            whole, used = time.process_time() - began, dict(watch.used)
            began = time.process_time()
            read()
            reading = time.process_time() - began
            apart = sum(seconds for name, seconds in used.items() if not name.startswith("of that"))
            used["threads, locks, arguments"] = whole - apart
            used |= {"all": whole, "all but the products of codes": whole - used["of that: products of codes"]}
            used["reading the codes once"] = reading
            for name, seconds in used.items():
                found.setdefault(name, []).append(1e3 * seconds)
        cached = drawn.codes.block(0).code[:IN_CACHE]  # type: ignore[union-attr]
        dots, words = Int8Dots(cached[:1]), cached.reshape(-1).view("int64")
        to = np.empty(IN_CACHE, np.float32)
        times = [
            (least_of(lambda: dots.single(cached, to)), least_of(lambda: np.add.reduce(words))) for _ in range(5)
        ]
    print(f"{asked.rows:,} x 512, one query, top 10, load {os.getloadavg()[0]:.1f}: ms of processor time")
    for name, each in found.items():
        quarter = statistics.quantiles(each[1:], n=4)[0]
        print(f"  {name:36} least {min(each[1:]):6.2f}, first quartile {quarter:6.2f}")

    per_row = [1e9 * min(side) / IN_CACHE for side in zip(*times, strict=True)]
    print("ns a row, of {:,} in a core's cache: products {:.1f}, reading {:.1f}".format(IN_CACHE, *per_row))
    print(f"calls of functions of Python {calls}, page faults {faults}")


def counted(act: Callable[[], object]) -> tuple[int, int]:
    """How many functions of Python this thread calls, and the process's page faults, when it is done again."""
    act()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    act()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    called: list[str] = []

    def note(frame: FrameType, event: str, what: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    act()
    sys.setprofile(None)
    return len(called), faults


def least_of(act: Callable[[], object]) -> float:
    """The least seconds of a hundred calls."""
    took = []
    for _ in range(100):
        began = time.perf_counter()
        act()
        took.append(time.perf_counter() - began)
    return min(took)


if __name__ == "__main__":
    main()
