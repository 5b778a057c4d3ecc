"""A search among the 1 % of a million rows that a condition keeps, beside one among all of them.

    .venv-dev/bin/python benchmarks/filters.py [--rows N] [--dim D] [--directory DIR]

One query and 64 at once, the best ten, of drawn unit vectors in float16; first without, then with the int8 side
file. All sides take turns; medians. "First time" has SQLite evaluate the condition; later searches of the same
snapshot remember what it kept. Files are in the page cache. Needs about 2 GB of disk at the defaults. Figures:
docs/performance.md.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import clipdex

ROUNDS = 7
BATCH = 64
COMMIT_ROWS = 100_000

# Each keeps 1 % of the rows.
CONDITIONS = {
    "a number": "width > 9900",
    "a time": "modified >= '2020-12-28 08:09:36'",
    "a path": "path GLOB '/photos/42/*'",
    "metadata": "meta ->> 'camera' = 7",
}


def write(path: Path, rows: int, dim: int) -> None:
    """Row i: camera and folder by i % 100, width and time by a permutation of the row numbers."""
    began = time.monotonic()
    rng = np.random.default_rng(0)
    places = rng.permutation(rows)
    year_2020_ns, span_ns = 1_577_836_800 * 10**9, 366 * 86_400 * 10**9
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
                        f'{{"camera":{i % 100}}}',
                    )
                    for i, place in zip(range(start, start + count), places[start : start + count], strict=True)
                ],
                vectors,
            )
            writer.commit()
    print(f"{rows:,} rows written in {time.monotonic() - began:.0f} s", file=sys.stderr)


def seconds(index: clipdex.Index, queries: np.ndarray, **options: Any) -> float:
    began = time.perf_counter()
    assert [len(hits) for hits in index.search(queries, 10, **options)] == [10] * len(queries)
    return time.perf_counter() - began


def measure(path: Path, title: str, count: int) -> None:
    with clipdex.Index.open(path) as index:
        rng = np.random.default_rng(1)
        times: dict[str, list[float]] = {}
        kept = {}
        for turn in range(-1, ROUNDS):  # the first turn warms up
            queries = rng.standard_normal((count, index.manifest.embedding_dim), dtype=np.float32)
            queries /= np.linalg.norm(queries, axis=1, keepdims=True)
            found = {"all rows": seconds(index, queries)}
            for name, condition in CONDITIONS.items():
                index.refresh()  # forgets what conditions kept
                found[f"{name}: first time"] = seconds(index, queries, where=condition)
                found[f"{name}: again"] = seconds(index, queries, where=condition)
                kept[name] = len(index.where(condition)) / len(index)
            for name, value in found.items():
                if turn >= 0:
                    times.setdefault(name, []).append(value)
    median = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    print(f"\n{title}, {count} at once: all rows {median['all rows']:.1f} ms")
    print(f"{'condition':<12} {'kept':>6} {'again':>10} {'of all':>7} {'first time':>11} {'of all':>7}")
    for name in CONDITIONS:
        again, first = median[f"{name}: again"], median[f"{name}: first time"]
        print(
            f"{name:<12} {kept[name]:>6.1%} {again:>7.1f} ms {again / median['all rows']:>7.2f} "
            f"{first:>8.1f} ms {first / median['all rows']:>7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "x.clipdex"
        write(path, options.rows, options.dim)
        print(f"{options.rows:,} rows × {options.dim}, the best ten; medians of {ROUNDS}, in turn")
        for count in (1, BATCH):
            measure(path, "float16", count)
        clipdex.index.optimize_index(path)
        for count in (1, BATCH):
            measure(path, "with the int8 side file", count)


if __name__ == "__main__":
    main()
