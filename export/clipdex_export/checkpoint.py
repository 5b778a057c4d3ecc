"""The common form of all checkpoints: an image half and a text half, each with a spec, a tower and a reference.

    source ─▶ family ─▶ Checkpoint ─┬─ image: ImageSpec, tower, reference
                                    └─ text:  TextSpec, tokenizer.json, tower, reference

The towers are exported. They are compared with the references: the source's own code for pictures and texts, which
is independent of our specs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import CheckpointError
from clipdex.model.card import ImageSpec, ModelCard, TextSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = [
    "PAIR_PREFIX",
    "Checkpoint",
    "ImageHalf",
    "ImageReference",
    "Layers",
    "TextHalf",
    "TextReference",
    "WrittenTower",
]

# Of a source that consists of two: pair:IMAGE_SOURCE+TEXT_SOURCE.
PAIR_PREFIX = "pair:"

Vectors = npt.NDArray[np.float32]


class ImageReference(Protocol):
    """The source's own preprocessing and float32 model."""

    def pixels(self, images: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
        """Preprocess N pictures as opened by Pillow -> uint8 (N, S, S, 3), before normalisation."""

    def vectors(self, images: Sequence[Image.Image]) -> Vectors:
        """Embed N pictures -> float32 (N, D), not normalised."""


class TextReference(Protocol):
    """The source's own tokenizer and float32 model."""

    def token_ids(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Tokenize N texts -> int32 (N, L)."""

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed N texts -> float32 (N, D), not normalised."""


class WrittenTower(ABC):
    """A tower that is not a module of PyTorch: it writes itself as an ONNX file."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the tower."""


@dataclass(frozen=True)
class Layers:
    """The sizes of a transformer whose attention ONNX Runtime's optimizer recognises, once in each layer."""

    heads: int
    width: int
    layers: int

    @classmethod
    def of(cls, config: Any) -> Layers:
        """Read them from a config of Hugging Face's."""
        return cls(config.num_attention_heads, config.hidden_size, config.num_hidden_layers)


@dataclass
class _Half:
    """One half of a checkpoint.

    tower: wire tensors -> unit vectors. layers: None if the optimizer does not recognise its attention.
    """

    embedding_dim: int
    tower: torch.nn.Module | WrittenTower | None
    layers: Layers | None

    def take_tower(self) -> torch.nn.Module | WrittenTower:
        """Return the tower and drop it here, so that its memory can be freed once it is written."""
        tower, self.tower = self.tower, None
        if tower is None:
            raise AssertionError("a tower can be taken only once")
        return tower


@dataclass
class ImageHalf(_Half):
    """The image half. tower: pixels uint8 (B, S, S, 3) -> float32 (B, D)."""

    spec: ImageSpec
    reference: ImageReference | None


@dataclass
class TextHalf(_Half):
    """The text half. tower: token_ids int32 (B, L) -> float32 (B, D)."""

    spec: TextSpec
    tokenizer_json: bytes
    reference: TextReference | None


@dataclass
class Checkpoint:
    """A loaded checkpoint.

    weights_sha256: over the architecture and the weights as loaded, independent of the file layout.
    random_weights: names of missing weights that were filled at random, as `allow_random` permits.
    unused_weights: names of weights in the files that the model does not have.
    precision: that of the weights as they are: "fp32", or "fp16" for files that have no other.
    row_by_row: whether a tower computes the rows of a batch one after another.
    ready_made: whether it consists of ONNX files, and needs no PyTorch.
    remarks: what the card says of the source beside the gate's report.
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
    precision: str = "fp32"
    row_by_row: bool = False
    ready_made: bool = False
    remarks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.embedding_dim != self.text.embedding_dim:
            raise CheckpointError(
                f"{self.source}: the image tower gives vectors of {self.image.embedding_dim} dimensions and the "
                f"text tower of {self.text.embedding_dim}: they do not belong to the same model"
            )

    @property
    def embedding_dim(self) -> int:
        """Dimensions of an embedding."""
        return self.image.embedding_dim

    @property
    def runtime(self) -> str:
        """What computes the references, for messages."""
        return "ONNX Runtime" if self.ready_made else "PyTorch"

    def card(self, name: str, precision: str) -> ModelCard:
        """Make the model card for an export, without the gate's report."""
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
        """Drop the source's models: from now on only the towers hold weights."""
        self.image.reference = self.text.reference = None
