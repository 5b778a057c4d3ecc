"""How far vectors of one int8 export differ between two versions of onnxruntime.

    clipdex export export/checkpoints/demo --name demo_int8 --precision int8 --repository /tmp/int8
    python benchmarks/int8_versions.py vectors /tmp/int8/demo_int8_image /tmp/one.npy      # in one environment
    python benchmarks/int8_versions.py vectors /tmp/int8/demo_int8_image /tmp/other.npy    # in another
    python benchmarks/int8_versions.py compare /tmp/one.npy /tmp/other.npy

An environment needs numpy, onnxruntime, and Pillow, with which the pictures are drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

COUNT, BATCH = 256, 32


def vectors(model: Path, out: Path) -> None:
    import onnxruntime
    from drawn_pictures import picture

    session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[1]
    pixels = np.stack([np.asarray(picture(2026, n).resize((side, side))) for n in range(COUNT)])
    found = [session.run(None, {"pixels": pixels[at : at + BATCH]})[0] for at in range(0, COUNT, BATCH)]
    np.save(out, np.concatenate(found))
    print(f"onnxruntime {onnxruntime.__version__}: {COUNT} vectors")


def compare(one: Path, other: Path) -> None:
    a, b = np.load(one), np.load(other)
    print(f"largest difference {np.abs(a - b).max():.1e}, smallest cosine {(a * b).sum(axis=1).min():.6f}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    {"vectors": vectors, "compare": compare}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
