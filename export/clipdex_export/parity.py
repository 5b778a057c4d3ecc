"""The gate: does the export give the checkpoint's own numbers, from the file and the text to the vector?

One side is the checkpoint alone: Hugging Face's image processor, its tokenizer and PyTorch in float32. The
other is what a client and a server will do: clipdex's decoder, preprocessing and tokenizer, and the ONNX files.
Pixels and token ids must be equal, and no vector may point elsewhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.card import ImageSpec, TextSpec
from clipdex.errors import ParityError
from clipdex.images import open_image, to_pixels
from clipdex.tokenizer import Tokenizer
from clipdex_export.checkpoint import Checkpoint
from clipdex_export.photographs import Picture
from clipdex_export.quiet import quiet

__all__ = ["FLOOR", "ParityReport", "Side", "check", "checkpoint_side", "export_side"]

FLOOR = 0.9999  # the smallest cosine allowed in float32
_NORM_TOLERANCE = 1e-4
_BATCH = 8

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Side:
    """What one implementation makes of the gate's pictures and texts.

    pixels: uint8 (N, S, S, 3); token_ids: int32 (M, L); image, text: float32 (N, D) and (M, D).
    """

    pixels: npt.NDArray[np.uint8]
    token_ids: npt.NDArray[np.int32]
    image: Vectors
    text: Vectors


@dataclass(frozen=True)
class ParityReport:
    """What the gate found; it travels in the model card."""

    floor: float
    images: int
    texts: int
    image_cosine_min: float
    image_cosine_mean: float
    text_cosine_min: float
    text_cosine_mean: float
    pixel_mismatches: int
    token_mismatches: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the card."""
        return asdict(self)


def checkpoint_side(checkpoint: Checkpoint, pictures: Sequence[Picture], texts: Sequence[str]) -> Side:
    """The yardstick: nothing of clipdex takes part."""
    import torch

    processor, model = checkpoint.processor, checkpoint.model
    opened = [Image.open(io.BytesIO(picture.data)) for picture in pictures]
    length = model.config.text_config.max_position_embeddings
    pixels, image, text = [], [], []
    with quiet(), torch.inference_mode():
        for batch in _batches(opened):
            raw = processor(batch, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
            pixels.append(raw.transpose(0, 2, 3, 1))
            inputs = processor(batch, return_tensors="pt")
            image.append(model.get_image_features(**inputs).pooler_output.numpy())
        tokens = checkpoint.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        for rows in _batches(range(len(texts))):
            inputs = {key: value[list(rows)] for key, value in tokens.items()}
            text.append(model.get_text_features(**inputs).pooler_output.numpy())
    return Side(
        pixels=np.concatenate(pixels),
        token_ids=tokens["input_ids"].numpy().astype(np.int32),
        image=np.concatenate(image),
        text=np.concatenate(text),
    )


def export_side(
    image_onnx: Path,
    text_onnx: Path,
    image_spec: ImageSpec,
    text_spec: TextSpec,
    tokenizer_json: bytes,
    pictures: Sequence[Picture],
    texts: Sequence[str],
) -> Side:
    """What will be installed, by the code that will use it."""
    images = (open_image(picture.data, fill=image_spec.fill) for picture in pictures)
    pixels = np.stack([to_pixels(image, image_spec) for image in images])
    token_ids = Tokenizer(tokenizer_json, text_spec)(texts)
    return Side(
        pixels=pixels,
        token_ids=token_ids,
        image=_run(image_onnx, "pixels", pixels),
        text=_run(text_onnx, "token_ids", token_ids),
    )


def check(
    expected: Side, found: Side, pictures: Sequence[Picture], texts: Sequence[str], *, floor: float = FLOOR
) -> ParityReport:
    """Compare two sides.

    Raises:
        ParityError: with the first stage that departs and the worst picture or text there.
    """
    image = _cosines(expected.image, found.image)
    text = _cosines(expected.text, found.text)
    differing_pixels = (expected.pixels != found.pixels).sum(axis=(1, 2, 3))
    differing_ids = (expected.token_ids != found.token_ids).sum(axis=1)
    if differing_pixels.any():
        worst = int(differing_pixels.argmax())
        raise ParityError(
            f"the preprocessing departs from the checkpoint's own: {np.count_nonzero(differing_pixels)} of "
            f"{len(pictures)} pictures, worst '{pictures[worst].name}' with {differing_pixels[worst]:,} of "
            f"{found.pixels[worst].size:,} pixel values (its cosine is {image[worst]:.6f})"
        )
    if differing_ids.any():
        worst = int(differing_ids.argmax())
        raise ParityError(
            f"the tokenizer departs from the checkpoint's own: {np.count_nonzero(differing_ids)} of {len(texts)} "
            f"texts, worst {texts[worst][:60]!r} with {differing_ids[worst]} token ids (its cosine is "
            f"{text[worst]:.6f})"
        )
    names = [f"'{picture.name}'" for picture in pictures]
    _check_tower("image", image, found.image, names, floor)
    _check_tower("text", text, found.text, [repr(t[:60]) for t in texts], floor)
    return ParityReport(
        floor=floor,
        images=len(pictures),
        texts=len(texts),
        image_cosine_min=_rounded(image.min()),
        image_cosine_mean=_rounded(image.mean()),
        text_cosine_min=_rounded(text.min()),
        text_cosine_mean=_rounded(text.mean()),
        pixel_mismatches=int(differing_pixels.sum()),
        token_mismatches=int(differing_ids.sum()),
    )


def _check_tower(
    tower: str, cosines: npt.NDArray[np.float64], vectors: Vectors, names: Sequence[str], floor: float
) -> None:
    worst = int(np.nan_to_num(cosines, nan=-1.0).argmin())
    if not cosines[worst] >= floor:  # NaN too
        raise ParityError(
            f"the {tower} tower departs from PyTorch although its inputs are equal: cosine {cosines[worst]:.6f} "
            f"for {names[worst]}, the floor is {floor}"
        )
    norms = np.linalg.norm(vectors, axis=1)
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) > _NORM_TOLERANCE:
        raise ParityError(
            f"the {tower} tower's vector for {names[worst]} has L2 norm {norms[worst]:.6f}; expected 1"
        )


def _run(path: Path, input_name: str, rows: npt.NDArray[Any]) -> Vectors:
    """An ONNX tower on the CPU: (N, …) -> float32 (N, D), in batches of several sizes, the first of one."""
    # onnxruntime reports its use over the network, from the moment it is imported, unless told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batches = [rows[:1], *_batches(rows[1:])]
    return np.concatenate([session.run(["embedding"], {input_name: batch})[0] for batch in batches])


def _cosines(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """Row by row; 0 for a vector of zeros."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dots = (x * y).sum(axis=1)
    cosines: npt.NDArray[np.float64] = np.divide(dots, norms, out=np.zeros_like(dots), where=norms != 0)
    return cosines


def _batches(items: Any) -> Iterator[Any]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _rounded(value: float) -> float:
    """Nine decimals, and no more than 1: the rest is float64's rounding."""
    return min(1.0, round(float(value), 9))
