"""Approximate search beside the exact one: recall@10, time and memory, for texts and for pictures.

The vectors are drawn (text_like.py). What `clipdex ann build` builds by default is measured, and then other
efforts.

    python benchmarks/ann.py --rows 1000000 --directory /tmp/ann
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path

import google_crc32c
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from text_like import TextLike

from clipdex.ann import AnnIndex, build_ann
from clipdex.index import Index, Manifest, optimize_index
from clipdex.index.checksum import record_crc32c
from clipdex.index.create import create_index
from clipdex.index.rows import ROWS_FILE
from clipdex.index.schema import connect
from clipdex.search.estimates import RowNorms
from clipdex.search.topk import top_k

DIM, AT_ONCE, QUERIES = 512, 50_000, 400


def write(directory: Path, rows: int, drawn: TextLike) -> None:
    """An index of drawn pictures; nothing but the vectors and the commit record is looked at here."""
    create_index(directory, Manifest("f" * 64, "drawn", DIM))
    db = connect(directory / ROWS_FILE, write=True)
    with (directory / "vectors.f16").open("wb") as file:
        for first in range(0, rows, AT_ONCE):
            count = min(AT_ONCE, rows - first)
            data = drawn.pictures(count, first).astype("<f2").tobytes()
            file.write(data)
            extent = (first, count, google_crc32c.value(data), 0)
            db.execute("INSERT INTO extents VALUES (?, ?, ?, ?, ?)", (*extent, record_crc32c(*extent)))
    db.close()


def measure(index: Index, queries: np.ndarray, exact: list, ann: AnnIndex, effort: int) -> tuple[float, float]:
    """-> recall@10, median milliseconds a query, one query at a time."""
    ann.effort = effort
    shares, times = [], []
    for query, best in zip(queries, exact, strict=True):
        began = time.perf_counter()
        (found,) = ann.rank(index.vectors, query[None], 10)
        times.append(time.perf_counter() - began)
        shares.append(len(np.intersect1d(found.rows, best)) / 10)
    return statistics.fmean(shares), 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, required=True, help="where the index is drawn, and left")
    parser.add_argument("--kinds", default="hnsw,ivf_pq")
    given = parser.parse_args()
    drawn = TextLike(DIM)
    directory = given.directory / f"{given.rows}.clipdex"
    if not directory.exists():
        given.directory.mkdir(parents=True, exist_ok=True)
        write(directory, given.rows, drawn)
    optimize_index(directory)  # the exact search beside it is the one that users have
    sets = {"texts": drawn.texts(QUERIES), "pictures": drawn.pictures(QUERIES, given.rows + 1)}
    for kind in given.kinds.split(","):
        built = build_ann(directory, kind, queries=drawn.texts(200, seed=1), source="texts drawn")
        recall = built.header.recall
        assert recall is not None
        print(f"{kind}, {given.rows:,} × {DIM} float16, {built.header.parameters}")
        print(f"  built in {built.seconds:,.0f} s, {built.file_bytes / 1e6:,.0f} MB")
        print(
            f"  as it reports itself: recall@10 {recall.recall_at_10:.3f} with {recall.queries} {recall.source}, "
            f"{recall.ms:.2f} ms a query, exact {recall.exact_ms:.2f} ms",
            flush=True,
        )
        kept = directory.parent / f"{kind}.ann"
        shutil.copyfile(directory / "vectors.ann", kept)
        with Index.open(directory) as index:
            began = time.perf_counter()
            ann, codes = AnnIndex.open(index), index.codes()
            print(f"  loaded in {time.perf_counter() - began:.1f} s")
            efforts = (32, 64, 128, 256, 512) if kind == "hnsw" else (16, 64, 256, 1024)
            for name, queries in sets.items():
                exact, times, norms = [], [], RowNorms()
                for query in queries:
                    began = time.perf_counter()
                    (found,) = top_k(index.vectors, query[None], 10, codes=codes, norms=norms)
                    times.append(time.perf_counter() - began)
                    exact.append(found.rows)
                tenth = statistics.fmean(
                    float(query @ index.vectors[best[9]]) for query, best in zip(queries, exact, strict=True)
                )
                print(f"  {name}: the tenth-best has a cosine of {tenth:.2f}")
                print(f"  {name}: exact {1e3 * statistics.median(times):.2f} ms a query")
                for effort in efforts:
                    share, ms = measure(index, queries, exact, ann, effort)
                    default = "  (default)" if effort == built.header.parameters["effort"] else ""
                    print(f"    effort {effort:5}  recall@10 {share:.3f}  {ms:.2f} ms{default}", flush=True)


if __name__ == "__main__":
    main()
