"""The gate: checks that an export reproduces the checkpoint's results, from pictures and texts to vectors.

One side is the checkpoint alone: its own image processor, its own tokenizer and PyTorch in float32; of ready-made
ONNX, its own settings, tokenizer and graph. The other is what a client and a server will do: clipdex's decoder,
preprocessing and tokenizer, and the ONNX files.
`verdict` compares them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.errors import ExportError
from clipdex.model.card import ImageSpec, TextSpec
from clipdex.model.images import open_image, to_pixels
from clipdex.model.tokenizer import Tokenizer
from clipdex_export.checkpoint import Checkpoint
from clipdex_export.float16 import as_rounded
from clipdex_export.onnx_files import with_outputs
from clipdex_export.photographs import Picture, gate_pictures
from clipdex_export.precisions import Rounding
from clipdex_export.retrieval_set import drawn_captions, drawn_pictures
from clipdex_export.sentences import GATE_TEXTS
from clipdex_export.sessions import crashes, open_session
from clipdex_export.verdict import Floors, Side, Vectors, Verdict, judge
from clipdex_export.weights import one_line

if TYPE_CHECKING:
    import onnx

__all__ = ["Gate", "checkpoint_side", "export_side", "gate_set", "same_inputs_side"]


def gate_set(*, drawn: bool = False) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Return the pictures and texts that exports are compared on. drawn: without photographs."""
    return (*gate_pictures(drawn=drawn), *drawn_pictures()), (*GATE_TEXTS, *drawn_captions())


class Gate:
    """A gate for exports of one checkpoint. It keeps the results of the checkpoint's models, not the models."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._pictures, self._texts = gate_set(drawn=checkpoint.ready_made)
        self._image_spec: ImageSpec = checkpoint.image.spec
        self._text_spec: TextSpec = checkpoint.text.spec
        self._tokenizer_json = checkpoint.text.tokenizer_json
        self._expected = checkpoint_side(checkpoint, self._pictures, self._texts)

    def judge(self, image_onnx: Path, text_onnx: Path, floors: Floors, rounding: Rounding = as_rounded) -> Verdict:
        """Run the pictures and texts through the export, and compare the results with the checkpoint's.

        rounding: makes each tower's copy that rounds as its hardware does.
        """
        found = export_side(
            image_onnx,
            text_onnx,
            self._image_spec,
            self._text_spec,
            self._tokenizer_json,
            self._pictures,
            self._texts,
            rounding,
        )
        same_inputs = same_inputs_side(image_onnx, text_onnx, self._expected, found, rounding)
        names = [picture.name for picture in self._pictures]
        return judge(self._expected, found, same_inputs, names, self._texts, floors)


_BATCH = 8


def checkpoint_side(checkpoint: Checkpoint, pictures: Sequence[Picture], texts: Sequence[str]) -> Side:
    """Compute the reference, without any of clipdex's code."""
    image, text = checkpoint.image.reference, checkpoint.text.reference
    assert image is not None and text is not None
    opened = [Image.open(io.BytesIO(picture.data)) for picture in pictures]
    return Side(
        pixels=np.concatenate([image.pixels(batch) for batch in _batches(opened)]),
        token_ids=text.token_ids(texts),
        image=np.concatenate([image.vectors(batch) for batch in _batches(opened)]),
        text=np.concatenate([text.vectors(batch) for batch in _batches(texts)]),
    )


def export_side(
    image_onnx: Path,
    text_onnx: Path,
    image_spec: ImageSpec,
    text_spec: TextSpec,
    tokenizer_json: bytes,
    pictures: Sequence[Picture],
    texts: Sequence[str],
    rounding: Rounding = as_rounded,
) -> Side:
    """Compute the export's results, with the code that will use it."""
    images = (open_image(picture.data, fill=image_spec.fill) for picture in pictures)
    pixels = np.stack([to_pixels(image, image_spec) for image in images])
    token_ids = Tokenizer(tokenizer_json, text_spec)(texts)
    image, image_overflow = _run(image_onnx, "pixels", pixels, rounding)
    text, text_overflow = _run(text_onnx, "token_ids", token_ids, rounding)
    return Side(pixels, token_ids, image, text, image_overflow, text_overflow)


def same_inputs_side(
    image_onnx: Path, text_onnx: Path, expected: Side, found: Side, rounding: Rounding = as_rounded
) -> Side:
    """Compute the exported towers' results for the checkpoint's own pixels and token ids.

    A tower runs again only on inputs that differ. For inputs of another shape the vectors are zeros.
    """
    image = _again(image_onnx, "pixels", expected.pixels, found.pixels, found.image, rounding)
    text = _again(text_onnx, "token_ids", expected.token_ids, found.token_ids, found.text, rounding)
    return replace(found, pixels=expected.pixels, token_ids=expected.token_ids, image=image, text=text)


def _again(
    path: Path,
    input_name: str,
    wanted: npt.NDArray[Any],
    given: npt.NDArray[Any],
    vectors: Vectors,
    rounding: Rounding,
) -> Vectors:
    if wanted.shape != given.shape:
        return np.zeros_like(vectors)
    rows = np.flatnonzero((wanted != given).reshape(len(wanted), -1).any(axis=1))
    if not len(rows):
        return vectors
    result = vectors.copy()
    result[rows], _ = _run(path, input_name, wanted[rows], rounding)
    return result


def _run(
    path: Path, input_name: str, rows: npt.NDArray[Any], rounding: Rounding = as_rounded
) -> tuple[Vectors, str]:
    """Run an ONNX tower on the CPU: (N, …) -> float32 (N, D), in batches of several sizes, the first of one.

    Half precision is rounded as on a GPU. -> also the node that overflows and spoils a vector, or "".
    """
    rounded = rounding(path)
    # A rounded session optimizes nothing; a server's does.
    if rounded is not None and crashes(path):
        where = path.parent.parent.name
        raise ExportError(f"{where}: ONNX Runtime crashes when it loads the tower in float16: export it in fp32")
    batches = [rows[:1], *_batches(rows[1:])]
    try:
        session = _session(path, rounded)
        vectors = np.concatenate([session.run(["embedding"], {input_name: batch})[0] for batch in batches])
    # onnxruntime raises its own kinds of errors.
    except Exception as exc:
        raise ExportError(f"{path.parent.parent.name} fails in ONNX Runtime: {one_line(exc)}") from exc
    spoilt = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if rounded is None or not len(spoilt):
        return vectors, ""
    return vectors, _overflow(path, rounded, {input_name: rows[spoilt[:1]]})


def _session(path: Path, rounded: onnx.ModelProto | None) -> Any:
    if rounded is None:
        return open_session(path)
    return open_session(rounded.SerializeToString(), weights_in=path.parent)


def _overflow(path: Path, rounded: onnx.ModelProto, given: dict[str, npt.NDArray[Any]]) -> str:
    """Return the name of the node with the first infinity that led to a vector with NaN or infinity."""
    makers = {output: node for node in rounded.graph.node for output in node.output if output}
    session = _session(path, with_outputs(rounded, makers))
    names = [output.name for output in session.get_outputs()]
    values = zip(names, session.run(names, given), strict=True)
    beyond = {name for name, value in values if value.dtype.kind == "f" and not np.isfinite(value).all()}
    name = "embedding"
    # Not every infinity does harm (a softmax's mask, a GELU's cube): trace back from this vector.
    while causes := [source for source in makers[name].input if source in beyond]:
        name = causes[0]
    return str(makers[name].name or name)


def _batches(items: Any) -> Iterator[Any]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
