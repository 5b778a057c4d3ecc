"""What `clipdex features build --side` costs, and what it finds: pictures of 2,000 pixels and parts of them.

    nice python benchmarks/local_sides.py                       # extras features and export (scikit-image)
    nice python benchmarks/local_sides.py --folder photographs  # with one's own photographs

The pictures are pages, desktops and walls drawn at 2,000 pixels, sheets of small drawn pictures, and the
photographs of scikit-image, enlarged to that. Queries are parts of them, turned, scaled and compressed; they are
looked for among all of them. Both are made with the same `--side`. Seconds are processor time of one core. Prints
a table of docs/local-features.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matching_pictures
from matching_pictures import Transform, chain, compressed, cropped, scaled, turned
from PIL import Image

from clipdex.features.matching import matches
from clipdex.features.neighbours import POINTS_A_ROW, Exact
from clipdex.looks.local_features import LocalFeatures, extract, opencv

SIDE = 2000
SIDES = (512, 640, 768, 1024)
SEED = 2026

QUERIES: dict[str, Transform] = {
    "crop 80 %, JPEG 50": chain(cropped(0.8), compressed(50)),
    "crop 50 %, turned ≤ 30°": chain(cropped(0.5), turned(30)),
    "crop 20 %, turned ≤ 30°": chain(cropped(0.2), turned(30)),
    "crop 15 %, turned 10°, halved, JPEG 50": chain(cropped(0.15), turned(10, True), scaled(0.5), compressed(50)),
    "crop 10 %": cropped(0.1),
    "crop 5 %": cropped(0.05),
    "scaled to 0.25": scaled(0.25),
    "scaled to 2": scaled(2),
    "scaled to 0.1, JPEG 50": chain(scaled(0.1), compressed(50)),
    "printed and photographed": matching_pictures.printed,
}

Extract = Callable[[Image.Image], LocalFeatures]


class Kept:
    """The features of the pictures, in memory."""

    def __init__(self, features: list[LocalFeatures]) -> None:
        self._features = features
        ids = [np.arange(len(each)) + row * POINTS_A_ROW for row, each in enumerate(features)]
        self.neighbours = Exact([(np.concatenate(ids), np.concatenate([each.descriptors for each in features]))])

    def of(self, row: int) -> LocalFeatures:
        return self._features[row]


def fitted(image: Image.Image) -> Image.Image:
    """Make the longer side 2,000 pixels."""
    scale = SIDE / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def sheet(seed: int, n: int) -> Image.Image:
    """6 × 6 small drawn pictures."""
    made = Image.new("RGB", (2000, 1500))
    for k in range(36):
        image = matching_pictures.drawn(seed, 36 * n + k).resize((333, 250), Image.Resampling.BICUBIC)
        made.paste(image, (333 * (k % 6), 250 * (k // 6)))
    return made


def pictures(seed: int, each: int) -> list[Image.Image]:
    """Draw so many of each kind."""
    made = []
    for kind in (matching_pictures._set_page, matching_pictures._desktop, matching_pictures._wall):
        for n in range(each):
            shared, own = np.random.default_rng([seed, 3, n // 4]), np.random.default_rng([seed, 4, n])
            made.append(kind(shared, own, (2000, 1500)))
    return made + [sheet(seed, n) for n in range(each)]


def measure(images: list[Image.Image], ways: dict[str, Extract], seed: int) -> None:
    """Print recall of each way by query, and what it costs: the ways in turn, with the same load beside them."""
    seconds: dict[str, list[float]] = defaultdict(list)
    right, wrong, inliers = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
    held: dict[str, list[LocalFeatures]] = {way: [] for way in ways}
    for image in images:
        for way, made in ways.items():
            began = time.process_time()
            held[way].append(made(image))
            seconds[way].append(time.process_time() - began)
    kept = {way: Kept(held[way]) for way in ways}
    for row, image in enumerate(images):
        rng = np.random.default_rng([seed, row])
        for name, change in QUERIES.items():
            query = change(image, rng)
            for way, made in ways.items():
                found = matches(kept[way].neighbours, kept[way], made(query), 1)
                right[name, way] += bool(found) and found[0].row == row
                wrong[way] += bool(found) and found[0].row != row
                inliers[way] += found[0].fit.inliers if found and found[0].row == row else 0
        print(f"  {row + 1} of {len(images)}", file=sys.stderr, flush=True)
    print(f"{len(images)} pictures, OpenCV {opencv().__version__}")
    print("| | " + " | ".join(ways) + " |")
    print("|---|" + "---|" * len(ways))
    print("| ms | " + " | ".join(f"{1e3 * statistics.mean(seconds[way]):.0f}" for way in ways) + " |")
    points = {way: statistics.mean(map(len, held[way])) for way in ways}
    print("| points | " + " | ".join(f"{points[way]:.0f}" for way in ways) + " |")
    for name in QUERIES:
        print(f"| {name} | " + " | ".join(f"{right[name, way] / len(images):.3f}" for way in ways) + " |")
    every = {way: sum(right[name, way] for name in QUERIES) for way in ways}
    print("| all | " + " | ".join(f"{every[way] / len(images) / len(QUERIES):.3f}" for way in ways) + " |")
    print("| wrong | " + " | ".join(str(wrong[way]) for way in ways) + " |")
    print("| points that agree | " + " | ".join(f"{inliers[way] / max(1, every[way]):.0f}" for way in ways) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=8, help="drawn pictures of each of four kinds (8)")
    parser.add_argument("--folder", type=Path, help="of photographs, in place of those of scikit-image")
    parser.add_argument("--no-photographs", action="store_true", help="only drawn pictures")
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    opencv().setNumThreads(1)
    images = pictures(asked.seed, asked.each)
    if asked.folder is not None:
        images += [fitted(Image.open(path)) for path in sorted(asked.folder.iterdir())]
    elif not asked.no_photographs:
        images += [fitted(each) for each in matching_pictures.photographs()]

    def at(side: int) -> Extract:
        return lambda image: extract(image, side=side)

    measure(images, {f"{side}": at(side) for side in SIDES}, asked.seed)


if __name__ == "__main__":
    main()
