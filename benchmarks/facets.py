"""Facets and columns of an index of a million rows: the first answer after a commit, and those after it.

    python benchmarks/facets.py [ROWS]

Prints one line a question: seconds of the first answer, milliseconds of the next ones. Of more than 50,000 rows
each answer of facets is read anew here; the web server keeps it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from clipdex import Client
from clipdex.base.records import Picture
from clipdex.index import Index, IndexWriter
from clipdex.index.facets import Facets
from clipdex.index.manifest import Manifest
from clipdex.wire import FakeTransport


def make(directory: Path, rows: int) -> None:
    """An index of that many rows in 2,000 folders, each with a caption, an author and two tags."""
    with Client(FakeTransport()) as client:
        manifest = Manifest.of(client.card, "float16", "off")
    vectors = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with IndexWriter.open_or_create(directory, manifest) as writer:
        for start in range(0, rows, 10_000):
            pictures = []
            for i in range(start, min(start + 10_000, rows)):
                said = f'{{"caption": "picture {i}", "by": "author {i % 500}", "tags": ["t{i % 30}", "u{i % 7}"]}}'
                path = b"/pictures/%04d/%07d.jpg" % (i % 2000, i)
                time_ns = 1_400_000_000_000_000_000 + i * 300_000_000_000
                pictures.append(Picture(path, 1000 + i, time_ns, b"%016d" % i, 640 + i % 9, 480, said))
            writer.append(pictures, vectors[start : start + len(pictures)])
            writer.commit()


def main() -> None:
    """Make the index, and ask."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="clipdex-facets-"))
    try:
        make(folder / "x.clipdex", rows)
        with Index.open(folder / "x.clipdex") as index:
            facets = Facets(index)
            for name, ask in {
                "columns": facets.columns,
                "folder": lambda: facets.counts("folder"),
                "modified, by month": lambda: facets.counts("modified"),
                "a metadata key": lambda: facets.counts("by"),
                "a list in metadata": lambda: facets.counts("tags"),
                "folder, of wide ones": lambda: facets.counts("folder", where="width > 644"),
            }.items():
                times, used = [], time.process_time()
                for i in range(6):
                    start = time.perf_counter()
                    ask()
                    times.append(time.perf_counter() - start)
                    used = time.process_time() - used if i == 0 else used
                print(
                    f"{name:<22} first {times[0]:6.2f} s ({used:.2f} s of processor time)   "
                    f"then {min(times[1:]) * 1e3:7.1f} ms",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
