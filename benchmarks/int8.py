"""What int8 gains on this CPU, and what it costs in fidelity.

    python benchmarks/int8.py speed        the image tower of ViT-B/32: float32 and int8, in turn
    python benchmarks/int8.py products     the same for parts of its products, so that one sees where the time is
    python benchmarks/int8.py fidelity     the demo model on its 1,000 held-out pictures: parts, ranges, smoothing
    python benchmarks/int8.py outliers     ranges and smoothing where a few channels are 20 to 100 times as large
    python benchmarks/int8.py layers       the demo model, one product of the image tower at a time, not smoothed

Speed is of random weights, which cost what trained ones cost. Fidelity is of trained weights, which random ones
say nothing about: these have no outliers. The demo model is the only trained one that is always at hand; every
export measures its own (the card's `parity`).

The demo model has no outliers either, so `outliers` plants them: behind every normalisation, four channels' gain
and bias are multiplied by 20 to 100, and the weights that read them divided by it. The float32 tower computes the
same. This is the kind of outlier that smoothing can undo; what it does for those of a large trained CLIP is not
known from it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from random_clip import random_clip
from rounds import Rounds, Sample, alternate, where

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "export")]

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

import clipdex  # noqa: E402
from clipdex.model.images import open_image, to_pixels  # noqa: E402
from clipdex_export.calibration import calibration  # noqa: E402
from clipdex_export.int8 import products_of, quantize  # noqa: E402
from clipdex_export.smoothing import STRENGTH, Smoother, smooth  # noqa: E402
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
STRENGTHS = (0.25, STRENGTH, 0.75)
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


def default(tower: Path) -> list[str]:
    return PARTS[DEFAULT](names_in(tower))


def random_tower() -> Path:
    return random_clip()[1] / "vit_b_32_image" / "1" / "model.onnx"


def speed(parts: list[str]) -> None:
    """ViT-B/32, the image tower, with planted outliers: without any, smoothing would leave it as it is."""
    rows = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        tower = with_outliers(random_tower(), Path(scratch) / "float32.onnx")
        files = {"float32": tower}
        for part in parts:
            for strength in (None, STRENGTH):
                title = part if strength is None else f"{part}, smoothed"
                files[title] = Path(scratch) / f"{len(files)}.onnx"
                make(tower, files[title], "pixels", rows[:8], PARTS[part](names_in(tower)), strength=strength)
        sides = {name: timed(session(path), rows) for name, path in files.items()}
        found = alternate(sides)
    print(f"{where()}, batch {BATCH}, onnxruntime {onnxruntime.__version__}\n\n{rates(found, files)}")


def rates(found: Rounds, sides: Iterable[str]) -> str:
    """Write the table of rates, beside float32's."""
    lines = ["| int8 | images/s | ÷ float32 | core ms an image | ÷ float32 |\n|---|---|---|---|---|"]
    for name in sides:
        ratio, core_ratio = found.ratio(name, "float32"), found.core_ratio(name, "float32")
        lines.append(f"| {name} | {found.rate(name):.1f} | {ratio} | {found.core_ms(name):.1f} | {core_ratio} |")
    return "\n".join([*lines, "", found.remark()])


def make(
    tower: Path,
    to: Path,
    name: str,
    rows: npt.NDArray[Any],
    products: list[str],
    *,
    strength: float | None = STRENGTH,
    ranges: str = "smallest and largest",
) -> Path:
    """Write a float32 tower in int8. strength: of the smoothing; None for none. ranges: one of METHODS."""
    kind, options = METHODS[ranges]
    shutil.copyfile(tower, to)
    if strength is not None:
        smooth(to, name, rows, products, strength=strength)
    quantize(to, to, name, rows, products, method=kind, options=options)
    return to


def with_outliers(tower: Path, to: Path) -> Path:
    """Copy a float32 tower, with the same four channels behind every normalisation 20 to 100 times as large."""
    model, rng = onnx.load(tower), np.random.default_rng(0)
    smoother = Smoother(model.graph)
    found = smoother.channels(products_of(model.graph)[:-1])
    width = len(smoother.largest_weights(found[0]))
    large = rng.choice(width, 4, replace=False)
    for each in found:
        scales = np.ones(width, np.float32)
        scales[large] = 1 / np.exp(rng.uniform(np.log(20), np.log(100), 4))
        smoother.divide(each, scales)
    onnx.save(model, to)
    return to


def timed(tower: Any, rows: npt.NDArray[np.uint8]) -> Any:
    def side() -> Sample:
        began = time.perf_counter()
        for _ in range(2):
            tower.run(None, {"pixels": rows})
        return Sample(2 * len(rows) / (time.perf_counter() - began), 2 * len(rows))

    return side


# A tower's file, the name of its input, rows -> vectors.
Run = Callable[[Path, str, npt.NDArray[Any]], npt.NDArray[np.float32]]


def by_onnxruntime(path: Path, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    tower = session(path)
    return np.concatenate([tower.run(None, {name: rows[i : i + 64]})[0] for i in range(0, len(rows), 64)])


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
        self.expected = self.side(self.towers["image"], self.towers["text"], by_onnxruntime)

    def with_outliers(self) -> None:
        """Take towers with outliers in place of the trained ones; what they are compared with stays."""
        self.towers = {
            part: with_outliers(tower, self.scratch / f"{part}-outliers.onnx")
            for part, tower in self.towers.items()
        }

    def side(self, image: Path, text: Path, run: Run) -> Side:
        return Side(self.pixels, self.ids, run(image, "pixels", self.pixels), run(text, "token_ids", self.ids))

    def quantized(
        self,
        part: str,
        products: list[str] | None = None,
        *,
        strength: float | None = STRENGTH,
        ranges: str = "smallest and largest",
    ) -> Path:
        """Write a tower in int8. products: None for the default's."""
        name, rows = (
            ("pixels", self.examples.pixels) if part == "image" else ("token_ids", self.examples.token_ids)
        )
        if products is None:
            products = default(self.towers[part])
        to = self.scratch / f"{part}.onnx"
        return make(self.towers[part], to, name, rows, products, strength=strength, ranges=ranges)

    def line(self, title: str, image: Path, text: Path, run: Run = by_onnxruntime) -> str:
        found = self.side(image, text, run)
        report = judge(self.expected, found, found, [""] * 1000, self.texts, Floors(0.99)).report
        scores = found.text[:1000] @ found.image.T
        right = (scores.argmax(axis=1) == np.arange(1000)).mean()
        return (
            f"| {title} | {report.image_cosine_min:.4f} | {report.image_cosine_mean:.5f} | "
            f"{report.text_cosine_min:.4f} | {report.text_cosine_mean:.5f} | {report.top10_overlap:.3f} | "
            f"{right:.3f} |"
        )


HEAD = (
    "| int8 | pictures: smallest cosine | mean | texts: smallest | mean | top-10 overlap | recall@1 |\n"
    "|---|---|---|---|---|---|---|"
)


def fidelity(demo: Demo) -> Iterator[str]:
    yield HEAD
    yield demo.line("none: float32", demo.towers["image"], demo.towers["text"])
    for part, choose in PARTS.items():
        image, text = (demo.quantized(tower, choose(names_in(path))) for tower, path in demo.towers.items())
        yield demo.line(part + (" (the default)" if part == DEFAULT else ""), image, text)
    yield demo.line("the default, text tower in float32", demo.quantized("image"), demo.towers["text"])
    yield from not_smoothed(demo)


def not_smoothed(demo: Demo) -> Iterator[str]:
    for ranges in METHODS:
        image, text = (demo.quantized(part, strength=None, ranges=ranges) for part in demo.towers)
        yield demo.line(f"not smoothed, ranges by {ranges}", image, text)


def outliers(demo: Demo) -> Iterator[str]:
    yield HEAD
    demo.with_outliers()
    yield demo.line("none: float32", demo.towers["image"], demo.towers["text"])
    for strength in STRENGTHS:
        image, text = (demo.quantized(part, strength=strength) for part in demo.towers)
        title = f"smoothed by {strength}" + (" (the default)" if strength == STRENGTH else "")
        yield demo.line(title, image, text)
    yield from not_smoothed(demo)


def layers(demo: Demo) -> Iterator[str]:
    yield HEAD
    for name in names_in(demo.towers["image"]):
        image = demo.quantized("image", [name], strength=None)
        yield demo.line(name.removesuffix("/MatMul"), image, demo.towers["text"])


TABLES = {"fidelity": fidelity, "outliers": outliers, "layers": layers}


def main() -> None:
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "speed":
        speed([DEFAULT])
    elif what == "products":
        speed(list(PARTS))
    elif what in TABLES:
        print(f"{where()}, onnxruntime {onnxruntime.__version__}\n")
        with tempfile.TemporaryDirectory() as scratch:
            for line in TABLES[what](Demo(Path(scratch))):
                print(line, flush=True)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
