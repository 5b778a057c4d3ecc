"""A search among the 1 % of a million rows that a condition keeps, beside one among all of them.

    .venv-dev/bin/python benchmarks/filters.py [--rows N] [--dim D] [--counts 1 64] [--directory DIR]

One query and 64 at once (`--counts`), the best ten, of drawn unit vectors in float16; first without, then with
the side files of `clipdex optimize`. All sides take turns; medians, by the clock and of the processor. "SQLite"
and "columns": a condition asked first, without and with `rows.columns`. "Again": later searches of the same
snapshot remember what it kept. Files are in the page cache. Needs 2 GB of disk. Figures: docs/performance.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

import clipdex
from clipdex.base.exif import Exif
from clipdex.index.facets import Facets
from clipdex.index.side.column_file import COLUMNS_FILE

ROUNDS = 7
BATCH = 64
COMMIT_ROWS = 100_000
YEAR_2020, SPAN_S = datetime(2020, 1, 1), 366 * 86_400

# Each keeps 1 % of the rows.
CONDITIONS = {
    "a number": "width > 9900",
    "a time": "modified >= '2020-12-28 08:09:36'",
    "taken": "taken >= '2020-12-28T08:09:36'",
    "a path": "path GLOB '/photos/42/*'",
    "its part": "path LIKE '%S/42/%'",
    "a camera": "camera = 'Model 7'",
    "a place": "near(45, 10, 5.56)",
    "metadata": "meta ->> 'album' = 7",
}


def write(path: Path, rows: int, dim: int) -> None:
    """Row i: camera, album and folder by i % 100; width, time and place by a permutation of the row numbers."""
    began = time.monotonic()
    rng = np.random.default_rng(0)
    places = rng.permutation(rows)
    year_2020_ns, span_ns = 1_577_836_800 * 10**9, SPAN_S * 10**9
    with clipdex.IndexWriter.open_or_create(path, clipdex.Manifest("f" * 64, "drawn", dim)) as writer:
        for start in range(0, rows, COMMIT_ROWS):
            count = min(COMMIT_ROWS, rows - start)
            vectors = rng.standard_normal((count, dim), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            writer.append(
                [
                    clipdex.Picture(
                        b"/photos/%02d/IMG_%07d.jpg" % (i % 100, i),
                        2_000_000,
                        year_2020_ns + int(place) * span_ns // rows,
                        i.to_bytes(16, "big"),
                        int(place) * 10_000 // rows,
                        3000,
                        f'{{"album":{i % 100}}}',
                        exif=Exif(
                            taken=(YEAR_2020 + timedelta(seconds=int(place) * SPAN_S // rows)).isoformat(),
                            camera=f"Model {i % 100}",
                            latitude=40 + 10 * int(place) / rows,
                            longitude=10.0,
                        ),
                    )
                    for i, place in zip(range(start, start + count), places[start : start + count], strict=True)
                ],
                vectors,
            )
            writer.commit()
    print(f"{rows:,} rows written in {time.monotonic() - began:.0f} s", file=sys.stderr)


def seconds(index: clipdex.Index, queries: np.ndarray, **options: Any) -> tuple[float, float]:
    """By the clock, and of the processor."""
    began, used = time.perf_counter(), time.process_time()
    assert [len(hits) for hits in index.search(queries, 10, **options)] == [10] * len(queries)
    return time.perf_counter() - began, time.process_time() - used


@contextmanager
def without_columns(path: Path) -> Iterator[None]:
    """Hide the columns."""
    hidden = path / "hidden"
    (path / COLUMNS_FILE).rename(hidden)
    try:
        yield
    finally:
        hidden.rename(path / COLUMNS_FILE)


def measure(path: Path, title: str, count: int) -> None:
    optimized = (path / COLUMNS_FILE).exists()
    with clipdex.Index.open(path) as index:
        rng = np.random.default_rng(1)
        times: dict[str, list[tuple[float, float]]] = {}
        kept = {}
        for turn in range(-1, ROUNDS):  # the first turn warms up
            queries = rng.standard_normal((count, index.manifest.embedding_dim), dtype=np.float32)
            queries /= np.linalg.norm(queries, axis=1, keepdims=True)
            found = {"all rows": seconds(index, queries)}
            for name, condition in CONDITIONS.items():
                with without_columns(path) if optimized else nullcontext():
                    index.refresh()  # forgets what conditions kept
                    found[f"{name}: SQLite"] = seconds(index, queries, where=condition)
                found[f"{name}: again"] = seconds(index, queries, where=condition)
                kept[name] = len(index.where(condition)) / len(index)
                if optimized:
                    index.refresh()
                    found[f"{name}: columns"] = seconds(index, queries, where=condition)
            for name, value in found.items():
                if turn >= 0:
                    times.setdefault(name, []).append(value)
    middle = {
        name: [1e3 * statistics.median(side) for side in zip(*values, strict=True)]
        for name, values in times.items()
    }
    every, load = middle["all rows"], os.getloadavg()[0]
    print(f"\n{title}, {count} at once: all rows {every[0]:.1f} ms ({every[1]:.1f}), load {load:.1f}")
    print(
        f"{'condition':<12} {'kept':>6} {'':<8} {'by the clock':>13} {'of all':>7} {'processor':>13} {'of all':>7}"
    )
    for name in CONDITIONS:
        for side in ("again", "SQLite", "columns"):
            if (one := middle.get(f"{name}: {side}")) is not None:
                print(
                    f"{name:<12} {kept[name]:>6.1%} {side:<8} {one[0]:>10.1f} ms {one[0] / every[0]:>7.2f} "
                    f"{one[1]:>10.1f} ms {one[1] / every[1]:>7.2f}"
                )


def describe(path: Path) -> None:
    """Time what `/v1/columns` of the web server reads: the kind and the range of each column."""
    times: dict[str, list[tuple[float, float]]] = {"SQLite": [], "columns": []}
    for _ in range(ROUNDS):
        for side, found in times.items():
            with without_columns(path) if side == "SQLite" else nullcontext(), clipdex.Index.open(path) as index:
                began, used = time.perf_counter(), time.process_time()
                Facets(index).columns()
                found.append((time.perf_counter() - began, time.process_time() - used))
    for side, found in times.items():
        clock, processor = (1e3 * statistics.median(each) for each in zip(*found, strict=True))
        print(f"describing the columns, {side}: {clock:.0f} ms, processor {processor:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, BATCH], metavar="N")
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "x.clipdex"
        write(path, options.rows, options.dim)
        print(f"{options.rows:,} rows × {options.dim}, the best ten; medians of {ROUNDS}, in turn")
        for count in options.counts:
            measure(path, "float16", count)
        done = clipdex.index.optimize_index(path)
        print(f"\n{COLUMNS_FILE}: {done.column_bytes / options.rows:.1f} bytes a row")
        for count in options.counts:
            measure(path, "optimized", count)
        describe(path)


if __name__ == "__main__":
    main()
