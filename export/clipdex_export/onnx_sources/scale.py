"""The factor and bias that turn a model's cosines into logits, for zero-shot classification.

A file with both towers computes logits, from which they can be read. Files of single towers do not have them: the
card then has the factor to which OpenAI's and most other CLIPs were trained, and says that it was assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdex_export.checkpoint import Vectors
from clipdex_export.onnx_sources.graph import outputs_of, read_graph
from clipdex_export.onnx_sources.tower_file import TowerFile
from clipdex_export.sessions import open_session

__all__ = ["Scale", "scale_of"]

_ASSUMED = 100.0
_LOGITS = "logits_per_image"
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Scale:
    """logit = scale · cosine + bias. source: "file", or "assumed"."""

    scale: float
    bias: float
    source: str


def scale_of(image: TowerFile, text: TowerFile, side: int, length: int) -> Scale:
    """Read scale and bias from a file with both towers; assume them otherwise."""
    assumed = Scale(_ASSUMED, 0.0, "assumed")
    if image.path != text.path or not image.others:
        return assumed
    if _LOGITS not in {tensor.name for tensor in outputs_of(read_graph(image.path, image.where))}:
        return assumed
    from onnx import helper

    rng = np.random.default_rng(0)
    tensors = (image.given, text.given, *((text.mask,) if text.mask else ()), *text.zeros)
    rows = 4
    values = {
        image.given.name: rng.standard_normal((rows, 3, side, side)),
        text.given.name: rng.integers(0, text.vocabulary or 100, (rows, length)),
    }
    feeds = {
        tensor.name: values.get(tensor.name, np.ones((rows, length))).astype(
            helper.tensor_dtype_to_np_dtype(tensor.kind)
        )
        for tensor in tensors
    }
    logits, pictures, texts = open_session(image.path).run([_LOGITS, image.output, text.output], feeds)
    cosines = _unit(pictures) @ _unit(texts).T
    system = np.stack([cosines.ravel(), np.ones(rows * rows)], axis=1)
    (scale, bias), *_ = np.linalg.lstsq(system, logits.astype(np.float64).ravel(), rcond=None)
    apart = float(np.abs(system @ np.array([scale, bias]) - logits.ravel()).max())
    if not np.isfinite([scale, bias]).all() or apart > _TOLERANCE * max(1.0, abs(scale)):
        return assumed
    # The fit leaves float32's rounding where there is no bias: a bias marks a model trained with a sigmoid.
    return Scale(float(scale), 0.0 if abs(bias) < _TOLERANCE * abs(scale) else float(bias), "file")


def _unit(vectors: Vectors) -> npt.NDArray[np.float64]:
    x = vectors.astype(np.float64)
    unit: npt.NDArray[np.float64] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit
