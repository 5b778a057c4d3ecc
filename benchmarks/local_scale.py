"""Queries by local features of a small and of a large index: their time, the memory they take, and the files.

    nice python benchmarks/local_matching_pool.py --count 20000 --cache /tmp/matching-pool
    nice python benchmarks/local_scale.py --cache /tmp/matching-pool --place /tmp            # 1.2 GB of disk
    nice python benchmarks/local_scale.py --cache /tmp/matching-pool --place /tmp --rows 200000 --points 150

An index has the pool's pictures (local_matching_pool.py), each once. If it is to have more rows, further rows have
the features of the same pictures, but in the file of neighbours their descriptors are exchanged with those of
others and changed by noise, so that each has neighbours as near as real ones: good for time and memory, not for
recall. Queries are crops of the pool's pictures, and sheets of pictures that the index does not have. The index is
deleted at the end. Prints the figures of docs/local-matching.md.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matching_pictures
from local_matching_pool import MOST, SEED
from local_matching_searched import chunks
from PIL import Image

import clipdex.features.build_neighbours as building
from clipdex.features.store import FeatureStore
from clipdex.index import IndexWriter, Manifest, Picture
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import LocalFeatures, Recipe, extract, opencv

NOISE = 11.0  # of a number of a descriptor: some 125 in all, as far as a descriptor of another picture often is
OTHER_SEED = 5026


class Widened(FeatureStore):
    """A store whose rows beyond the pool's own have other descriptors than it has."""

    own = 0

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        noise = np.rint(rng.normal(0, NOISE, (20_011, 128))).astype(np.int16)
        for rows, descriptors in super().blocks():
            rng = np.random.default_rng(rows[0])
            later = np.flatnonzero(rows >= self.own)
            if len(later):
                taken = descriptors[rng.permutation(later)] + noise[rng.integers(0, len(noise), len(later))]
                descriptors = descriptors.copy()
                descriptors[later] = np.clip(taken, 0, 255)
            yield rows, descriptors


def make(place: Path, cache: Path, rows: int, most: int) -> list[int]:
    """Make an index with features and neighbours, and print the size of its files -> the pictures it has."""
    keys: list[bytes] = []
    numbers: list[int] = []
    sizes: list[tuple[int, int]] = []
    directory = place / "x.clipdex"
    with IndexWriter.open_or_create(directory, Manifest("f" * 64, "drawn", 8)) as writer:
        with closing(FeatureFile.open_or_make(directory, Recipe(most=MOST))) as file:
            for first, some in chunks(cache, SEED):
                if len(keys) >= rows:
                    break
                made = {b"%016d" % (first + k): cut(each.features, most) for k, each in enumerate(some)}
                file.add(made)
                keys += made
                numbers += range(first, first + len(some))
                sizes += [each.size for each in made.values()]
        pool = len(keys)
        pictures = [Picture(b"/p/%d.jpg" % k, 1, 1, keys[k % pool], *sizes[k % pool]) for k in range(rows)]
        vectors = np.zeros((rows, 8), np.float32)
        vectors[:, 0] = 1
        for start in range(0, rows, 20_000):
            writer.append(pictures[start : start + 20_000], vectors[start : start + 20_000])
    Widened.own = pool
    vars(building)["FeatureStore"] = Widened
    began, worked = time.perf_counter(), time.process_time()
    built = building.build_neighbours(directory)
    taken, cpu = time.perf_counter() - began, time.process_time() - worked
    features = (directory / "features.sqlite").stat().st_size
    print(
        f"{rows:,} rows, {built.descriptors:,} descriptors ({built.descriptors / rows:.0f} each); features.sqlite "
        f"{features / pool:,.0f} bytes for each of {pool:,} pictures; features.neighbours "
        f"{built.file_bytes / rows:,.0f} bytes a row, {built.file_bytes / built.descriptors:.1f} a descriptor, "
        f"{built.file_bytes / 1e6:,.0f} MB, built in {taken:,.0f} s ({cpu:,.0f} s of a core), "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return numbers[:rows]


def cut(features: LocalFeatures, most: int) -> LocalFeatures:
    """Keep the first points."""
    return LocalFeatures(
        features.points[:most],
        features.scales[:most],
        features.angles[:most],
        features.descriptors[:most],
        features.size,
    )


def queries(count: int, numbers: list[int]) -> dict[str, list[LocalFeatures]]:
    """Features of parts of pictures that are there, and of large pictures that are not."""
    parts, sheets = [], []
    change = matching_pictures.TRANSFORMS["crop 50 %, turned ≤ 30°"]
    for k in range(count):
        rng = np.random.default_rng([SEED, k])
        parts.append(extract(change(matching_pictures.drawn(SEED, int(rng.choice(numbers))), rng), most=MOST))
        sheet = Image.new("RGB", (1000, 750))
        for n in range(9):
            image = matching_pictures.drawn(OTHER_SEED, 9 * k + n).resize((333, 250), Image.Resampling.BICUBIC)
            sheet.paste(image, (333 * (n % 3), 250 * (n // 3)))
        sheets.append(extract(sheet))
    return {"crops of 50 %, turned": parts, "sheets that are not there": sheets}


ASK = """
import pickle, statistics, sys, time
from clipdex.features import Matcher
from clipdex.index import Index
from clipdex.looks.local_features import opencv
opencv().estimateAffine2D
def memory():
    names = "VmHWM", "RssAnon", "RssFile"
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1e3 for name in names]
asked = pickle.load(open(sys.argv[2], "rb"))
before = memory()[1]
with Index.open(sys.argv[1]) as index:
    t = time.perf_counter()
    with Matcher(index) as matcher:
        opened = time.perf_counter() - t
        assert not matcher.faults and not matcher.exact, matcher.faults
        for what, queries in asked.items():
            for turn in ("first", "second"):
                took, cpu, found = [], [], 0
                for each in queries:
                    t, c = time.perf_counter(), time.process_time()
                    found += bool(matcher.match(each, 5))
                    took.append(time.perf_counter() - t); cpu.append(time.process_time() - c)
                took.sort()
                points = statistics.mean(map(len, queries))
                print(f"  {what} ({points:.0f} points), {turn} time: p50 {1e3 * statistics.median(took):.0f} ms, "
                      f"p95 {1e3 * took[int(0.95 * len(took))]:.0f} ms; {1e3 * statistics.median(cpu):.0f} ms of "
                      f"a core; {found} of {len(queries)} have an answer")
        peak, own, mapped = memory()
        print(f"  opened in {1e3 * opened:.0f} ms; memory of its own {own:.0f} MB, {own - before:.0f} MB of it "
              f"since it was opened; mapped files {mapped:.0f} MB", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of local_matching_pool.py")
    parser.add_argument("--place", type=Path, required=True, help="a folder for the index, which is deleted")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=MOST, help="the most of a picture")
    parser.add_argument("--queries", type=int, default=50)
    asked = parser.parse_args()
    opencv().setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=asked.place) as made:
        place = Path(made)
        numbers = make(place, asked.cache, asked.rows, asked.points)
        (place / "asked").write_bytes(pickle.dumps(queries(asked.queries, numbers)))
        subprocess.run([sys.executable, "-c", ASK, str(place / "x.clipdex"), str(place / "asked")], check=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
