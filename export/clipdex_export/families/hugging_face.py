"""Shared code of the families in Hugging Face's format: loading a model, checking its weights, running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clipdex.base.errors import CheckpointError
from clipdex_export.checkpoint import Vectors
from clipdex_export.pointers import refuse_weight_pointers
from clipdex_export.quiet import quiet
from clipdex_export.weights import Fit, check_fit, one_line

__all__ = [
    "HfImages",
    "HfTexts",
    "LastHidden",
    "Pooled",
    "load_model",
    "load_processor",
    "model_type",
    "no_questions",
]

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# In the order in which transformers looks for them.
_WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")


def model_type(directory: Path) -> str | None:
    """Return the model_type in config.json; None if the file or the field is missing."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        found = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def load_model(
    directory: Path, config_class: Any, model_class: Any, allow_random: bool, *, unread: tuple[str, ...] = ()
) -> tuple[Any, Fit]:
    """Load a model of transformers in float32 with eager attention -> the model, and how its weights fit.

    Args:
        directory: of the checkpoint.
        config_class, model_class: of transformers.
        allow_random: fill missing weights at random.
        unread: prefixes of the names of weights that are never used, so that they may be missing.

    Raises:
        CheckpointError: it is unreadable, or its weights are missing or do not have the shapes its config states.
    """
    import torch

    no_weights = not any((directory / name).exists() for name in _WEIGHT_FILES)
    if no_weights and not allow_random:
        raise CheckpointError(f"{directory} has no weights: expected {_WEIGHT_FILES[0]} or {_WEIGHT_FILES[2]}")
    refuse_weight_pointers(directory, _WEIGHT_PATTERNS)
    try:
        # Seeded, so that even a model of random weights has one fingerprint.
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if no_weights:
                config = config_class.from_pretrained(
                    directory, attn_implementation="eager", trust_remote_code=False
                )
                model = model_class(config).float().eval()
                return model, Fit(missing=tuple(sorted(model.state_dict())))
            model, info = model_class.from_pretrained(
                directory,
                dtype=torch.float32,
                # Fusion passes recognise the exported graph of eager attention.
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    # safetensors, pickle, json and the config's own checks each raise their own kinds of errors.
    except Exception as exc:
        raise CheckpointError(f"{directory}: the checkpoint cannot be loaded: {one_line(exc)}") from exc
    mismatched = [
        f"{name} ({list(found)}, expected {list(wanted)})" for name, found, wanted in info["mismatched_keys"]
    ]
    missing = tuple(name for name in info["missing_keys"] if not name.startswith(unread or ("\0",)))
    fit = Fit(missing, tuple(mismatched), tuple(info["unexpected_keys"]))
    return model.eval(), check_fit(directory, fit, allow_random=allow_random)


@contextmanager
def no_questions() -> Iterator[None]:
    """Reject checkpoints that need their own code; by default transformers would ask on the terminal to run it.

    This is for third-party code that calls transformers; ours passes trust_remote_code=False.
    """
    from transformers import dynamic_module_utils

    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience


def load_processor(directory: Path, processor_class: Any, kinds: set[str]) -> Any:
    """Load an image processor of transformers in its Pillow form; the file must be for one of these kinds."""
    expected = min(kinds, key=len)
    try:
        with quiet():
            settings, _ = processor_class.get_image_processor_dict(directory)
            kind = settings.get("image_processor_type", settings.get("feature_extractor_type"))
            processor = processor_class.from_pretrained(directory)
    # A wrong type in the file may raise any kind of error.
    except Exception as exc:
        raise CheckpointError(f"{directory}: preprocessor_config.json cannot be read: {one_line(exc)}") from exc
    if kind is not None and kind not in kinds:
        raise CheckpointError(f"{directory}: preprocessor_config.json is for a {kind}; expected a {expected}")
    return processor


class HfImages:
    """The unmodified image processor and model of transformers, as an `ImageReference`."""

    def __init__(self, processor: Any, model: Any) -> None:
        self.processor = processor
        self.model = model

    def pixels(self, images: Sequence[Any]) -> npt.NDArray[np.uint8]:
        """N pictures -> uint8 (N, S, S, 3)."""
        with quiet():
            raw = self.processor(self._given(images), do_rescale=False, do_normalize=False, return_tensors="np")[
                "pixel_values"
            ]
        pixels: npt.NDArray[np.uint8] = raw.transpose(0, 2, 3, 1)
        return pixels

    def vectors(self, images: Sequence[Any]) -> Vectors:
        """N pictures -> float32 (N, D)."""
        import torch

        with quiet(), torch.inference_mode():
            inputs = self.processor(self._given(images), return_tensors="pt")
            return _array(self.model.get_image_features(**inputs))

    def _given(self, images: Sequence[Any]) -> list[Any]:
        """Return the pictures as opened, or as RGB if the processor leaves the conversion to its caller."""
        return list(images) if self.processor.do_convert_rgb else [image.convert("RGB") for image in images]


class HfTexts:
    """The unmodified tokenizer and model of transformers, as a `TextReference`.

    encode: N texts -> the tokenizer's output, as PyTorch tensors. inputs: the names of those to pass to the model.
    """

    def __init__(self, encode: Callable[[list[str]], Any], model: Any, inputs: Sequence[str]) -> None:
        self.encode = encode
        self.model = model
        self.inputs = inputs

    def token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """N texts -> int32 (N, L)."""
        with quiet():
            ids: npt.NDArray[np.int32] = self.encode(list(texts))["input_ids"].numpy().astype(np.int32)
        return ids

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """N texts -> float32 (N, D)."""
        import torch

        with quiet(), torch.inference_mode():
            encoded = self.encode(list(texts))
            return _array(self.model.get_text_features(**{name: encoded[name] for name in self.inputs}))


def _array(output: Any) -> Vectors:
    vectors: Vectors = getattr(output, "pooler_output", output).numpy()
    return vectors


class Pooled(nn.Module):
    """A vision model with its projection: pixels float32 (B, 3, S, S) -> features (B, D)."""

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.projection = projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, S, S) -> (B, D)."""
        features: torch.Tensor = self.projection(self.vision_model(pixels).pooler_output)
        return features


class LastHidden(nn.Module):
    """A text model up to its last hidden states: (token_ids, mask) -> (B, L, W).

    The mask has four dimensions; such a mask transformers adds to the scores unchanged.
    """

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """int32 (B, L) -> (B, L, W)."""
        output: Any = self.text_model(token_ids, attention_mask=mask)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden
