"""Adopted towers of every layout and precision in a real Triton: the answers are those of the files in process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipdex

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.triton]
pytest.importorskip("torch")
pytest.importorskip("transformers")

import small_gate  # noqa: E402
from onnx_layouts import LAYOUTS  # noqa: E402

from clipdex_export import export_model  # noqa: E402
from clipdex_export.onnx_sources import compose  # noqa: E402


def test_what_was_adopted_is_served(onnx_source: Callable[[str], str], tmp_path: Path) -> None:
    from clipdex_server import LocalTriton

    names = []
    with pytest.MonkeyPatch.context() as patch:
        small_gate.use_it(patch)
        for case in LAYOUTS:
            for precision in ("fp32", "fp16"):
                names.append(f"{case}_{precision}")
                export_model(onnx_source(case), name=names[-1], repository=tmp_path, precision=precision)
        patch.setattr(compose, "free_batch", lambda *given, last: False)
        names.append("row_by_row")
        export_model(onnx_source("immich_multilingual"), name=names[-1], repository=tmp_path)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (60, 50, 3), np.uint8)) for _ in range(5)]
    texts = ["a cat", "", "two dogs in the snow", "ein Haus"]
    with LocalTriton(tmp_path, stop_timeout_s=0) as server:
        for name in names:
            with (
                clipdex.connect(server.address, model=name) as served,
                clipdex.connect(f"inproc:{tmp_path}", model=name) as own,
            ):
                for one, other in (
                    (served.embed_images(pictures), own.embed_images(pictures)),
                    (served.embed_texts(texts), own.embed_texts(texts)),
                ):
                    assert (one * other).sum(axis=1).min() > (0.9999 if name.endswith("fp16") else 0.999999), name
