"""Local features: pictures a second to make them, bytes a picture, and reading them at two sizes of an index.

    python benchmarks/local_features.py                     # needs the extras features and export (scikit-image)
    python benchmarks/local_features.py --rows 2000,20000   # 1.4 GB of disk

The pictures are scikit-image's photographs, enlarged to 2,000 pixels and saved as JPEG. Speed is by processor time
of one core, so that other work on the machine does not count. Prints the tables of docs/local-features.md.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

import clipdex
from clipdex.index import IndexWriter, Manifest, Picture
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import LocalFeatures, Recipe, extract, opencv
from clipdex.model.images import open_image
from clipdex.pipeline.build_features import build_features
from clipdex.wire import FakeTransport

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "immunohistochemistry", "retina")
RECIPES = [Recipe("sift", 500, side) for side in (512, 640, 768, 1024)] + [Recipe("orb", 500, 1024)]
SIDE = 2000
ROUNDS = 3


def photographs() -> list[bytes]:
    """JPEGs of photographs, the longer side 2,000 pixels."""
    from skimage import data

    found = []
    for name in PHOTOGRAPHS:
        image = Image.fromarray(getattr(data, name)()).convert("RGB")
        factor = SIDE / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def one_core(jpegs: list[bytes]) -> None:
    """Print the speed of each recipe: the recipes in turn, so that all have the same load beside them."""
    cv2 = opencv()
    cv2.setNumThreads(1)
    seconds: dict[Recipe, list[float]] = {recipe: [] for recipe in RECIPES}
    decoding: list[float] = []
    points: dict[Recipe, list[int]] = {recipe: [] for recipe in RECIPES}
    for _ in range(ROUNDS):
        for jpeg in jpegs:
            for recipe in RECIPES:
                began = time.process_time()
                image = open_image(jpeg, least_side=2 * recipe.side)
                decoded = time.process_time()
                found = extract(image, kind=recipe.kind, most=recipe.most, side=recipe.side)
                ended = time.process_time()
                decoding.append(decoded - began)
                seconds[recipe].append(ended - began)
                points[recipe].append(len(found))
    print(f"OpenCV {cv2.__version__}, one core, {len(jpegs)} photographs of {SIDE} pixels, {ROUNDS} rounds")
    print(f"decoding alone: {statistics.mean(decoding) * 1e3:.0f} ms")
    print("| kind | side | pictures/s a core | ms | points | bytes a picture |")
    print("|---|---|---|---|---|---|")
    for recipe in RECIPES:
        mean, held = statistics.mean(seconds[recipe]), statistics.mean(points[recipe])
        size = held * (16 + recipe.width)
        print(f"| {recipe.kind} | {recipe.side} | {1 / mean:.1f} | {mean * 1e3:.0f} | {held:.0f} | {size:,.0f} |")


def children() -> list[int]:
    """The ids of the processes that this one has started."""
    return [
        int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    ]


def peak(pid: int) -> float:
    """The most memory that a process has had, in MB; 0 if it has ended. Unlike ru_maxrss, not its parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")), 0.0)


def whole_build(jpegs: list[bytes], copies: int, workers: int) -> None:
    """Print the speed of a build with worker processes, and what the side file has."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "p"
        folder.mkdir()
        for i in range(copies):
            for j, jpeg in enumerate(jpegs):
                (folder / f"{i}-{j}.jpg").write_bytes(jpeg + bytes([i]))  # another content, the same picture
        with clipdex.Client(FakeTransport()) as client:
            clipdex.index_pictures(client, folder, Path(made) / "x.clipdex", workers=workers)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        largest = 0.0

        def look(*_: int) -> None:
            nonlocal largest
            largest = max([largest, *map(peak, children())])

        done = build_features(Path(made) / "x.clipdex", workers=workers, progress=look)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"build: {done.made} pictures in {done.seconds:.0f} s with {workers} workers, {done.made / busy:.1f} "
            "pictures a second of processor time with decoding, hashing and starting them, "
            f"{done.file_bytes / done.made:,.0f} bytes a picture; a worker takes at most "
            f"{largest:.0f} MB"
        )


def drawn(directory: Path, rows: int) -> None:
    """Make an index of so many rows, each with 500 drawn points."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = [rng.bytes(16) for _ in range(rows)]
    with IndexWriter.open_or_create(directory, Manifest("f" * 64, "drawn", 8)) as writer:
        writer.append([Picture(b"/p/%d.jpg" % i, 1, 1, key, 1024, 768) for i, key in enumerate(keys)], vectors)
    floats = rng.uniform(0, 1000, (500, 4)).astype(np.float32)
    with closing(FeatureFile.open_or_make(directory, Recipe())) as file:
        for start in range(0, rows, 200):
            file.add(
                {
                    key: LocalFeatures(
                        floats[:, :2],
                        floats[:, 2],
                        floats[:, 3],
                        rng.integers(0, 256, (500, 128), dtype=np.uint8),
                        (1024, 768),
                    )
                    for key in keys[start : start + 200]
                }
            )


READ = """
import statistics, sys, time
import numpy as np
from clipdex.features.store import FeatureStore
from clipdex.index import Index
def peak():  # not ru_maxrss, which goes on from the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1e3
with Index.open(sys.argv[1]) as index:
    t = time.perf_counter(); store = FeatureStore.open(index); opened = time.perf_counter() - t
    c = time.process_time(); rows = store.rows; listed = time.process_time() - c
    lone = []
    for row in np.random.default_rng(1).choice(rows, 300):
        t = time.perf_counter(); store.of(row); lone.append(time.perf_counter() - t)
    before, t, c = peak(), time.perf_counter(), time.process_time()
    total = sum(len(each) for _, each in store.blocks())
    took, busy = time.perf_counter() - t, time.process_time() - c
    print(f"| {len(rows):,} | {opened * 1e3:.1f} | {listed * 1e3:.0f} | {statistics.median(lone) * 1e3:.2f} | "
          f"{len(rows) / busy:,.0f} | {peak() - before:.0f} |")
"""


def reading(sizes: list[int]) -> None:
    """Print the times of a store, at each number of rows."""
    print(
        "| rows | open, ms | `rows`, ms of a core | `of` p50, ms | `blocks`, pictures/s a core | its memory, MB |"
    )
    print("|---|---|---|---|---|---|")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as made:
            drawn(Path(made) / "x.clipdex", rows)
            subprocess.run([sys.executable, "-c", READ, str(Path(made) / "x.clipdex")], check=True)
            size = (Path(made) / "x.clipdex" / "features.sqlite").stat().st_size
            print(f"  {size / rows:,.0f} bytes a picture of 500 points", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="2000,8000", help="of the indexes that are read (2000,8000)")
    parser.add_argument("--copies", type=int, default=5, help="of each photograph in the build (5)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-extraction", action="store_true", help="neither the build nor the reading")
    parser.add_argument("--no-extraction", action="store_true", help="only the build and the reading")
    asked = parser.parse_args()
    jpegs = photographs()
    print(f"load {os.getloadavg()[0]:.1f}")
    if not asked.no_extraction:
        one_core(jpegs)
    if asked.only_extraction:
        return
    whole_build(jpegs, asked.copies, asked.workers)
    reading([int(each) for each in asked.rows.split(",")])
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
