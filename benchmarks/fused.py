"""ViT-B/32 in float32 on this CPU: the graph as exported, against one with ONNX Runtime's fused operators.

    python benchmarks/fused.py [image|text]

ONNX Runtime optimizes the exported graph by itself when it loads it; what `fuse` adds is the attention of each
layer as one operator. Exports for `cuda` have it, those for `auto` and `cpu` have not: is that right?
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from random_clip import random_clip
from rounds import Sample, alternate, where

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "export")]

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

from clipdex_export.fusion import fuse  # noqa: E402
from clipdex_export.random_checkpoint import SHAPES  # noqa: E402

BATCH, RUNS = 32, 2


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else "image"
    shape = SHAPES["vit_b_32"]
    source = random_clip()[1] / f"vit_b_32_{part}" / "1" / "model.onnx"
    rng = np.random.default_rng(0)
    rows: np.ndarray
    if part == "image":
        name, width, layers = "pixels", shape.vision_width, shape.vision_layers
        rows = rng.integers(0, 256, (BATCH, shape.image_size, shape.image_size, 3), dtype=np.uint8)
    else:
        name, width, layers = "token_ids", shape.text_width, shape.text_layers
        rows = rng.integers(0, 500, (BATCH, shape.context_length), dtype=np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        fused = Path(scratch) / "vit_b_32" / "1" / "model.onnx"
        fused.parent.mkdir(parents=True)
        shutil.copy(source, fused)
        fuse(fused, heads=width // 64, width=width, layers=layers)
        operators = Counter(node.op_type for node in onnx.load(fused).graph.node if node.domain == "com.microsoft")
        towers = {"as exported": session(source), "fused": session(fused)}
        one, other = (tower.run(None, {name: rows})[0] for tower in towers.values())

        def timed(tower: onnxruntime.InferenceSession) -> Callable[[], Sample]:
            def side() -> Sample:
                began = time.perf_counter()
                for _ in range(RUNS):
                    tower.run(None, {name: rows})
                return Sample(RUNS * BATCH / (time.perf_counter() - began), RUNS * BATCH)

            return side

        found = alternate({title: timed(tower) for title, tower in towers.items()})
    print(f"{where()}, {part} tower, batch {BATCH}, onnxruntime {onnxruntime.__version__}")
    print("fused operators: " + ", ".join(f"{count} {kind}" for kind, count in operators.most_common()))
    print(f"smallest cosine between the two: {(one * other).sum(axis=1).min():.7f}\n")
    print("| | rows/s | core time a row, ms | ÷ as exported |\n|---|---|---|---|")
    for title in towers:
        ratio = found.ratio(title, "as exported")
        print(f"| {title} | {found.rate(title):.1f} | {found.core_ms(title):.1f} | {ratio} |")
    print(f"\n{found.remark()}")


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
