"""What could decode and resize large pictures faster with the same bytes: core time of each, and if it is equal.

    .venv-dev/bin/python benchmarks/decode_ladder.py [--rounds N] [--times N]

A photograph of scikit-image's, enlarged to 12 megapixels with grain, as JPEG, PNG and WebP, is resized for 224
pixels. Settings of a process are tried in processes of their own, which take turns.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE, SMALL = (4000, 3000), (298, 224)
BICUBIC = Image.Resampling.BICUBIC
# The settings of a process that decodes: its environment.
PROCESSES: dict[str, dict[str, str]] = {
    "glibc as it is": {},
    "glibc keeps 128 MiB (taken)": {"MALLOC_TRIM_THRESHOLD_": "134217728", "MALLOC_MMAP_THRESHOLD_": "33554432"},
    "huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "Pillow keeps 8 blocks": {"PILLOW_BLOCKS_MAX": "8"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--in-process", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process is not None:
        took = {path.name: core_ms(partial(whole, path), options.times) for path in pictures(options)}
        print(json.dumps(took))
        return
    print(f"load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as place:
        options.in_process = Path(place)
        write(options.in_process)
        processes(options)
        jpeg = (options.in_process / "1.jpg").read_bytes()
        compare("JPEG: decoding", decoders(jpeg, "jpeg"), options.times)
        compare("PNG: decoding", decoders((options.in_process / "3.png").read_bytes(), "png"), options.times)
        compare("WebP: decoding", decoders((options.in_process / "4.webp").read_bytes(), "webp"), options.times)
        compare("resizing", resizes(Image.open(io.BytesIO(jpeg)).convert("RGB")), options.times)
    boxes()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def pictures(options: Any) -> list[Path]:
    return sorted(options.in_process.iterdir())


def write(folder: Path) -> None:
    import skimage.data

    large = Image.fromarray(skimage.data.astronaut()).resize(SIZE, BICUBIC)
    grain = np.random.default_rng(0).normal(0, 5, (*SIZE[::-1], 1)).astype(np.float32)
    image = Image.fromarray((np.asarray(large, np.float32) + grain).clip(0, 255).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "1.jpg", quality=90)
    image.save(folder / "2 turned.jpg", quality=90, exif=turned)
    image.save(folder / "3.png", compress_level=3)
    image.save(folder / "4.webp", quality=80, method=1)
    image.save(folder / "5 progressive.jpg", quality=90, progressive=True)


def whole(path: Path) -> None:
    """Do a decode worker's work."""
    from clipdex.looks.signature import perceptual_signature
    from clipdex.model.card import ImageSpec
    from clipdex.model.images import center_crop, open_for_model

    spec = ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (0, 0, 0), (0.5,) * 3, (0.5,) * 3)
    small = open_for_model(path, spec).resized(spec)
    center_crop(small, spec)
    perceptual_signature(small)


def core_ms(work: Callable[[], object], times: int) -> float:
    work()
    took = []
    for _ in range(times):
        began = used()
        work()
        took.append(used() - began)
    return statistics.median(took) * 1e3


def used() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


# Settings of the process


def processes(options: Any) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PROCESSES}
    for turn in range(options.rounds):
        for name in list(PROCESSES) if turn % 2 else list(PROCESSES)[::-1]:
            command = [
                sys.executable,
                __file__,
                "--in-process",
                str(options.in_process),
                "--times",
                str(options.times),
            ]
            told = subprocess.run(command, env=os.environ | PROCESSES[name], check=True, stdout=subprocess.PIPE)
            found[name].append(json.loads(told.stdout))
    names = [path.name for path in pictures(options)]
    print("decoding, resizing and signing, core ms".ljust(44), *(f"{name:>18}" for name in names))
    for name, rounds in found.items():
        print(name.ljust(44), *(f"{statistics.median(each[file] for each in rounds):18.1f}" for file in names))


# Tries within a process


def compare(what: str, tries: dict[str, Callable[[], Any]], times: int) -> None:
    """Print the core time of each, and whether its bytes are those of the first."""
    print(f"{what}, core ms")
    first: Any = None
    for name, work in tries.items():
        made = np.asarray(work())[..., :3]
        first = made if first is None else first
        same = made.shape == first.shape and bool((made == first).all())
        print(f"  {name:46} {core_ms(work, times):8.1f}   {'equal' if same else 'not equal'}", flush=True)


def decoders(data: bytes, kind: str) -> dict[str, Callable[[], Any]]:
    import cv2
    import imagecodecs

    def pillow(**attributes: Any) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        for name, value in attributes.items():
            setattr(image, name, value)
        image.load()
        return image

    def pillow_rgbx() -> Image.Image:
        image = pillow_opened()
        image.load()
        return image

    def pillow_opened() -> Any:
        image: Any = Image.open(io.BytesIO(data))
        image._mode = "RGBX"
        image.tile = [image.tile[0]._replace(args=("RGBX", ""))]
        return image

    buffer = np.frombuffer(data, np.uint8)
    tries: dict[str, Callable[[], Any]] = {
        "Pillow": pillow,
        "Pillow, fed in one piece": lambda: pillow(decodermaxblock=len(data) + 1),
        "imagecodecs": lambda: getattr(imagecodecs, f"{kind}_decode")(data),
        "imagecodecs, to a Pillow image": lambda: Image.fromarray(getattr(imagecodecs, f"{kind}_decode")(data)),
        "OpenCV": lambda: cv2.cvtColor(cv2.imdecode(buffer, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
    }
    if kind == "jpeg":
        tries["Pillow, into four bytes a pixel (private)"] = pillow_rgbx
    if kind == "png":
        tries["imagecodecs, libspng"] = lambda: imagecodecs.spng_decode(data)
    if kind == "webp":
        del tries["Pillow, fed in one piece"]
    return tries


def resizes(image: Image.Image) -> dict[str, Callable[[], Any]]:
    import cv2

    four, pixels = image.convert("RGBX"), np.asarray(image)
    return {
        "Pillow": lambda: image.resize(SMALL, BICUBIC),
        "four bytes a pixel": lambda: four.resize(SMALL, BICUBIC),
        "band by band": lambda: Image.merge("RGB", [band.resize(SMALL, BICUBIC) for band in image.split()]),
        "columns first": lambda: (
            image.transpose(Image.Transpose.TRANSPOSE)
            .resize(SMALL[::-1], BICUBIC)
            .transpose(Image.Transpose.TRANSPOSE)
        ),
        "reducing_gap=3": lambda: image.resize(SMALL, BICUBIC, reducing_gap=3),
        "reducing_gap=2": lambda: image.resize(SMALL, BICUBIC, reducing_gap=2),
        "OpenCV, area": lambda: cv2.resize(pixels, SMALL, interpolation=cv2.INTER_AREA),
        "OpenCV, cubic": lambda: cv2.resize(pixels, SMALL, interpolation=cv2.INTER_CUBIC),
    }


def boxes() -> None:
    """Resize only what the crop keeps, by `box`: for how many sizes are the bytes those of a crop afterwards?"""
    rng = np.random.default_rng(0)
    equal = tried = 0
    for width in range(230, 1200, 31):
        for height in (224, 301, 448, 640, 777):
            if width <= height:
                continue
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            wide = int(224 * width / height)
            left = (wide - 224) // 2
            after = image.resize((wide, 224), BICUBIC).crop((left, 0, left + 224, 224))
            scale = width / wide
            only = image.resize((224, 224), BICUBIC, box=(left * scale, 0, (left + 224) * scale, height))
            tried += 1
            equal += after.tobytes() == only.tobytes()
    print(
        f"resizing only the part that is kept, by box: {equal} of {tried} sizes have equal bytes "
        "(and the signature needs the rest)"
    )


if __name__ == "__main__":
    main()
