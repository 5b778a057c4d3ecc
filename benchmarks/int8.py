"""What int8 gains on this CPU, and what it costs in fidelity.

    python benchmarks/int8.py speed        the image tower of ViT-B/32: float32 and int8, in turn
    python benchmarks/int8.py products     the same for parts of its products, so that one sees where the time is
    python benchmarks/int8.py fidelity     the demo model on its 1,000 held-out pictures: parts, ranges, methods
    python benchmarks/int8.py layers       the same, one product of the image tower at a time

Speed is of random weights, which cost what trained ones cost. Fidelity is of trained weights, which random ones
say nothing about: these have no outliers. The demo model is the only trained one that is always at hand; every
export measures its own (the card's `parity`).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from random_clip import random_clip
from rounds import Sample, alternate, where

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "export")]

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

import clipdex  # noqa: E402
from clipdex.model.images import open_image, to_pixels  # noqa: E402
from clipdex_export.calibration import Calibration, calibration  # noqa: E402
from clipdex_export.int8 import products_of, quantize  # noqa: E402
from clipdex_export.verdict import (  # noqa: E402
    Floors,
    Side,
    judge,
)
from demo_training.heldout import draw_held_out  # noqa: E402

BATCH = 32
PARTS = {
    "all products": lambda names: names,
    "all but the last projection": lambda names: names[:-1],
    "MLP": lambda names: [name for name in names if "/mlp/" in name],
    "query, key, value, output": lambda names: [name for name in names if "/self_attn/" in name],
}
DEFAULT = "all but the last projection"
METHODS = {
    "smallest and largest": ("MinMax", {}),
    "99.999 %": ("Percentile", {"CalibPercentile": 99.999}),
    "99.99 %": ("Percentile", {"CalibPercentile": 99.99}),
    "99.9 %": ("Percentile", {"CalibPercentile": 99.9}),
    "entropy": ("Entropy", {}),
}


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def names_in(path: Path) -> list[str]:
    return products_of(onnx.load(path, load_external_data=False).graph)


def speed(parts: list[str]) -> None:
    """ViT-B/32, the image tower."""
    tower = random_clip()[1] / "vit_b_32_image" / "1" / "model.onnx"
    rows = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        files = {"float32": tower}
        for part in parts:
            files[part] = Path(scratch) / f"{len(files)}.onnx"
            quantize(tower, files[part], "pixels", rows[:8], PARTS[part](names_in(tower)))
        sides = {name: timed(session(path), rows) for name, path in files.items()}
        found = alternate(sides)
    print(
        f"{where()}, batch {BATCH}, onnxruntime {onnxruntime.__version__}\n\n"
        "| int8 | images/s | ÷ float32 |\n|---|---|---|"
    )
    for name in files:
        print(f"| {name} | {found.rate(name):.1f} | {found.ratio(name, 'float32')} |")
    print(f"\n{found.remark()}")


def timed(tower: Any, rows: npt.NDArray[np.uint8]) -> Any:
    def side() -> Sample:
        began = time.perf_counter()
        for _ in range(2):
            tower.run(None, {"pixels": rows})
        return Sample(2 * len(rows) / (time.perf_counter() - began), 2 * len(rows))

    return side


class Demo:
    """The demo model's two float32 towers, its held-out set, and their vectors."""

    def __init__(self, scratch: Path) -> None:
        repository = ROOT / "model_repository"
        self.towers = {part: repository / f"demo_{part}" / "1" / "model.onnx" for part in ("image", "text")}
        self.scratch = scratch
        held_out = draw_held_out(scratch / "held-out")
        with clipdex.connect(f"inproc:{repository}", model="demo") as client:
            spec, card = client.card.image, client.card
            self.pixels = np.stack([to_pixels(open_image(path, fill=spec.fill), spec) for path in held_out.paths])
            self.texts = [caption.text for caption in (*held_out.captions, *held_out.queries)]
            self.ids = client.tokenize(self.texts)
            from clipdex.model.assets import unpack_assets

            assets = onnx.load(repository / "demo_assets" / "1" / "model.onnx").graph.initializer[0].raw_data
            self.examples = calibration(None, spec, card.text, unpack_assets(assets).tokenizer_json)
        self.expected = self.side(self.towers["image"], self.towers["text"])

    def side(self, image: Path, text: Path) -> Side:
        return Side(self.pixels, self.ids, run(image, "pixels", self.pixels), run(text, "token_ids", self.ids))

    def quantized(self, part: str, products: list[str], examples: Calibration, method: str) -> Path:
        kind, options = METHODS[method]
        path = self.scratch / f"{part}.onnx"
        name, rows = ("pixels", examples.pixels) if part == "image" else ("token_ids", examples.token_ids)
        quantize(self.towers[part], path, name, rows, products, method=kind, options=options)
        return path

    def line(self, title: str, image: Path, text: Path) -> str:
        found = self.side(image, text)
        report = judge(self.expected, found, found, [""] * 1000, self.texts, Floors(0.99)).report
        scores = found.text[:1000] @ found.image.T
        right = (scores.argmax(axis=1) == np.arange(1000)).mean()
        return (
            f"| {title} | {report.image_cosine_min:.4f} | {report.image_cosine_mean:.5f} | "
            f"{report.text_cosine_min:.4f} | {report.text_cosine_mean:.5f} | {report.top10_overlap:.3f} | "
            f"{right:.3f} |"
        )


def run(path: Path, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    tower = session(path)
    return np.concatenate([tower.run(None, {name: rows[i : i + 64]})[0] for i in range(0, len(rows), 64)])


HEAD = (
    "| int8 | pictures: smallest cosine | mean | texts: smallest | mean | top-10 overlap | recall@1 |\n"
    "|---|---|---|---|---|---|---|"
)


def fidelity(demo: Demo) -> Iterator[str]:
    yield HEAD
    yield demo.line("none: float32", demo.towers["image"], demo.towers["text"])
    both = {part: names_in(path) for part, path in demo.towers.items()}

    def line(title: str, part: str = DEFAULT, method: str = "smallest and largest", texts: bool = True) -> str:
        image, text = (
            demo.quantized(tower, PARTS[part](names), demo.examples, method) for tower, names in both.items()
        )
        return demo.line(title, image, text if texts else demo.towers["text"])

    for part in PARTS:
        yield line(part + (" (the default)" if part == DEFAULT else ""), part=part)
    yield line("the default, text tower in float32", texts=False)
    for method in METHODS:
        yield line(f"the default, ranges by {method}", method=method)


def layers(demo: Demo) -> Iterator[str]:
    yield HEAD
    for name in names_in(demo.towers["image"]):
        image = demo.quantized("image", [name], demo.examples, "smallest and largest")
        yield demo.line(name.removesuffix("/MatMul"), image, demo.towers["text"])


def main() -> None:
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "speed":
        speed([DEFAULT])
    elif what == "products":
        speed(list(PARTS))
    elif what in ("fidelity", "layers"):
        with tempfile.TemporaryDirectory() as scratch:
            demo = Demo(Path(scratch))
            for line in (fidelity if what == "fidelity" else layers)(demo):
                print(line, flush=True)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
