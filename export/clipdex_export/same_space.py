"""Proof that two exports have one embedding space, and the card by which they may share an index.

The same model exported from PyTorch and adopted from ONNX has two fingerprints, since each exporter names, folds
and transposes weights in its own way. Here both are run on the gate's pictures and texts, with the other's
preprocessing and tokenizer, as they will be installed. If all vectors agree, the export takes the other's
preprocessing, tokenizer and weights_sha256, and with them its fingerprint. The card records the export's own
sha256 and the cosines.

A proof is never based on another proof, on a model that failed its own gate, or on int8, whose floor is too low to
tell closely related models apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipdex.base.errors import CardError, InvalidArgument, ParityError
from clipdex.model.assets import unpack_assets
from clipdex.model.card import ModelCard
from clipdex_export.gate import export_side, gate_set
from clipdex_export.verdict import OVERLAP_FLOOR, Floors, judge

__all__ = ["FLOORS", "Other", "as_same_space", "find_other"]

# The smallest cosine of any picture or text, by the other model's precision.
FLOORS = {"fp32": 0.9999, "fp16": 0.999}


@dataclass(frozen=True)
class Other:
    """An installed model. image, text: its towers' ONNX files."""

    card: ModelCard
    tokenizer_json: bytes
    image: Path
    text: Path


def find_other(given: Path, repository: Path) -> Other:
    """Find a model by its name in the repository, or by the path DIR/NAME.

    Raises:
        InvalidArgument: there is none, it cannot be read, or it proves nothing.
    """
    directory = repository if given == Path(given.name) else given.parent
    files = {
        tower: directory / f"{given.name}_{tower}" / "1" / "model.onnx" for tower in ("image", "text", "assets")
    }
    for file in files.values():
        if not file.is_file():
            raise InvalidArgument(f"same_as is {given}: {directory} has no model {given.name} ({file} is missing)")
    try:
        assets = unpack_assets(_zip_in(files["assets"]))
    except CardError as exc:
        raise InvalidArgument(f"same_as is {given}: {exc}") from exc
    card = assets.card
    if card.below_floor is not None:
        problem = f"was installed although {card.below_floor}"
    elif "image_cosine_min" not in card.parity or card.parity.get("random_weights"):
        problem = "was never compared with a trained checkpoint"
    elif "same_as" in card.parity:
        problem = f"has its own fingerprint from {card.parity['same_as']}: compare with that"
    elif card.precision not in FLOORS:
        problem = f"is in {card.precision}: compare with the same model in fp32 or fp16"
    else:
        return Other(card, assets.tokenizer_json, files["image"], files["text"])
    raise InvalidArgument(f"same_as is {given}, which proves nothing: {card.name} {problem}")


def as_same_space(
    card: ModelCard, image_onnx: Path, text_onnx: Path, other: Other
) -> tuple[ModelCard, bytes, dict[str, Any]]:
    """Compare two towers with another model's -> the card with its fingerprint, its tokenizer, the proof.

    Raises:
        ParityError: they do not give the same vectors.
    """
    theirs = other.card
    for what, ours, expected in (
        ("vectors of {} dimensions", card.embedding_dim, theirs.embedding_dim),
        ("pictures of {} pixels", card.image.size, theirs.image.size),
        ("texts of {} tokens", card.text.context_length, theirs.text.context_length),
    ):
        if ours != expected:
            raise ParityError(
                f"{card.name} is not the same as {theirs.name}: it has {what.format(ours)}, and {theirs.name} has "
                f"{what.format(expected)}"
            )
    pictures, texts = gate_set(drawn=True)
    mine, yours = (
        export_side(image, text, theirs.image, theirs.text, other.tokenizer_json, pictures, texts)
        for image, text in ((image_onnx, text_onnx), (other.image, other.text))
    )
    floors = Floors(FLOORS[theirs.precision], OVERLAP_FLOOR)
    verdict = judge(yours, mine, mine, [picture.name for picture in pictures], texts, floors)
    report = verdict.report
    if verdict.problem is not None:
        raise ParityError(
            f"{card.name} is not the same as {theirs.name}: the smallest cosine is {report.image_cosine_min:.6f} "
            f"for pictures and {report.text_cosine_min:.6f} for texts, the floor is {floors.cosine}; of the best "
            f"pictures of a text {report.top10_overlap:.1%} are the same, the floor is {floors.overlap:.0%}",
            verdict.table(),
        )
    proof = {
        "same_as": theirs.name,
        "same_as_floor": floors.cosine,
        "same_as_image_cosine_min": report.image_cosine_min,
        "same_as_text_cosine_min": report.text_cosine_min,
        "own_weights_sha256": card.weights_sha256,
        "logit_scale": theirs.name,
    }
    shared = replace(
        card,
        weights_sha256=theirs.weights_sha256,
        image=theirs.image,
        text=theirs.text,
        logit_scale=theirs.logit_scale,
        logit_bias=theirs.logit_bias,
    )
    assert shared.fingerprint == theirs.fingerprint
    return shared, other.tokenizer_json, proof


def _zip_in(path: Path) -> bytes:
    """Read the zip from the graph of NAME_assets."""
    import onnx

    try:
        weights = onnx.load(path, load_external_data=False).graph.initializer
    # protobuf raises its own kinds of errors.
    except Exception as exc:
        raise CardError(f"{path} cannot be read as an ONNX file") from exc
    data = next((tensor.raw_data for tensor in weights if tensor.name == "zip"), None)
    if data is None:
        raise CardError(f"{path} does not hold a model's assets")
    return bytes(data)
