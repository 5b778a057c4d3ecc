"""How many JPEGs of each size a core decodes and resizes to 224 pixels.

    python benchmarks/decode_sizes.py [PHOTOGRAPH]      (default: scikit-image's astronaut, resized)

By core time, so that other programs on the machine count little. The work is a decode worker's: JPEG, orientation,
bicubic resize, crop, perceptual signature.
"""

import io
import sys
import time
from pathlib import Path
from statistics import median

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "client"))

from clipdex.looks.signature import perceptual_signature
from clipdex.model.card import ImageSpec
from clipdex.model.images import center_crop, open_image, resized

CLIP = ImageSpec(224, 224, "shortest_edge", "bicubic", "center", (0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

SIZES = [(320, 240), (640, 480), (1280, 960), (2048, 1536), (4000, 3000), (6000, 4000)]
SECONDS = 6.0


def jpeg(photograph: Image.Image, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    photograph.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def main() -> None:
    if len(sys.argv) > 1:
        photograph = Image.open(sys.argv[1]).convert("RGB")
    else:
        from skimage import data

        photograph = Image.fromarray(data.astronaut())
    print("size         kB    ms a picture   pictures/s a core")
    for size in SIZES:
        file = jpeg(photograph, size)
        took: list[float] = []
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end or len(took) < 5:
            began = time.process_time()
            work(file)
            took.append(time.process_time() - began)
        ms = median(took) * 1e3
        print(f"{size[0]:>4} × {size[1]:<4} {len(file) // 1000:>5} {ms:>12.1f} {1e3 / ms:>16.1f}")


def work(data: bytes) -> None:
    small = resized(open_image(data), CLIP)
    center_crop(small, CLIP)
    perceptual_signature(small)


if __name__ == "__main__":
    main()
