"""Zero-shot classification: which of some labels a picture shows, by a model that was never trained on them.

label ─▶ each template ─▶ text vectors ─▶ their mean, of norm 1
picture · labels ─▶ × logit scale ─▶ softmax, or + bias ─▶ sigmoid
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import InvalidArgument, ServerFault
from clipdex.client.embedding import image_steps, text_steps
from clipdex.client.steps import Steps
from clipdex.model.card import ModelCard
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource
from clipdex.model.texts import text_list

if TYPE_CHECKING:
    from clipdex.client.client import Client

__all__ = ["DEFAULT_TEMPLATES", "classify_steps", "label_steps", "probabilities"]

# What CLIP's authors take where a label is a noun.
DEFAULT_TEMPLATES = ("a photo of a {}",)
_BLANK = "{}"
# Of vectors of norm 1. Below it, the direction of their mean is rounding.
_SMALLEST_MEAN = 1e-3


def classify_steps(
    client: Client,
    images: Iterable[ImageSource],
    labels: Iterable[str],
    templates: Iterable[str],
    *,
    icc: IccUse = "off",
    wait: bool = False,
) -> Steps[Vectors]:
    """The steps of `Client.classify`. wait: see `pixel_steps`."""
    of_images = image_steps(client, images, icc=icc, wait=wait)  # begins when it is waited for
    label_vectors = yield from label_steps(client, labels, templates, wait=wait)
    pictures = yield from of_images
    return probabilities(client.card, pictures, label_vectors)


def label_steps(
    client: Client, labels: Iterable[str], templates: Iterable[str], *, wait: bool = False
) -> Steps[Vectors]:
    """K labels -> float32 (K, D) of norm 1: each the mean of its vectors in all templates, as CLIP's authors do.

    Raises:
        InvalidArgument: there are too few labels, one is empty or there twice, or a template has no place for it.
    """
    labels, templates = text_list(labels, "labels"), text_list(templates, "templates")
    _check(client.card, labels, templates)
    texts = [template.replace(_BLANK, label.strip()) for label in labels for template in templates]
    vectors = yield from text_steps(client, texts, wait=wait)
    means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    if norms.min() < _SMALLEST_MEAN:
        label = labels[int(norms.argmin())].strip()
        raise InvalidArgument(f"the templates give the label {label!r} vectors that cancel each other: use others")
    unit: Vectors = means / norms
    return unit


def probabilities(card: ModelCard, pictures: Vectors, labels: Vectors) -> Vectors:
    """float32 (N, D) and (K, D) -> float32 (N, K).

    softmax: they add up to 1 for each picture. sigmoid (SigLIP): each label is judged alone.

    Raises:
        ServerFault: what the vectors and the card give are no probabilities.
    """
    logits = card.logit_scale * (pictures.astype(np.float64) @ labels.T.astype(np.float64)) + card.logit_bias
    if card.scoring == "sigmoid":
        result: Vectors = np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
    else:
        odds = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        result = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    if not np.isfinite(result).all():
        raise ServerFault(f"the vectors and the card of {card.name} give no probabilities: the model is broken")
    return result


def _check(card: ModelCard, labels: Sequence[str], templates: Sequence[str]) -> None:
    names = [label.strip() for label in labels]
    if not all(names):
        raise InvalidArgument("a label is empty; say what a picture may show")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidArgument(f"the label {name!r} is there twice")
        seen.add(name)
    if len(names) < (1 if card.scoring == "sigmoid" else 2):
        raise InvalidArgument(
            f"{len(names)} labels: {card.name} says which of several fits best; give two or more, such as "
            "a cat, something else"
        )
    if not templates:
        raise InvalidArgument('templates is empty; give one, such as "a photo of a {}"')
    for template in templates:
        if _BLANK not in template:
            raise InvalidArgument(f"the template {template!r} has no place for the label: write {{}} there")
