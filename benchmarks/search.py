"""Exact search beside faiss.IndexFlatIP and beside the memory's bandwidth; growth with the number of rows.

    .venv-dev/bin/python benchmarks/search.py [check|one|batch|float16|growth ...] [--directory DIR]

Everything runs in one process of `.venv-peers`, where faiss is installed; sides alternate, medians of all rounds.
numpy and faiss each have an OpenBLAS of their own; --coretype NAME sets OPENBLAS_CORETYPE for both. Needs 4 GB of
disk and 5 of memory, `one` 6 of disk; growth needs 17 GB of disk. Figures: docs/performance.md.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import PEERS, peers_python
from search_data import Drawn, DrawnTexts, PeakMemory, alternating, bare_read, show

from clipdex.search.estimates import RowNorms
from clipdex.search.spans import cores
from clipdex.search.topk import top_k

K = 10
MILLION = 1_000_000


def check(base: Path) -> None:
    """The answers are faiss's, but for what float32 cannot tell apart."""
    drawn = Drawn(base / "512.clipdex", MILLION, 512)
    index, queries = flat(drawn), drawn.queries(200, seed=9)
    scores, _ = index.search(queries, K)
    worst = 0.0
    for answers in (top_k(drawn.vectors, queries, K, codes=drawn.codes), top_k(drawn.vectors, queries, K)):
        worst = max(worst, *(float(abs(a.scores - s).max()) for a, s in zip(answers, scores, strict=True)))
    print(f"200 queries: no score differs from faiss's by more than {worst:.1e}")
    assert worst < 1e-6


def one(base: Path) -> None:
    """One query over a million rows."""
    drawn = Drawn(base / "512.clipdex", MILLION, 512)
    index = flat(drawn)
    queries = itertools.cycle(drawn.queries(200)[:, None])
    some = np.random.default_rng(2).random(MILLION) < 0.01
    print(f"1,000,000 x 512, one query, top {K}, exact")
    norms = RowNorms()
    assert drawn.codes is not None
    ours = {
        "clipdex": lambda: top_k(drawn.vectors, next(queries), K, codes=drawn.codes),
        "bare read of the int8 codes": bare_read(drawn.codes.stored),
    }
    faiss = {"faiss.IndexFlatIP (float32)": lambda: index.search(next(queries), K)}
    other = {
        "clipdex without side file": lambda: top_k(drawn.vectors, next(queries), K, norms=norms),
        "bare read of the float16 rows": bare_read(drawn.vectors),
        "clipdex, a filter that keeps 1 %": lambda: top_k(
            drawn.vectors, next(queries), K, codes=drawn.codes, allowed=some
        ),
    }
    show(alternating(ours | faiss | other, 41))
    like = DrawnTexts(base / "512-texts.clipdex", MILLION, 512)
    texts, norms = itertools.cycle(like.queries(200)[:, None]), RowNorms()
    print("the same for rows in groups of very different sizes, and texts that lie apart from them (text_like.py)")
    assert like.codes is not None
    sides = {
        "clipdex": lambda: top_k(like.vectors, next(texts), K, codes=like.codes),
        "bare read of the int8 codes": bare_read(like.codes.stored),
        "clipdex without side file": lambda: top_k(like.vectors, next(texts), K, norms=norms),
        "bare read of the float16 rows": bare_read(like.vectors),
    }
    show(alternating(sides, 41))


def batch(base: Path) -> None:
    """64 and 1,000 queries."""
    drawn = Drawn(base / "512.clipdex", MILLION, 512)
    index = flat(drawn)
    norms = RowNorms()
    for count, rounds in ((64, 9), (1000, 5)):
        queries = drawn.queries(count)
        print(f"1,000,000 x 512, {count} queries at once, top {K}, exact")

        def ours(queries=queries):
            return top_k(drawn.vectors, queries, K, codes=drawn.codes)

        def without(queries=queries):
            return top_k(drawn.vectors, queries, K, norms=norms)

        def theirs(queries=queries):
            return index.search(queries, K)

        sides = {"clipdex": ours, "faiss.IndexFlatIP (float32)": theirs}
        show(alternating(sides | ({"clipdex without side file": without} if count == 64 else {}), rounds))


def float16(base: Path) -> None:
    """float16 rows without the side file."""
    drawn = Drawn(base / "768.clipdex", MILLION, 768, optimize=False)
    queries = itertools.cycle(drawn.queries(200)[:, None])
    norms = RowNorms()
    print(f"1,000,000 x 768 float16 without side file, one query, top {K}, exact")
    sides = {
        "clipdex": lambda: top_k(drawn.vectors, next(queries), K, norms=norms),
        "bare read of the float16 rows": bare_read(drawn.vectors),
        "clipdex, the first search": lambda: top_k(drawn.vectors, next(queries), K),
    }
    show(alternating(sides, 21))


def growth(base: Path) -> None:
    """Time and memory at 10⁵, 10⁶ and 10⁷ rows, each in a process of its own, which has drawn nothing."""
    for rows in (100_000, MILLION, 10 * MILLION):
        directory = base / ("512.clipdex" if rows == MILLION else f"512-{rows}.clipdex")
        drawn = Drawn(directory, rows, 512)
        print(
            f"{rows:,} x 512, one query, top {K}"
            + (f"; {drawn.seconds_to_optimize:.1f} s to optimize" if drawn.seconds_to_optimize > 1 else ""),
            flush=True,
        )
        subprocess.run([sys.executable, __file__, "--size", str(rows), "--directory", directory], check=True)


def one_size(directory: Path, rows: int) -> None:
    """What `growth` measures, in its child."""
    drawn = Drawn(directory, rows, 512)
    queries = itertools.cycle(drawn.queries(50)[:, None])

    def ours():
        return top_k(drawn.vectors, next(queries), K, codes=drawn.codes)

    assert drawn.codes is not None
    with PeakMemory() as memory:
        ours()
        took = alternating({"clipdex": ours, "bare read of the int8 codes": bare_read(drawn.codes.stored)}, 11)
    show(took)
    grown = memory.peak - memory.base
    print(
        f"  own memory at most {memory.peak / 1e6:.0f} MB, {grown / 1e6:.1f} MB more than before the first search"
    )


def flat(drawn: Drawn):
    """The same rows in a faiss.IndexFlatIP."""
    import faiss

    index = faiss.IndexFlatIP(drawn.dim)
    for first in range(0, len(drawn.vectors), 100_000):
        index.add(drawn.vectors[first : first + 100_000].astype(np.float32))
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {part.__name__: part for part in (check, one, batch, float16, growth)}
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="PART")
    parser.add_argument("--directory", type=Path, help="where to draw the vectors, and to keep them")
    parser.add_argument("--coretype")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if sys.prefix != str(PEERS):
        python = peers_python("faiss-cpu==1.15.1", "numkong==7.8.6")
        setting = {"OPENBLAS_CORETYPE": options.coretype} if options.coretype else {}
        raise SystemExit(subprocess.run([python, *sys.argv], env=os.environ | setting).returncode)
    if options.size:
        one_size(options.directory, options.size)
        return
    blas = os.environ.get("OPENBLAS_CORETYPE", "not set")
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{cores()} cores, {load}, numpy {np.__version__}, OPENBLAS_CORETYPE {blas}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for part in options.parts or parts:
            began = time.monotonic()
            parts[part](options.directory or Path(directory))
            print(f"  ({part}: {time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
