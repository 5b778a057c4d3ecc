"""How many JPEGs of each size a core decodes and resizes to 224 pixels, with `--decode exact` and `fast`.

    python benchmarks/decode_sizes.py [PHOTOGRAPH]      (default: scikit-image's astronaut, resized)

By core time, so that other programs on the machine count little. The work is a decode worker's, in its
environment: JPEG, orientation, bicubic resize, crop, perceptual signature. Both ways take turns.
"""

import io
import os
import sys
import time
from pathlib import Path
from statistics import median

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "client"))

from clipdex.looks.signature import perceptual_signature
from clipdex.model.card import ImageSpec
from clipdex.model.images import center_crop, open_for_model
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.pipeline.worker_process import worker_environment

CLIP = ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

SIZES = [(320, 240), (640, 480), (1280, 960), (2048, 1536), (4000, 3000), (6000, 4000)]
SECONDS = 6.0


def jpeg(photograph: Image.Image, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    photograph.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def main() -> None:
    if (environment := worker_environment(os.environ)) != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    if len(sys.argv) > 1:
        photograph = Image.open(sys.argv[1]).convert("RGB")
    else:
        from skimage import data

        photograph = Image.fromarray(data.astronaut())
    print("size         kB   exact: ms a picture   pictures/s a core   fast: ms a picture   pictures/s a core")
    for size in SIZES:
        file = jpeg(photograph, size)
        took: dict[DecodeUse, list[float]] = {"exact": [], "fast": []}
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(took["fast"]) < 5:
            for way, times in took.items():
                began = time.process_time()
                work(file, PictureRules(decode=way))
                times.append(time.process_time() - began)
        exact, fast = (median(times) * 1e3 for times in took.values())
        print(
            f"{size[0]:>4} × {size[1]:<4} {len(file) // 1000:>5} {exact:>21.1f} {1e3 / exact:>19.1f} "
            f"{fast:>20.1f} {1e3 / fast:>19.1f}"
        )


def work(data: bytes, rules: PictureRules) -> None:
    small = open_for_model(data, CLIP, rules).resized(CLIP)
    center_crop(small, CLIP)
    perceptual_signature(small)


if __name__ == "__main__":
    main()
