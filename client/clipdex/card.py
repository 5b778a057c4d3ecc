"""The model card: what a client must know of a model to prepare its inputs and trust its vectors.

A card travels inside `NAME_assets` beside the tokenizer, so a client that is given a server's address
and a model's name needs nothing else. docs/model-repository.md describes every field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clipdex.cleaning import STEPS, known_steps
from clipdex.errors import CardError

__all__ = ["FORMAT_VERSION", "ImageSpec", "ModelCard", "TextSpec", "check_model_name"]

FORMAT = "clipdex-card"
FORMAT_VERSION = 1

_NAME = re.compile(r"[a-z0-9_]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# What may follow each kind of resize.
_CROPS = {"shortest_edge": ("center", "center_half_even"), "squash": ("none",), "longest_edge": ("pad",)}


def check_model_name(name: str) -> str:
    """Return `name` if it can be a model's name, else raise CardError."""
    if not _NAME.fullmatch(name):
        raise CardError(f"{name!r} cannot name a model: use small letters, digits and underscores, as in vit_b_32")
    return name


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the uint8 `pixels` of shape (size, size, 3).

    resize: "shortest_edge" scales the shorter side to `resize_to`, and the crop cuts `size` from the middle;
    "squash" scales both sides to `size`, whatever the shape; "longest_edge" scales the longer side to `size`.
    crop: "center", or "center_half_even" where half a pixel over is rounded to the even number and not down;
    "none" after a squash; "pad" after "longest_edge": black to both sides.
    fill: the RGB laid under transparent pixels.
    mean, std: for the record; the ONNX graph applies them.
    """

    size: int
    resize_to: int
    resize: str
    interpolation: str
    crop: str
    fill: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        _require(self.size > 0 and self.resize_to > 0, "image.size", self.size, "a positive number of pixels")
        _require(self.resize in _CROPS, "image.resize", self.resize, f"one of {', '.join(_CROPS)}")
        _require(
            self.interpolation in ("bicubic", "bilinear", "lanczos"),
            "image.interpolation",
            self.interpolation,
            "bicubic, bilinear or lanczos",
        )
        crops = _CROPS[self.resize]
        _require(self.crop in crops, "image.crop", self.crop, f"{' or '.join(crops)} after {self.resize}")
        if self.resize != "shortest_edge":
            _require(self.resize_to == self.size, "image.resize_to", self.resize_to, f"image.size, {self.size}")
        _require(
            len(self.fill) == 3 and all(0 <= c <= 255 for c in self.fill),
            "image.fill",
            self.fill,
            "three numbers from 0 to 255",
        )
        _require(len(self.mean) == 3, "image.mean", self.mean, "three numbers")
        _require(len(self.std) == 3 and all(s > 0 for s in self.std), "image.std", self.std, "three numbers")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImageSpec:
        """The spec from parsed JSON, which has lists where the frozen dataclass has tuples."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class TextSpec:
    """How a text becomes the int32 `token_ids` of shape (context_length,).

    cleaning: what is done to a text before the tokenizer: names of `clipdex.cleaning.STEPS` with a blank between
    them, or "none".
    """

    context_length: int
    pad_id: int
    end_id: int
    cleaning: str
    tokenizer_sha256: str

    def __post_init__(self) -> None:
        _require(self.context_length > 2, "text.context_length", self.context_length, "a number of tokens above 2")
        _require(
            known_steps(self.cleaning), "text.cleaning", self.cleaning, f"none, or steps from {', '.join(STEPS)}"
        )
        _require_sha256("text.tokenizer_sha256", self.tokenizer_sha256)


@dataclass(frozen=True)
class ModelCard:
    """One exported model. Build it with `ModelCard(...)`; the fingerprint follows from the rest."""

    name: str
    source: str
    revision: str
    weights_sha256: str
    embedding_dim: int
    image: ImageSpec
    text: TextSpec
    logit_scale: float
    logit_bias: float
    precision: str
    parity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_model_name(self.name)
        _require_sha256("weights_sha256", self.weights_sha256)
        _require(self.embedding_dim > 0, "embedding_dim", self.embedding_dim, "a positive number")
        _require(self.precision in ("fp32", "fp16", "int8"), "precision", self.precision, "fp32, fp16 or int8")

    @property
    def fingerprint(self) -> str:
        """The identity of the embedding space: sha256 over architecture, weights, preprocessing, tokenizer.

        Name, source and precision stay out of it: the same checkpoint exported twice, or in another
        precision, gives vectors that may live in one index.
        """
        space = {
            "weights_sha256": self.weights_sha256,
            "embedding_dim": self.embedding_dim,
            "image": asdict(self.image),
            "text": asdict(self.text),
        }
        return hashlib.sha256(_canonical_json(space)).hexdigest()

    @property
    def scoring(self) -> str:
        """How cosines become probabilities: "softmax", or "sigmoid" for a model that has a bias (SigLIP)."""
        return "sigmoid" if self.logit_bias else "softmax"

    @property
    def below_floor(self) -> str | None:
        """What the gate found wrong, if the model was installed all the same (`clipdex export --force`)."""
        return str(self.parity.get("problem", "it is not said where")) if self.parity.get("forced") else None

    def to_json(self) -> str:
        """The text of `card.json`; `from_json` reads it back."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "fingerprint": self.fingerprint}
        return json.dumps(head | asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelCard:
        """Read a card.

        Raises:
            CardError: not a card, of a newer format, a field missing or out of range, or a
                fingerprint that does not follow from the fields.
        """
        try:
            data = json.loads(text)
        except ValueError as exc:
            raise CardError(f"the model card is not JSON: {exc}") from exc
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CardError(f'this is not a model card: expected a JSON object with "format": "{FORMAT}"')
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise CardError(
                f"the model card has format version {version!r}, this clipdex reads {FORMAT_VERSION}: "
                "export the model again, or install the clipdex that wrote it"
            )
        try:
            card = cls(
                name=_text(data["name"]),
                source=_text(data["source"]),
                revision=_text(data["revision"]),
                weights_sha256=_text(data["weights_sha256"]),
                embedding_dim=int(data["embedding_dim"]),
                image=ImageSpec.from_dict(data["image"]),
                text=TextSpec(**data["text"]),
                logit_scale=float(data["logit_scale"]),
                logit_bias=float(data["logit_bias"]),
                precision=_text(data["precision"]),
                parity=dict(data.get("parity", {})),
            )
        except CardError:
            raise
        except KeyError as exc:
            raise CardError(f"the model card lacks the field {exc}") from exc
        except (TypeError, ValueError, AttributeError) as exc:
            raise CardError(f"the model card has a field of the wrong kind: {exc}") from exc
        if data.get("fingerprint") != card.fingerprint:
            raise CardError(
                f"the model card of {card.name} was changed after export: it states the fingerprint "
                f"{str(data.get('fingerprint'))[:12]}, its fields give {card.fingerprint[:12]}"
            )
        return card


def _canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _require(ok: bool, where: str, found: object, expected: str) -> None:
    if not ok:
        raise CardError(f"the model card's {where} is {found!r}; expected {expected}")


def _require_sha256(where: str, found: str) -> None:
    _require(bool(_SHA256.fullmatch(found)), where, found, "64 hexadecimal digits")
