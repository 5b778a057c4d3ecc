"""How far a colour profile moves a picture's vector, with --icc off and srgb, by the demo model.

    python benchmarks/colour_profiles.py

200 drawn pictures, each as sRGB and once more in another space with its profile, so that both look the same to
an eye. Prints the cosines between the two: for docs/preprocessing.md.
"""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

import clipdex
from clipdex_export.demo.questions import draw_demo_pictures

ROOT = Path(__file__).resolve().parent.parent
COUNT = 200
INTENT, FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION

# Primaries adapted to D50, and the exponent of the curve.
SPACES = {
    "Display P3 (gamma 2.2)": (
        ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)),
        2.2,
    ),
    "Adobe RGB (1998)": (((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)), 2.2),
    "Generic RGB (gamma 1.8)": (
        ((0.4543, 0.2419, 0.0149), (0.3533, 0.6736, 0.0906), (0.1566, 0.0845, 0.7195)),
        1.8,
    ),
}


def profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    def fixed(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1.0, 0.8249))}
    for name, primary in zip("rgb", primaries, strict=True):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(primary)
        tags[f"{name}TRC".encode()] = curve
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag, at + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x04000000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249))
    return head.ljust(128, b"\0") + table + body


def main() -> None:
    srgb = ImageCms.createProfile("sRGB")
    with tempfile.TemporaryDirectory() as place, clipdex.connect(f"inproc:{ROOT / 'model_repository'}") as client:
        paths = sorted(draw_demo_pictures(Path(place), COUNT))
        originals = [Image.open(path).convert("RGB") for path in paths]
        before = client.embed_images(originals)
        for name, (primaries, gamma) in SPACES.items():
            made = profile(primaries, gamma)
            there = ImageCms.ImageCmsProfile(io.BytesIO(made))
            files = []
            for original in originals:
                buffer = io.BytesIO()
                converted = ImageCms.profileToProfile(original, srgb, there, INTENT, flags=FLAGS)
                assert converted is not None
                converted.save(buffer, "PNG", icc_profile=made)
                files.append(buffer.getvalue())
            for icc in ("off", "srgb"):
                cosines = np.sum(before * client.embed_images(files, icc=icc), axis=1)
                print(f"{name:26} icc {icc:4}  cosine: mean {cosines.mean():.4f}, least {cosines.min():.4f}")


if __name__ == "__main__":
    main()
