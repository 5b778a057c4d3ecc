"""Certified answers are exact: 20,000 random and adversarial queries, against the true sum of every row.

    .venv-dev/bin/python benchmarks/prove_search.py [QUERIES]      (make prove-search)

Near ties, copies, zero rows, one dominant dimension, clusters, all rows equal, exact ties, rows of 10⁻⁴⁰ and 10³⁸,
rows that are not finite; float16 and float32; up to 1,500 wide; 1 to 70 queries at once; with codes in memory or
in the file that `optimize` writes, without, with codes of some rows, with damaged blocks; tombstones, filters and
least scores; NumKong's kernels and NumPy's. The same rows in the same order, or status 1.
"""

import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from search_cases import MANY, WIDE, Case, drawn_case, on_disk, small_pieces, wrong

from clipdex.index.side import int8_file as int8
from clipdex.search import kernels

QUERIES = 20_000


class Setter:
    """As pytest's monkeypatch, for good."""

    setattr = staticmethod(setattr)


def narrow(seed: int, folder: Path) -> Case:
    return drawn_case(seed, queries=(1, 4, 20)[seed % 3], rows=400 if seed % 50 else 6000)


def many(seed: int, folder: Path) -> Case:
    """More queries than are multiplied at once."""
    return drawn_case(seed, queries=MANY)


def wide(seed: int, folder: Path) -> Case:
    return drawn_case(seed, queries=(1, 4, MANY)[seed % 3], rows=80, dims=WIDE)


def stored(seed: int, folder: Path) -> Case:
    """Codes in a file, now and then in several blocks."""
    if seed % 10:
        case = drawn_case(seed, queries=(1, 4, MANY)[seed % 3], rows=200, dims=(33, 96, 512))
    else:
        case = drawn_case(seed, queries=4, rows=6000, fewest=4200)
    return on_disk(case, folder / "x.clipdex", damaged=seed % 5 == 0)


# How cases are drawn, and for which part of the queries.
STRATA = {narrow: 0.7, many: 0.1, wide: 0.1, stored: 0.1}


def prove(name: str, queries: int, first_seed: int) -> list[str]:
    """Ask so many queries -> what was wrong."""
    asked: Counter[str] = Counter()
    found, seed, began = [], first_seed, time.monotonic()
    for draw, share in STRATA.items():
        goal = asked.total() + share * queries
        while asked.total() < goal:
            with tempfile.TemporaryDirectory() as folder:
                case = draw(seed, Path(folder))
                asked[case.kind] += len(case.queries)
                if what := wrong(case):
                    found.append(f"{name}, {draw.__name__}, seed {seed}: {what}")
            seed += 1
    print(f"{name}: {asked.total():,} queries in {time.monotonic() - began:.0f} s, {len(found)} wrong", flush=True)
    print("  " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(asked.items())))
    return found


def main() -> None:
    queries = int(sys.argv[1]) if len(sys.argv) > 1 else QUERIES
    int8.BLOCK_ROWS = 2048  # type: ignore[attr-defined]
    logging.getLogger("clipdex").setLevel(logging.ERROR)  # of the blocks that were damaged on purpose
    found = []
    libraries = ["NumPy"] if kernels._numkong() is None else ["NumKong", "NumPy"]
    for pieces in ("whole", "small pieces"):
        if pieces == "small pieces":
            small_pieces(Setter)
        for i, library in enumerate(libraries):
            if library == "NumPy":
                sys.modules["numkong"] = None  # type: ignore[assignment]  # as where it is not installed
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
