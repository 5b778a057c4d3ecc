"""The gate's reference: the original files, run by their own settings and none of clipdex's code.

Pictures go through NumPy and Pillow by the settings file itself, texts through the tokenizers library by the
repository's tokenizer.json, and both through the original graph in ONNX Runtime. The card is not read here, so
a mistake in it shows as a difference.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.errors import CheckpointError
from clipdex_export.checkpoint import Vectors
from clipdex_export.onnx_sources.graph import Tensor
from clipdex_export.onnx_sources.layout import Style
from clipdex_export.onnx_sources.tower_file import TowerFile
from clipdex_export.sessions import open_session
from clipdex_export.weights import one_line

__all__ = ["OriginalImages", "OriginalTexts", "run_original"]

_DEFAULT_SIZE = 224
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class _Original:
    """The original file, in ONNX Runtime."""

    def __init__(self, file: TowerFile) -> None:
        self.file = file

    @cached_property
    def _session(self) -> Any:
        try:
            return open_session(self.file.path)
        # onnxruntime raises its own kinds of errors, which derive from RuntimeError or Exception.
        except Exception as exc:
            raise CheckpointError(f"{self.file.where} cannot be run by ONNX Runtime: {one_line(exc)}") from exc

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], output: str) -> npt.NDArray[Any]:
        """Run a batch, row by row if the file takes but one -> the output."""
        rows = len(next(iter(feeds.values())))
        if self.file.rows is not None and rows > 1:
            return np.concatenate(
                [self.run({n: v[i : i + 1] for n, v in feeds.items()}, output) for i in range(rows)]
            )
        others = {tensor.name: _ones(tensor) for tensor in self.file.others}
        try:
            result: npt.NDArray[Any] = self._session.run([output], {**others, **feeds})[0]
        except Exception as exc:
            raise CheckpointError(f"{self.file.where} fails in ONNX Runtime: {one_line(exc)}") from exc
        return result


def run_original(file: TowerFile, feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Run an original file once -> its embedding."""
    return _Original(file).run(feeds, file.output)


def _ones(tensor: Tensor) -> npt.NDArray[Any]:
    """Make an input of one row for the other tower, whose output is not used: any values will do."""
    from onnx import helper

    assert tensor.dims is not None
    free = (1, 3, _DEFAULT_SIZE, _DEFAULT_SIZE) if len(tensor.dims) == 4 else (1, 2)
    shape = [default if dim is None else dim for dim, default in zip(tensor.dims, free, strict=True)]
    return np.ones(shape, helper.tensor_dtype_to_np_dtype(tensor.kind))


@dataclass(frozen=True)
class OriginalImages:
    """Pictures by a preprocessor_config.json or preprocess_cfg.json, as an `ImageReference`."""

    settings: Mapping[str, Any]
    style: Style
    file: TowerFile

    @cached_property
    def _original(self) -> _Original:
        return _Original(self.file)

    def pixels(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """N pictures -> uint8 (N, S, S, 3)."""
        prepare = _open_clip_pixels if self.style == "open_clip" else _hugging_face_pixels
        return np.stack([prepare(image.convert("RGB"), self.settings) for image in images])

    def vectors(self, images: Sequence[Image.Image]) -> Vectors:
        """N pictures -> float32 (N, D)."""
        from onnx import helper

        scaled = self.pixels(images).astype(np.float32) * np.float32(self.settings.get("rescale_factor", 1 / 255))
        if self.style == "open_clip" or self.settings.get("do_normalize", True):
            mean, std = self._mean_and_std()
            scaled = (scaled - np.float32(mean)) / np.float32(std)
        given = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
        given = given.astype(helper.tensor_dtype_to_np_dtype(self.file.given.kind))
        return self._original.run({self.file.given.name: given}, self.file.output).astype(np.float32)

    def _mean_and_std(self) -> tuple[Any, Any]:
        if self.style == "open_clip":
            return self.settings.get("mean", _MEAN), self.settings.get("std", _STD)
        siglip = "siglip" in str(self.settings.get("image_processor_type", "")).lower()
        default: tuple[Any, Any] = (0.5, 0.5) if siglip else (_MEAN, _STD)
        return self.settings.get("image_mean", default[0]), self.settings.get("image_std", default[1])


def _hugging_face_pixels(image: Image.Image, settings: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """RGB -> uint8 (S, S, 3), as transformers' image processors do it on Pillow."""
    size, resample = settings["size"], settings.get("resample", 3)
    width, height = image.size
    edge = size if isinstance(size, int) else size.get("shortest_edge")
    crop = settings.get("crop_size")
    siglip = "siglip" in str(settings.get("image_processor_type", "")).lower()
    if edge is None or (siglip and isinstance(size, int)):
        target = (size, size) if isinstance(size, int) else (size["width"], size["height"])
    elif width <= height:
        target = (edge, int(edge * height / width))
    else:
        target = (int(edge * width / height), edge)
    pixels = np.asarray(image.resize(target, resample=Image.Resampling(resample)))
    if not settings.get("do_center_crop", not siglip):
        return pixels
    crop = size if crop is None else crop
    side = crop if isinstance(crop, int) else crop.get("height", edge)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _open_clip_pixels(image: Image.Image, settings: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """RGB -> uint8 (S, S, 3), as OpenCLIP's transforms do it."""
    size = settings["size"]
    side = size if isinstance(size, int) else size[0]
    resample = Image.Resampling[str(settings.get("interpolation", "bicubic")).upper()]
    mode = settings.get("resize_mode", "shortest")
    width, height = image.size
    if mode == "squash":
        return np.asarray(image.resize((side, side), resample=resample))
    if mode == "longest":
        ratio = max(height / side, width / side)
        small = image.resize((max(1, round(width / ratio)), max(1, round(height / ratio))), resample=resample)
        square = Image.new("RGB", (side, side))
        square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
        return np.asarray(square)
    longer = int(side * max(width, height) / min(width, height))
    target = (side, longer) if width <= height else (longer, side)
    pixels = np.asarray(image.resize(target, resample=resample))
    # torchvision rounds a half to the even number.
    top, left = round((pixels.shape[0] - side) / 2), round((pixels.shape[1] - side) / 2)
    return pixels[top : top + side, left : left + side]


@dataclass(frozen=True)
class OriginalTexts:
    """Texts by a tokenizer.json, as a `TextReference`.

    length, pad_id: to which texts are cut and padded, and by what. config: of config.json.
    """

    path: Path
    style: Style
    length: int
    pad_id: int
    config: Mapping[str, Any]
    file: TowerFile

    @cached_property
    def _original(self) -> _Original:
        return _Original(self.file)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.path))
        tokenizer.enable_truncation(max_length=self.length)
        tokenizer.enable_padding(length=self.length, pad_id=self.pad_id)
        return tokenizer

    def token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """N texts -> int32 (N, L)."""
        return np.array([encoded.ids for encoded in self._encoded(texts)], np.int32)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """N texts -> float32 (N, D)."""
        from onnx import helper

        encoded = self._encoded(texts)
        given = {self.file.given: np.array([each.ids for each in encoded])}
        if self.file.mask is not None:
            mask = np.array([each.attention_mask for each in encoded])
            # SigLIP was trained without hiding padding.
            given[self.file.mask] = np.ones_like(mask) if self.config.get("model_type") == "siglip" else mask
        for tensor in self.file.zeros:
            given[tensor] = np.zeros((len(texts), self.length))
        feeds = {t.name: value.astype(helper.tensor_dtype_to_np_dtype(t.kind)) for t, value in given.items()}
        return self._original.run(feeds, self.file.output).astype(np.float32)

    def _encoded(self, texts: Sequence[str]) -> Any:
        return self._tokenizer.encode_batch([self._cleaned(text) for text in texts])

    def _cleaned(self, text: str) -> str:
        if self.style == "open_clip":  # as Immich does it
            text = " ".join(text.split())
            options = self.config.get("text_cfg", {}).get("tokenizer_kwargs", {})
            if options.get("clean") == "canonicalize":
                text = "".join(character for character in text if character not in string.punctuation).lower()
        return text
