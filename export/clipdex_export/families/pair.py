"""Two checkpoints as one model: the image tower of a CLIP, and a text tower that was trained to match it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from clipdex.base.errors import CheckpointError
from clipdex_export.checkpoint import PAIR_PREFIX, Checkpoint
from clipdex_export.families.family import Family
from clipdex_export.families.text_towers import TEXT_TOWERS, TextFamily
from clipdex_export.hub import fetch_weights, find_checkpoint

__all__ = ["PAIR", "PAIR_PREFIX", "load_pair", "text_family_of"]


def load_pair(source: str, allow_random: bool, load_image: Callable[[str], Checkpoint]) -> Checkpoint:
    """Load `pair:IMAGE_SOURCE+TEXT_SOURCE`; load_image loads the first, anything that can be exported alone.

    Raises:
        CheckpointError: one of the two cannot be loaded, or their vectors have different lengths.
    """
    image_source, plus, text_source = source.removeprefix(PAIR_PREFIX).rpartition("+")
    if not (image_source and plus and text_source):
        raise CheckpointError(f"{source}: expected pair:IMAGE_SOURCE+TEXT_SOURCE")
    files = find_checkpoint(text_source, None)
    family = text_family_of(files.directory)
    if family is None:
        marks = "; ".join(family.marks for family in TEXT_TOWERS)
        raise CheckpointError(f"{text_source} is not a text tower of a known kind: looked for {marks}")
    for patterns in family.weights(files.directory):
        fetch_weights(files, patterns)
    text = family.load(files, allow_random)
    pictures = load_image(image_source)
    both = f"{pictures.weights_sha256} {text.weights_sha256}"
    return Checkpoint(
        family=PAIR.name,
        source=source,
        revision="+".join((pictures.revision, files.revision)).strip("+"),
        image=pictures.image,
        text=text.half,
        logit_scale=pictures.logit_scale,
        logit_bias=pictures.logit_bias,
        weights_sha256=hashlib.sha256(both.encode()).hexdigest(),
        random_weights=(*pictures.random_weights, *text.fit.made_up),
        unused_weights=(*pictures.unused_weights, *text.fit.unused),
    )


def text_family_of(directory: Path) -> TextFamily | None:
    """Return the family of a directory that has only a text tower; None if it is none."""
    return next((family for family in TEXT_TOWERS if family.recognises(directory)), None)


PAIR = Family(
    name="pair",
    title="A multilingual text tower with the image tower of a CLIP",
    examples="`pair:sentence-transformers/clip-ViT-B-32+sentence-transformers/clip-ViT-B-32-multilingual-v1`, "
    "`pair:open_clip:ViT-B-32-quickgelu/openai+M-CLIP/XLM-Roberta-Large-Vit-B-32`",
    marks='the prefix "pair:"; of its text tower, ' + " or ".join(family.marks for family in TEXT_TOWERS),
    picture="that of the image tower",
    text="the tokenizer of transformers; padding hidden, mean of the rest",
    fused="the image tower, where its own family says so",
    recognises=lambda directory: False,
    weights=(),
    load=lambda source, files, allow_random: load_pair(source, allow_random, _no_image),
)


def _no_image(source: str) -> Checkpoint:
    raise AssertionError("a pair is found by its prefix")
