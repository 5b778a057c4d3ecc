"""What a decoding process takes for a telephone's 200 megapixels, 16,320 × 12,240, in each kind of JPEG.

    python benchmarks/large_pictures.py

Draws the pictures (2 GB of memory, 200 MB of disk), decodes each in a worker of its own with the default limits,
and prints the table of docs/preprocessing.md.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from clipdex.index import Failure
from clipdex.pipeline.decode import DecodePool
from clipdex.pipeline.ring import PixelRing
from clipdex.sources.scan import scan
from clipdex.wire import FakeTransport

SIZE = (16_320, 12_240)
KINDS = {
    "baseline": {"subsampling": 2},
    "baseline, 4:4:4": {"subsampling": 0},
    "progressive": {"subsampling": 2, "progressive": True},
    "progressive, 4:4:4": {"subsampling": 0, "progressive": True},
}


def drawn() -> Image.Image:
    """Clouds: as smooth as a photograph, at a few megabytes."""
    small = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BILINEAR)


def peak_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LookupError(pid)


def main() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    spec = FakeTransport().card.image
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.jpg"
        print(f"{'':20} {'upright':>20} {'turned by EXIF':>20}")
        for name, options in KINDS.items():
            cells = []
            for exif in (Image.Exif(), turned):
                drawn().save(path, "JPEG", quality=85, exif=exif, **options)
                with PixelRing(spec.size, 4, 2) as ring, DecodePool(spec, ring, workers=1) as pool:
                    began = time.perf_counter()
                    (result,) = pool.decode(scan(Path(place), print))
                    seconds = time.perf_counter() - began
                    peak = peak_memory(pool._workers[0].process.pid)
                what = result.reason if isinstance(result, Failure) else f"{peak >> 20:,} MiB"
                cells.append(f"{what}, {seconds:.1f} s")
            print(f"{name:20} {cells[0]:>20} {cells[1]:>20}", flush=True)


if __name__ == "__main__":
    main()
