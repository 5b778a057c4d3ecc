"""The gate: does an export give the checkpoint's own numbers, over the whole way?"""

from __future__ import annotations

from pathlib import Path

from clipdex.model.card import ImageSpec, TextSpec
from clipdex_export.checkpoint import Checkpoint
from clipdex_export.parity import checkpoint_side, export_side, same_inputs_side
from clipdex_export.photographs import gate_pictures
from clipdex_export.retrieval_set import drawn_captions, drawn_pictures
from clipdex_export.sentences import GATE_TEXTS
from clipdex_export.verdict import Floors, Verdict, judge

__all__ = ["Gate"]


class Gate:
    """Made while the checkpoint's models are there; it keeps their numbers and can judge any number of exports."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._pictures = (*gate_pictures(), *drawn_pictures())
        self._texts = (*GATE_TEXTS, *drawn_captions())
        self._image_spec: ImageSpec = checkpoint.image.spec
        self._text_spec: TextSpec = checkpoint.text.spec
        self._tokenizer_json = checkpoint.text.tokenizer_json
        self._expected = checkpoint_side(checkpoint, self._pictures, self._texts)

    def judge(self, image_onnx: Path, text_onnx: Path, floors: Floors) -> Verdict:
        """Put the pictures and texts through what is about to be installed, and compare."""
        found = export_side(
            image_onnx,
            text_onnx,
            self._image_spec,
            self._text_spec,
            self._tokenizer_json,
            self._pictures,
            self._texts,
        )
        same_inputs = same_inputs_side(image_onnx, text_onnx, self._expected, found)
        names = [picture.name for picture in self._pictures]
        return judge(self._expected, found, same_inputs, names, self._texts, floors)
