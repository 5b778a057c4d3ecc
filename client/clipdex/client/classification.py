"""Zero-shot classification: the probability of each label for a picture, without training on the labels.

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
from clipdex.model.images import ImageSource
from clipdex.model.picture_rules import PictureRules
from clipdex.model.texts import text_list

if TYPE_CHECKING:
    from clipdex.client.client import Client

__all__ = ["DEFAULT_TEMPLATES", "classify_steps", "label_steps", "probabilities"]

# The template of CLIP's authors for labels that are nouns.
DEFAULT_TEMPLATES = ("a photo of a {}",)
_BLANK = "{}"
# Norm of the mean of unit vectors; below it, the mean's direction is rounding error.
_SMALLEST_MEAN = 1e-3


def classify_steps(
    client: Client,
    images: Iterable[ImageSource],
    labels: Iterable[str],
    templates: Iterable[str],
    rules: PictureRules,
    *,
    wait: bool = False,
) -> Steps[Vectors]:
    """The steps of `Client.classify`. wait: see `pixel_steps`."""
    of_images = image_steps(client, images, rules, wait=wait)  # a generator: starts when first driven
    label_vectors = yield from label_steps(client, labels, templates, wait=wait)
    pictures = yield from of_images
    return probabilities(client.card, pictures, label_vectors)


def label_steps(
    client: Client, labels: Iterable[str], templates: Iterable[str], *, wait: bool = False
) -> Steps[Vectors]:
    """The steps of embedding K labels, each as the mean over all templates, as CLIP's authors do.

    -> float32 (K, D) of norm 1.

    Raises:
        InvalidArgument: there are too few labels, one is empty or repeated, or a template has no "{}".
    """
    labels, templates = text_list(labels, "labels"), text_list(templates, "templates")
    _check(client.card, labels, templates)
    texts = [template.replace(_BLANK, label.strip()) for label in labels for template in templates]
    vectors = yield from text_steps(client, texts, wait=wait)
    means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    if norms.min() < _SMALLEST_MEAN:
        label = labels[int(norms.argmin())].strip()
        raise InvalidArgument(
            f"the vectors of the label {label!r} in the templates cancel each other out: use other templates"
        )
    unit: Vectors = means / norms
    return unit


def probabilities(card: ModelCard, pictures: Vectors, labels: Vectors) -> Vectors:
    """Turn vectors of N pictures and K labels, float32 (N, D) and (K, D), into probabilities: float32 (N, K).

    softmax: they sum to 1 for each picture. sigmoid (SigLIP): each label is judged on its own.

    Raises:
        ServerFault: the vectors and the card give numbers that are not finite.
    """
    logits = card.logit_scale * (pictures.astype(np.float64) @ labels.T.astype(np.float64)) + card.logit_bias
    if card.scoring == "sigmoid":
        result: Vectors = np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
    else:
        odds = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        result = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    if not np.isfinite(result).all():
        raise ServerFault(
            f"the vectors and the card of {card.name} give probabilities that are not finite: the model is broken"
        )
    return result


def _check(card: ModelCard, labels: Sequence[str], templates: Sequence[str]) -> None:
    names = [label.strip() for label in labels]
    if not all(names):
        raise InvalidArgument("a label is empty; expected words for something a picture may show")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidArgument(f"the label {name!r} is given twice")
        seen.add(name)
    if len(names) < (1 if card.scoring == "sigmoid" else 2):
        raise InvalidArgument(
            f"too few labels ({len(names)}): {card.name} says which of several fits best; give two or "
            "more, such as a cat, something else"
        )
    if not templates:
        raise InvalidArgument('templates is empty; give one, such as "a photo of a {}"')
    for template in templates:
        if _BLANK not in template:
            raise InvalidArgument(f"the template {template!r} has no {{}}: put {{}} where the label belongs")
