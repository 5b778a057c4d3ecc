"""What every family of checkpoints becomes: two halves, each with its rules, its tower, and the source's own way.

    source ─▶ family ─▶ Checkpoint ─┬─ image: ImageSpec, tower, reference
                                    └─ text:  TextSpec, tokenizer.json, tower, reference

The towers are what is exported. The references are what they are compared with: the source's own code for
pictures and texts, which knows nothing of our specs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import CheckpointError
from clipdex.model.card import ImageSpec, ModelCard, TextSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["Checkpoint", "ImageHalf", "ImageReference", "Layers", "TextHalf", "TextReference"]

Vectors = npt.NDArray[np.float32]


class ImageReference(Protocol):
    """The source's own preprocessing and float32 model."""

    def pixels(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """N pictures as Pillow opened them -> uint8 (N, S, S, 3), before normalisation."""

    def vectors(self, images: Sequence[Image.Image]) -> Vectors:
        """N pictures -> float32 (N, D), of any length."""


class TextReference(Protocol):
    """The source's own tokenizer and float32 model."""

    def token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """N texts -> int32 (N, L)."""

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """N texts -> float32 (N, D), of any length."""


@dataclass(frozen=True)
class Layers:
    """The attention of a transformer that ONNX Runtime's optimizer knows: how often it must find it."""

    heads: int
    width: int
    layers: int

    @classmethod
    def of(cls, config: Any) -> Layers:
        """Those of a transformer of Hugging Face's: every one has all."""
        return cls(config.num_attention_heads, config.hidden_size, config.num_hidden_layers)


@dataclass
class _Half:
    """tower: wire tensors -> unit vectors. layers: None where the optimizer knows no such attention."""

    embedding_dim: int
    tower: torch.nn.Module | None
    layers: Layers | None

    def take_tower(self) -> torch.nn.Module:
        """The tower, which is forgotten here, so that its memory can be given back after it is written."""
        tower, self.tower = self.tower, None
        if tower is None:
            raise AssertionError("a tower is taken once")
        return tower


@dataclass
class ImageHalf(_Half):
    """tower: pixels uint8 (B, S, S, 3) -> float32 (B, D)."""

    spec: ImageSpec
    reference: ImageReference | None


@dataclass
class TextHalf(_Half):
    """tower: token_ids int32 (B, L) -> float32 (B, D)."""

    spec: TextSpec
    tokenizer_json: bytes
    reference: TextReference | None


@dataclass
class Checkpoint:
    """A loaded checkpoint.

    weights_sha256: names the architecture and the weights as loaded, however the files are laid out.
    random_weights: names made up because `allow_random` let them be missing.
    unused_weights: names in the files that the model has no place for.
    """

    family: str
    source: str
    revision: str
    image: ImageHalf
    text: TextHalf
    logit_scale: float
    logit_bias: float
    weights_sha256: str
    random_weights: tuple[str, ...] = ()
    unused_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.image.embedding_dim != self.text.embedding_dim:
            raise CheckpointError(
                f"{self.source}: pictures become {self.image.embedding_dim} numbers and texts "
                f"{self.text.embedding_dim}: the towers are not of one model"
            )

    @property
    def embedding_dim(self) -> int:
        """Numbers in a vector, of pictures and of texts."""
        return self.image.embedding_dim

    def card(self, name: str, precision: str) -> ModelCard:
        """The model card of an export of this, before the gate has reported."""
        return ModelCard(
            name=name,
            source=self.source,
            revision=self.revision,
            weights_sha256=self.weights_sha256,
            embedding_dim=self.embedding_dim,
            image=self.image.spec,
            text=self.text.spec,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            precision=precision,
        )

    def forget_references(self) -> None:
        """Let go of the source's models: from here on only the towers hold weights."""
        self.image.reference = self.text.reference = None
