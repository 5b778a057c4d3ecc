"""The model card: what a client must know about a model to prepare its inputs and trust its vectors.

A card is part of `NAME_assets`, next to the tokenizer, so a client that has a server's address and a model's name
needs nothing else. docs/model-repository.md describes every field.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clipdex.base.errors import CardError
from clipdex.base.json_text import parse_plain_json
from clipdex.model.cleaning import STEPS, known_steps

__all__ = ["FORMAT_VERSION", "ImageSpec", "ModelCard", "TextSpec", "check_model_name"]

FORMAT = "clipdex-card"
FORMAT_VERSION = 1

_NAME = re.compile(r"[a-z0-9_]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# A card comes from whoever runs the server, and a client allocates memory by it. These limits are beyond every
# existing model.
_MOST_PIXELS = 4096  # along a side
_MOST_DIMENSIONS = 65_536
_MOST_TOKENS = 32_768
_LARGEST_ID = 2**31 - 1  # token ids are int32
_LARGEST_REAL = 1e6
_LONGEST_TEXT = 4096  # characters
_LONGEST_NAME = 200  # it becomes part of a file name
_LARGEST_CARD = 1 << 20  # bytes; typical cards have 2 kB

# Each kind of resize -> the crops that may follow it.
_CROPS = {"shortest_edge": ("center", "center_half_even"), "squash": ("none",), "longest_edge": ("pad",)}


def check_model_name(name: str) -> str:
    """Return `name` if it is a valid model name, else raise CardError."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise CardError(
            f"{name!r} is not a valid model name: use lower-case letters, digits and underscores, as in vit_b_32"
        )
    return name


@dataclass(frozen=True)
class ImageSpec:
    """Preprocessing of pictures to uint8 `pixels` of shape (size, size, 3).

    resize: "shortest_edge" scales the shorter side to `resize_to`, and the crop cuts `size` from the middle;
    "squash" scales both sides to `size`, whatever the shape; "longest_edge" scales the longer side to `size`.
    crop: "center", or "center_half_even" if an odd margin is halved to the even number instead of down;
    "none" after a squash; "pad" after "longest_edge": black on both sides.
    fill: the RGB behind transparent pixels.
    mean, std: for information; the ONNX graph applies them.
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
        _require_whole("image.size", self.size, 1, _MOST_PIXELS)
        _require_whole("image.resize_to", self.resize_to, 1, _MOST_PIXELS)
        _require_one_of("image.resize", self.resize, tuple(_CROPS))
        _require_one_of("image.interpolation", self.interpolation, ("bicubic", "bilinear", "lanczos"))
        crops = _CROPS[self.resize]
        _require(self.crop in crops, "image.crop", self.crop, f"{' or '.join(crops)} after {self.resize}")
        if self.resize != "shortest_edge":
            _require(self.resize_to == self.size, "image.resize_to", self.resize_to, f"image.size, {self.size}")
        for where, triple in (("image.fill", self.fill), ("image.mean", self.mean), ("image.std", self.std)):
            _require(isinstance(triple, tuple) and len(triple) == 3, where, triple, "three numbers")
        for part in self.fill:
            _require_whole("image.fill", part, 0, 255)
        for mean in self.mean:
            _require_real("image.mean", mean)
        for std in self.std:
            _require_real("image.std", std, positive=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImageSpec:
        """Make a spec from parsed JSON, which has lists where the dataclass has tuples."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**fields)  # TypeError: a field is missing or unknown


@dataclass(frozen=True)
class TextSpec:
    """Preprocessing of texts to int32 `token_ids` of shape (context_length,).

    cleaning: steps applied to a text before the tokenizer: names in `clipdex.model.cleaning.STEPS`, separated by
    spaces, or "none".
    """

    context_length: int
    pad_id: int
    end_id: int
    cleaning: str
    tokenizer_sha256: str

    def __post_init__(self) -> None:
        _require_whole("text.context_length", self.context_length, 3, _MOST_TOKENS)
        _require_whole("text.pad_id", self.pad_id, 0, _LARGEST_ID)
        _require_whole("text.end_id", self.end_id, 0, _LARGEST_ID)
        _require_text("text.cleaning", self.cleaning)
        _require(
            known_steps(self.cleaning), "text.cleaning", self.cleaning, f"none, or steps from {', '.join(STEPS)}"
        )
        _require_sha256("text.tokenizer_sha256", self.tokenizer_sha256)


@dataclass(frozen=True)
class ModelCard:
    """The description of one exported model. The fingerprint is computed from the other fields."""

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
        for where in ("name", "source", "revision"):
            _require_text(where, getattr(self, where))
        check_model_name(self.name)
        _require_sha256("weights_sha256", self.weights_sha256)
        _require_whole("embedding_dim", self.embedding_dim, 1, _MOST_DIMENSIONS)
        _require_one_of("precision", self.precision, ("fp32", "tf32", "fp16", "bf16", "int8"))
        _require_real("logit_scale", self.logit_scale)
        _require_real("logit_bias", self.logit_bias)

    @property
    def fingerprint(self) -> str:
        """Identity of the embedding space: sha256 over architecture, weights, preprocessing, tokenizer.

        It excludes name, source and precision: the same checkpoint exported twice, or in another precision, gives
        vectors that may share an index.
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
        """Function that turns cosines into probabilities: "softmax", or "sigmoid" if there is a bias (SigLIP)."""
        return "sigmoid" if self.logit_bias else "softmax"

    @property
    def text_precision(self) -> str:
        """Precision of the text tower, which the gate may have left in float32."""
        return str(self.parity.get("text_precision", self.precision))[:_LONGEST_TEXT]

    @property
    def below_floor(self) -> str | None:
        """The gate's objection, if the model was installed anyway (`clipdex export --force`), else None."""
        problem = str(self.parity.get("problem", "it failed the gate"))
        return problem[:_LONGEST_TEXT] if self.parity.get("forced") else None

    def to_json(self) -> str:
        """Return the text of `card.json`; `from_json` reads it back."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "fingerprint": self.fingerprint}
        return json.dumps(head | asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelCard:
        """Read a card.

        Raises:
            CardError: it is not a card or has a newer format, a field is missing, has the wrong type or is out of
                range, or the fingerprint does not match the fields.
        """
        if len(text) > _LARGEST_CARD:
            raise CardError(f"the model card is {len(text):,} bytes long; expected at most {_LARGEST_CARD:,}")
        try:
            data = parse_plain_json(text)
        except ValueError as exc:
            raise CardError(f"the model card is not JSON: {exc}") from exc
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CardError(f'this is not a model card: expected a JSON object with "format": "{FORMAT}"')
        version = data.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise CardError(
                f"the model card has format version {_shown(version)}, but this clipdex reads {FORMAT_VERSION}: "
                "export the model again, or install the clipdex that wrote it"
            )
        try:
            card = cls(
                name=data["name"],
                source=data["source"],
                revision=data["revision"],
                weights_sha256=data["weights_sha256"],
                embedding_dim=data["embedding_dim"],
                image=ImageSpec.from_dict(_object(data, "image")),
                text=TextSpec(**_object(data, "text")),
                logit_scale=data["logit_scale"],
                logit_bias=data["logit_bias"],
                precision=data["precision"],
                parity=_object(data, "parity") if "parity" in data else {},
            )
        except CardError:
            raise
        except KeyError as exc:
            raise CardError(f"the model card lacks the field {exc}") from exc
        except TypeError as exc:
            raise CardError(f"the model card has a wrong field: {str(exc)[:200]}") from exc
        stated = data.get("fingerprint")
        if stated != card.fingerprint:
            shown = stated[:12] if isinstance(stated, str) else _shown(stated)
            raise CardError(
                f"the model card of {card.name} was changed after export: it states the fingerprint {shown}, "
                f"but its fields give {card.fingerprint[:12]}"
            )
        return card


def _canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _object(data: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    value = data[where]
    _require(isinstance(value, dict), where, value, "an object")
    found: Mapping[str, Any] = value
    return found


def _shown(value: object) -> str:
    """Format a value from a card, short enough for an error message."""
    try:
        text = repr(value)
    except ValueError:  # a whole number with more digits than Python prints
        return "a number too long to print"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _require(ok: bool, where: str, found: object, expected: str) -> None:
    if not ok:
        raise CardError(f"the model card's {where} is {_shown(found)}; expected {expected}")


def _require_whole(where: str, found: object, least: int, most: int) -> None:
    # In Python a bool is an int, but JSON's true is not a number of pixels.
    ok = isinstance(found, int) and not isinstance(found, bool) and least <= found <= most
    _require(ok, where, found, f"a whole number from {least:,} to {most:,}")


def _require_real(where: str, found: object, *, positive: bool = False) -> None:
    ok = isinstance(found, (int, float)) and not isinstance(found, bool) and abs(found) <= _LARGEST_REAL
    ok = ok and math.isfinite(found) and (found > 0 or not positive)  # type: ignore[arg-type,operator]
    _require(ok, where, found, f"a {'positive ' if positive else ''}number of at most {_LARGEST_REAL:,.0f}")


def _require_text(where: str, found: object) -> None:
    ok = isinstance(found, str) and len(found) <= _LONGEST_TEXT
    _require(ok, where, found, f"a text of at most {_LONGEST_TEXT:,} characters")


def _require_one_of(where: str, found: object, choices: tuple[str, ...]) -> None:
    _require(found in choices, where, found, f"{', '.join(choices[:-1])} or {choices[-1]}")


def _require_sha256(where: str, found: object) -> None:
    _require(isinstance(found, str) and bool(_SHA256.fullmatch(found)), where, found, "64 hexadecimal digits")
