"""What `clipdex duplicates --kind local` finds of crops, collages and other copies of drawn pictures.

    nice python benchmarks/local_duplicates.py --count 1000
    nice python benchmarks/local_duplicates.py --count 4000 --growth

Of every fourth picture drawn (matching_pictures.py) there is one copy, by each transform in turn, and of every
fortieth a collage with three others. A group is right if each duplicate is a copy of its keeper or the other way
round, or both are copies of one picture. With --growth, it also prints how long a quarter and half of them take.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from matching_pictures import TRANSFORMS, collage, drawn

import clipdex
from clipdex.apps.duplicates import Duplicates, find_duplicates
from clipdex.features import geometry, matching
from clipdex.features.build_neighbours import build_neighbours
from clipdex.index import Index
from clipdex.index.side.feature_file import FeatureFile
from clipdex.pipeline.build_features import build_features
from clipdex.testing import FakeTransport

SEED = 2028
COPIES = (
    "crop 50 %",
    "crop 20 %",
    "crop 50 %, turned ≤ 30°",
    "turned 90°",
    "scaled to 0.5",
    "JPEG 30",
    "mirrored",
)


def draw(folder: Path, count: int) -> tuple[dict[str, set[int]], dict[str, str]]:
    """Draw pictures and copies -> by name, the pictures that each shows; the transform of each copy."""
    shows: dict[str, set[int]] = {}
    how: dict[str, str] = {}

    def save(image, name: str, of: set[int], transform: str = "") -> None:
        image.save(folder / name, quality=90)
        shows[name] = of
        if transform:
            how[name] = transform

    rng = np.random.default_rng(SEED)
    for n in range(count):
        image = drawn(SEED, n)
        save(image, f"{n:06}.jpg", {n})
        if n % 4 == 1:
            transform = COPIES[n // 4 % len(COPIES)]
            save(TRANSFORMS[transform](image, rng), f"{n:06}-copy.jpg", {n}, transform)
        if n % 40 == 0 and n + 30 < count:
            four = [n, n + 10, n + 20, n + 30]
            save(collage([drawn(SEED, each) for each in four]), f"{n:06}-four.jpg", set(four), "collage of four")
    return shows, how


def grown(path: Path, shows: dict[str, set[int]], count: int, share: float) -> None:
    """Print how long it takes of the first `share` of the pictures drawn, with the features that they have."""
    place = path.with_name("part")
    some = [name for name, of in shows.items() if max(of) < share * count]
    folder = place / "pictures"
    folder.mkdir(parents=True)
    for name in some:
        os.link(path.parent / "pictures" / name, folder / name)
    clipdex.index_pictures(clipdex.Client(FakeTransport()), folder, place / "x.clipdex", workers=1)
    with Index.open(place / "x.clipdex") as index:
        contents = [content for _, content, *_ in index.contents(0, len(index.vectors))]
    whole = FeatureFile.open(path)
    assert whole is not None
    with closing(whole), closing(FeatureFile.open_or_make(place / "x.clipdex", whole.recipe)) as part:
        for start in range(0, len(contents), 100):
            part.add(whole.several(contents[start : start + 100]))
    build_neighbours(place / "x.clipdex")
    seconds, cpu, _ = timed(place / "x.clipdex")
    a_picture = f"{1e3 * cpu / len(some):.0f} ms of a core a picture"
    print(f"of {len(some):,} pictures: {seconds:.0f} s, {a_picture}; {load()}", flush=True)
    shutil.rmtree(place)


def load() -> str:
    return f"load {os.getloadavg()[0]:.0f}"


def timed(path: Path) -> tuple[float, float, Duplicates]:
    """Find the duplicates of an index -> seconds, seconds of a core, and what was found."""
    began, worked = time.perf_counter(), time.process_time()
    with Index.open(path) as index:
        found = find_duplicates(index, "local")
    return time.perf_counter() - began, time.process_time() - worked, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--growth", action="store_true", help="also of a quarter and of half of the pictures")
    asked = parser.parse_args()
    compared = 0
    plain = geometry.fit

    def counting(*given, **options):
        nonlocal compared
        compared += 1
        return plain(*given, **options)

    setattr(matching, "fit", counting)  # noqa: B010
    with tempfile.TemporaryDirectory() as place:
        folder, path = Path(place) / "pictures", Path(place) / "x.clipdex"
        folder.mkdir()
        shows, how = draw(folder, asked.count)
        clipdex.index_pictures(clipdex.Client(FakeTransport()), folder, path, workers=1)
        build_features(path, workers=1)
        build_neighbours(path)
        for share in (0.25, 0.5) if asked.growth else ():
            grown(path, shows, asked.count, share)
        compared, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, cpu, found = timed(path)
    pictures = len(shows)
    together: dict[str, set[str]] = {}
    wrong = []
    for group in found.groups:
        names = [Path(each.path).name for each in (group.keeper, *group.others)]
        wrong += [(names[0], name) for name in names[1:] if not shows[names[0]] & shows[name]]
        together |= {name: set(names) for name in names}
    right, of = Counter[str](), Counter[str]()
    for name, transform in how.items():
        for n in shows[name]:
            of[transform] += 1
            right[transform] += bool({f"{n:06}.jpg"} & together.get(name, set()))
    print(f"{pictures:,} pictures, {len(found.groups)} groups, {sum(map(len, found.groups))} pictures in them")
    for transform in (*COPIES, "collage of four"):
        print(f"  {transform:28} {right[transform]:4} of {of[transform]:4} are in the group of their original")
    print(f"{len(wrong)} duplicates that show nothing of their keeper: {wrong[:10]}")
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{seconds:.0f} s, {cpu:.0f} s of a core: {1e3 * cpu / pictures:.0f} ms a picture; "
        f"{compared / pictures:.1f} comparisons a picture; {memory:.0f} MB more memory; {load()}"
    )


if __name__ == "__main__":
    main()
