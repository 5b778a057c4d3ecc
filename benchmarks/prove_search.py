"""Certified answers are exact: 20,000 random and adversarial queries, against the true sum of every row.

    .venv-dev/bin/python benchmarks/prove_search.py [QUERIES]      (make prove-search)

Near ties, copies, zero rows, one dominant dimension, clusters, all rows equal, exact ties, rows of 10⁻⁴⁰ and 10³⁸,
rows that are not finite; float16 and float32; with codes, without, with codes of some rows, with damaged blocks;
tombstones, filters and least scores; NumKong's kernels and NumPy's. The same rows in the same order, or status 1.
"""

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from search_cases import drawn_case, small_pieces, wrong

from clipdex.search import kernels

QUERIES = 20_000


class Setter:
    """As pytest's monkeypatch, for good."""

    setattr = staticmethod(setattr)


def prove(name: str, queries: int, first_seed: int) -> list[str]:
    """Ask so many queries -> what was wrong."""
    asked: Counter[str] = Counter()
    found, seed, began = [], first_seed, time.monotonic()
    while asked.total() < queries:
        case = drawn_case(seed, queries=(1, 4, 20)[seed % 3], rows=400 if seed % 50 else 6000)
        asked[case.kind] += len(case.queries)
        if what := wrong(case):
            found.append(f"{name}, seed {seed}: {what}")
        seed += 1
    print(f"{name}: {asked.total():,} queries in {time.monotonic() - began:.0f} s, {len(found)} wrong", flush=True)
    print("  " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(asked.items())))
    return found


def main() -> None:
    queries = int(sys.argv[1]) if len(sys.argv) > 1 else QUERIES
    found = []
    libraries = ["NumPy"] if kernels._numkong() is None else ["NumKong", "NumPy"]
    for pieces in ("whole", "small pieces"):
        if pieces == "small pieces":
            small_pieces(Setter)
        for i, library in enumerate(libraries):
            if library == "NumPy":
                sys.modules["numkong"] = None
            else:
                sys.modules.pop("numkong", None)
            kernels._numkong.cache_clear()
            seed = 1_000_000 * (1 + i + 2 * (pieces == "whole"))
            found += prove(f"{library}, {pieces}", queries // (2 * len(libraries)), seed)
    for what in found:
        print(what)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
