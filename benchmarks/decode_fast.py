"""What `--decode fast` saves, and what it changes: core time of a run over 12-megapixel JPEGs, cosines, recall@10.

    .venv-dev/bin/python benchmarks/decode_fast.py [FOLDER ...] [--pictures N] [--rounds N]

FOLDER: photographs as JPEG, which are taken as they are; scikit-image's are added. Each is also cut into tiles of
its own pixels, so that there are enough for a ranking. The model is the demo model, in process.

Speed: of each real JPEG of 9 megapixels or more, decoded and resized; and of whole runs over a folder of N JPEGs
of 4,000 × 3,000, both ways in turn, in core time of this process and its workers, less that of a run over one
picture. Those are scikit-image's photographs enlarged, with grain, so that they have a camera's bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "client"))

import clipdex
from clipdex.model.card import ImageSpec
from clipdex.model.images import center_crop, open_for_model
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.pipeline.worker_process import worker_environment

WAYS: tuple[DecodeUse, ...] = ("exact", "fast")
CLIP = ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (0, 0, 0), (0.5,) * 3, (0.5,) * 3)
SHIPPED = (
    "astronaut",
    "brick",
    "cat",
    "coffee",
    "grass",
    "gravel",
    "hubble_deep_field",
    "motorcycle",
    "rocket",
    "retina",
)
TILE = 512
K = 10
WORDS = (
    "a dog",
    "a red circle",
    "the sea",
    "a flower",
    "a night sky",
    "a person",
    "a blue square",
    "a road",
    "grass",
    "text",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if (environment := worker_environment(os.environ)) != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    print(f"load {os.getloadavg()[0]:.1f} at the start")
    with (
        tempfile.TemporaryDirectory() as place,
        clipdex.connect("inproc:model_repository", model="demo") as client,
    ):
        whole, tiles = Path(place) / "whole", Path(place) / "tiles"
        write_photographs(options.folders, whole, tiles)
        one_by_one(sorted(whole.iterdir()))
        fidelity(client, whole, tiles, Path(place))
        speed(client, options.pictures, options.rounds, Path(place))
    print(f"load {os.getloadavg()[0]:.1f} at the end")


# The photographs


def photographs(folders: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the JPEG of each."""
    import skimage.data

    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file() and not path.is_symlink():
                yield path.stem, path.read_bytes()
    for name in SHIPPED:
        try:
            made = getattr(skimage.data, {"cat": "cat", "motorcycle": "stereo_motorcycle"}.get(name, name))()
        except Exception as exc:  # not shipped, and not to be downloaded
            print(f"{name}: left out: {type(exc).__name__}", file=sys.stderr)
            continue
        yield name, jpeg(Image.fromarray(made[0] if isinstance(made, tuple) else made).convert("RGB"))


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def write_photographs(folders: list[Path], whole: Path, tiles: Path) -> None:
    """Write each photograph, and its tiles of TILE to 2 TILE pixels a side."""
    whole.mkdir()
    tiles.mkdir()
    for name, data in photographs(folders):
        (whole / f"{name}.jpg").write_bytes(data)
        image = Image.open(io.BytesIO(data)).convert("RGB")
        columns, rows = (min(4, max(1, side // TILE)) for side in image.size)
        width, height = image.width // columns, image.height // rows
        for n in range(columns * rows):
            left, top = n % columns * width, n // columns * height
            tile = image.crop((left, top, left + width, top + height))
            if np.asarray(tile.convert("L").resize((64, 64))).std() > 12:  # not a piece of empty sky
                (tiles / f"{name} {n}.jpg").write_bytes(jpeg(tile))


# What it changes


def fidelity(client: clipdex.Client, whole: Path, tiles: Path, place: Path) -> None:
    for what, folder in (("photographs", whole), ("tiles of them", tiles)):
        files = sorted(folder.iterdir())
        reduced = [path for path in files if is_reduced(path, client.card.image)]
        exact, fast = (client.embed_images(reduced, decode=way) for way in WAYS)
        cosines = (np.asarray(exact, float) * np.asarray(fast, float)).sum(1)
        print(
            f"{what}: {len(files)}, {len(reduced)} of them reduced for {client.card.image.size} pixels; cosine: "
            f"least {cosines.min():.4f} ({reduced[int(cosines.argmin())].stem}), mean {cosines.mean():.4f}, "
            f"tenth of all {np.quantile(cosines, 0.1):.4f}"
        )
        far = [pixels_apart(path) for path in files if is_reduced(path, CLIP)]
        if far:
            print(
                f"  at 224 pixels {len(far)} are reduced: pixels differ by {statistics.mean(far):.2f} of 255, "
                f"at most {max(far):.2f}, a picture's mean"
            )
    indexes: dict[str, Path] = {}
    for way in WAYS:
        indexes[way] = place / f"{way}.clipdex"
        clipdex.index_pictures(client, tiles, indexes[way], decode=way)
    recall(client, sorted(tiles.iterdir()), indexes)


def is_reduced(path: Path, spec: ImageSpec) -> bool:
    return open_for_model(path, spec, PictureRules(decode="fast")).box is not None


def pixels_apart(path: Path) -> float:
    one, other = (
        center_crop(open_for_model(path, CLIP, PictureRules(decode=way)).resized(CLIP), CLIP).astype(float)
        for way in WAYS
    )
    return float(np.abs(one - other).mean())


def recall(client: clipdex.Client, files: list[Path], indexes: dict[str, Path]) -> None:
    """Compare the ten best of the fast index with the exact one's, for every tile and some words as the query."""
    queries = {way: np.asarray(client.embed_images(files, decode=way)) for way in WAYS}
    words = np.asarray(client.embed_texts(WORDS))
    truth = ranked(indexes["exact"], queries["exact"])
    print(f"recall@{K} over {len(files)} pictures, of the exact index asked with exact pictures:")
    for way in WAYS:
        found = ranked(indexes["fast"], queries[way])
        itself = np.mean([path.name in names[:1] for path, names in zip(files, found, strict=True)])
        print(
            f"  the fast index asked with {way} pictures: {overlap(truth, found):.4f}; "
            f"the picture itself first {itself:.4f}"
        )
    found = ranked(indexes["fast"], words)
    print(f"  the fast index asked with {len(WORDS)} texts: {overlap(ranked(indexes['exact'], words), found):.4f}")


def ranked(index: Path, queries: np.ndarray) -> list[list[str]]:
    with clipdex.Index.open(index) as opened:
        return [[Path(hit.path).name for hit in hits] for hits in opened.search(queries, K)]


def overlap(truth: list[list[str]], found: list[list[str]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(truth, found, strict=True)]))


# What it saves


def one_by_one(files: list[Path]) -> None:
    """Decode and resize each large JPEG for 224 pixels, both ways in turn."""
    print("core ms of real JPEGs of 9 megapixels or more, decoded, resized to 224 pixels:")
    totals = dict.fromkeys(WAYS, 0.0)
    for path in files:
        with Image.open(path) as image:
            size, progressive = image.size, bool(image.info.get("progressive"))
        if size[0] * size[1] < 9_000_000:
            continue
        data = path.read_bytes()
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(3):
            for way in WAYS:
                began = time.process_time()
                opened = open_for_model(data, CLIP, PictureRules(decode=way))
                center_crop(opened.resized(CLIP), CLIP)
                took[way].append(time.process_time() - began)
        exact, fast = (statistics.median(took[way]) * 1e3 for way in WAYS)
        totals["exact"] += exact
        totals["fast"] += fast
        kind = "progressive" if progressive else "baseline"
        print(
            f"  {size[0]} × {size[1]}, {len(data) / 1e6:.1f} MB, {kind}: {exact:.0f} and {fast:.0f}, "
            f"{exact / fast:.2f} ×  ({path.stem})"
        )


def speed(client: clipdex.Client, pictures: int, rounds: int, place: Path) -> None:
    """Index a folder both ways in turn; the demo model takes pixels of 64, and a fake one pixels of 224."""
    from clipdex.wire import FakeTransport

    many, one = place / "many", place / "one"
    draw(many, pictures)
    one.mkdir()
    shutil.copy(next(many.iterdir()), one)
    megabytes = sum(path.stat().st_size for path in many.iterdir()) / pictures / 1e6
    print(f"{pictures} JPEGs of 4000 × 3000, {megabytes:.1f} MB each, to a committed index, core ms a picture:")
    print(f"  of which {pieces(next(many.iterdir()).read_bytes())}")
    with clipdex.Client(FakeTransport(image_size=224, embedding_dim=512)) as fake:
        for name, to in (("224 pixels, no model", fake), ("64 pixels, the demo model", client)):
            cost: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(rounds):
                for way in WAYS if turn % 2 else WAYS[::-1]:
                    more = core_s(to, many, place, way) - core_s(to, one, place, way)
                    cost[way].append(more / (pictures - 1) * 1e3)
            ratios = [exact / fast for exact, fast in zip(cost["exact"], cost["fast"], strict=True)]
            print(
                f"  {name}: exact {statistics.median(cost['exact']):.1f}, "
                f"fast {statistics.median(cost['fast']):.1f}; {statistics.median(ratios):.2f} × "
                f"({min(ratios):.2f}–{max(ratios):.2f})"
            )


def pieces(data: bytes) -> str:
    """Say what cannot be saved of a large JPEG: the hash of its bytes, and unpacking them at a reduced size."""

    def unpack(part: int) -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (image.width // part, image.height // part))
            image.load()

    def ms(work: Callable[[], object]) -> float:
        took = []
        for _ in range(9):
            began = time.process_time()
            work()
            took.append(time.process_time() - began)
        return statistics.median(took) * 1e3

    reduced = ", ".join(f"1/{part} {ms(lambda part=part: unpack(part)):.0f}" for part in (1, 2, 4, 8))  # type: ignore[misc]
    return f"the hash {ms(lambda: hashlib.blake2b(data, digest_size=16)):.1f}; unpacked at {reduced}"


def core_s(client: clipdex.Client, folder: Path, place: Path, way: DecodeUse) -> float:
    shutil.rmtree(place / "x.clipdex", ignore_errors=True)
    before = used()
    report = clipdex.index_pictures(client, folder, place / "x.clipdex", workers=1, decode=way)
    assert report.failed == 0
    return used() - before


def used() -> float:
    """The core seconds of this process, and of its workers that have ended."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def draw(folder: Path, count: int) -> None:
    """Write JPEGs of 12 megapixels; all but a few differ only in what follows their end."""
    import skimage.data

    folder.mkdir()
    rng = np.random.default_rng(0)
    base = []
    for name in ("astronaut", "coffee", "cat"):
        large = Image.fromarray(getattr(skimage.data, name)()).resize((4000, 3000), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 5, (3000, 4000, 1)).astype(np.float32)
        pixels = (np.asarray(large, np.float32) + grain).clip(0, 255).astype(np.uint8)
        base.append(jpeg(Image.fromarray(pixels)))
    for n in range(count):
        (folder / f"{n:04}.jpg").write_bytes(base[n % len(base)] + b"\0" * n)


if __name__ == "__main__":
    main()
