"""int8 by NNCF, Intel's own quantizer for OpenVINO, beside int8 as clipdex exports it; all computed by OpenVINO.

    pip install nncf
    python benchmarks/int8_nncf.py fidelity       the demo model, as trained and with planted outliers (int8.py)
    python benchmarks/int8_nncf.py speed          ViT-B/32's image tower, random weights with outliers, in turn

NNCF quantizes by its preset for transformers, which smooths too, from the same calibration: once what it chooses
itself (the patches' convolution, the last projection and parts of attention too), and once the products that
clipdex quantizes. Of 3.4.0, the position embedding must be left out, or it fails with a KeyError.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import int8
import numpy as np
import numpy.typing as npt
from rounds import Sample, alternate, where

from clipdex.wire.runtimes.open_vino import OpenVino
from clipdex.wire.runtimes.runtime import Opening
from clipdex_export.smoothing import STRENGTH

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # neither package reports its import

import nncf  # noqa: E402
import openvino  # noqa: E402

OPEN_VINO = OpenVino("this")
BATCH = 8  # in calibration


def by_nncf(tower: Path, to: Path, name: str, rows: npt.NDArray[Any], products: list[str] | None) -> Path:
    """Write a tower as NNCF quantizes it. products: the only nodes to quantize; None for its own choice."""
    model = openvino.Core().read_model(str(tower))
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    if products is None:
        ignored = nncf.IgnoredScope(types=["Gather"])
    else:
        kinds = {"Parameter", "Constant", "Result"}
        others = [op for op in model.get_ops() if op.get_type_name() not in kinds]
        names = [op.get_friendly_name() for op in others if op.get_friendly_name() not in products]
        assert len(others) - len(names) == len(products)
        ignored = nncf.IgnoredScope(names=names, validate=False)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches, lambda batch: {name: batch}),
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=ignored,
    )
    openvino.save_model(quantized, str(to), compress_to_fp16=False)
    return to


def by_open_vino(path: Path, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    session = OPEN_VINO.open("tower", path, Opening())
    return np.concatenate([session.run({name: rows[i : i + 64]}, "embedding") for i in range(0, len(rows), 64)])


def fidelity() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        demo = int8.Demo(Path(scratch))
        inputs: dict[str, tuple[str, npt.NDArray[Any]]] = {
            "image": ("pixels", demo.examples.pixels),
            "text": ("token_ids", demo.examples.token_ids),
        }
        for weights in ("as trained", "with outliers"):
            if weights == "with outliers":
                demo.with_outliers()
            yield f"\nthe demo model {weights}\n\n{int8.HEAD}"
            yield demo.line("none: float32", demo.towers["image"], demo.towers["text"], by_open_vino)
            for title, strength in (("not smoothed", None), ("smoothed (the default)", STRENGTH)):
                image, text = (demo.quantized(part, strength=strength) for part in demo.towers)
                yield demo.line(title, image, text, by_open_vino)
            for title, alike in (("NNCF, its own choice", False), ("NNCF, the same products", True)):
                image, text = (
                    by_nncf(
                        tower, demo.scratch / f"{part}.xml", *inputs[part], int8.default(tower) if alike else None
                    )
                    for part, tower in demo.towers.items()
                )
                yield demo.line(title, image, text, by_open_vino)


def speed() -> Iterator[str]:
    rows = np.random.default_rng(0).integers(0, 256, (int8.BATCH, 224, 224, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as directory:
        scratch, few = Path(directory), rows[:8]
        tower = int8.with_outliers(int8.random_tower(), scratch / "float32.onnx")
        products = int8.default(tower)
        files = {"float32": tower}
        for title, strength in (("not smoothed", None), ("smoothed (the default)", STRENGTH)):
            to = scratch / f"{len(files)}.onnx"
            files[title] = int8.make(tower, to, "pixels", few, products, strength=strength)
        files["NNCF, its own choice"] = by_nncf(tower, scratch / "own.xml", "pixels", few, None)
        files["NNCF, the same products"] = by_nncf(tower, scratch / "same.xml", "pixels", few, products)
        sessions = {title: OPEN_VINO.open("tower", file, Opening()) for title, file in files.items()}

        def timed(session: Any) -> Callable[[], Sample]:
            def side() -> Sample:
                began = time.perf_counter()
                session.run({"pixels": rows}, "embedding")
                return Sample(len(rows) / (time.perf_counter() - began), len(rows))

            return side

        found = alternate({title: timed(session) for title, session in sessions.items()})
    yield int8.rates(found, files)


def main() -> None:
    tables = {"fidelity": fidelity, "speed": speed}
    if len(sys.argv) != 2 or sys.argv[1] not in tables:
        sys.exit(__doc__)
    nncf.set_log_level(logging.ERROR)  # else a line for each node that is left out
    print(f"{where()}; OpenVINO {OPEN_VINO.version}, NNCF {nncf.__version__}\n")
    for line in tables[sys.argv[1]]():
        print(line, flush=True)


if __name__ == "__main__":
    main()
