"""Thumbnails per second, drawn and from the cache, for pictures of 640 × 480 and of 12 megapixels.

    python benchmarks/thumbnails.py [--workers 2] [--seconds 5]

Draws JPEGs that look like noise smoothed (as large as photographs), and prints the table of docs/web.md.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipdex.pipeline.thumbnail_service import ThumbnailService
from clipdex.pipeline.worker_service import Given
from clipdex.web.pictures.cache import ThumbnailCache

SIZES = {"640 × 480": (640, 480), "4,000 × 3,000": (4_000, 3_000)}
SIDES = (160, 320, 640, 1280)


def photograph(size: tuple[int, int]) -> bytes:
    """Smooth structure with some grain: a JPEG of about the bytes of a photograph."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 6, (size[1], size[0], 1))
    data = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
    return data.getvalue()


def per_second(seconds: float, ask: Callable[[], Any], at_once: int) -> float:
    """Call `ask` for some seconds, with so many futures under way -> results a second."""
    waiting: list[Any] = []
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        waiting.append(ask())
        if len(waiting) >= at_once:
            found = waiting.pop(0)
            if isinstance(found, Future):
                found.result()
            done += 1
    took = time.perf_counter() - began
    for found in waiting:
        if isinstance(found, Future):
            found.result()
    return done / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    print("| picture | side | drawn per second | from the cache per second |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ThumbnailService(workers=given.workers) as service:
        cache = ThumbnailCache(Path(folder) / "cache", 1 << 30)
        for name, size in SIZES.items():
            path = Path(folder) / f"{size[0]}.jpg"
            path.write_bytes(photograph(size))
            source = Given(path=str(path).encode())
            for side in SIDES:
                jpeg = service.draw(source, side, 2 << 20).result()
                key = bytes([side % 256]) * 16
                cache.put(key, side, jpeg)
                draw = partial(service.draw, source, side, 2 << 20)
                cold = per_second(given.seconds, draw, 4 * given.workers)
                warm = per_second(given.seconds / 5, partial(cache.get, key, side), 1)
                print(f"| {name}, {path.stat().st_size >> 10:,} KiB | {side} | {cold:,.0f} | {warm:,.0f} |")


if __name__ == "__main__":
    main()
