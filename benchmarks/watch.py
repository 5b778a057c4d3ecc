"""What `clipdex watch` spends on one changed picture, beside a scan of the whole folder.

    .venv-dev/bin/python benchmarks/watch.py [--pictures N]

The pictures are drawn, 8 × 8 pixels each, a thousand to a folder, and indexed through a fake server. Each figure
is the median of five runs over the index as it is, in which nothing has to be embedded.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import clipdex
from clipdex.sources import Folder, Source
from clipdex.sources.touched import Touched
from clipdex.wire import FakeTransport


def draw(folder: Path, count: int) -> None:
    for i in range(count):
        place = folder / f"{i // 1000:04}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.frombuffer(np.int64(i).tobytes() * 24, dtype=np.uint8).reshape(8, 8, 3)
        Image.fromarray(pixels).save(place / f"{i}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, clipdex.Client(FakeTransport()) as client:
        folder, index = Path(name) / "pictures", Path(name) / "x.clipdex"
        draw(folder, asked.pictures)
        clipdex.index_pictures(client, folder, index)

        def median_s(source: Source) -> float:
            runs = [clipdex.index_pictures(client, source, index).seconds for _ in range(5)]
            return statistics.median(runs)

        print(f"{asked.pictures:,} pictures: {median_s(Folder(folder)):.2f} s for all of them", flush=True)
        print(f"{median_s(Touched(folder, [b'0000/0.png'], [])):.2f} s for one that has changed")
