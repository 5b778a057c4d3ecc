"""Embedding and classification by a collection's model, as steps that a thread or asyncio drives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.client.classification import label_steps, probabilities
from clipdex.client.embedding import text_steps
from clipdex.client.steps import Steps
from clipdex.collection.core import Core, Key
from clipdex.collection.searching import picture_steps
from clipdex.model.embeddings import Embeddings
from clipdex.model.images import ImageSource

__all__ = ["LabelScore", "classify_steps", "embed_image_steps", "embed_texts_steps"]


@dataclass(frozen=True)
class LabelScore:
    """A label's probability for a picture, and the cosine similarity of their vectors."""

    label: str
    probability: float
    score: float


def embed_texts_steps(core: Core, texts: Iterable[str]) -> Steps[Embeddings]:
    """Take the steps of `embed_texts`."""
    core.require_open()
    return (yield from text_steps(core.reader_of_texts(), texts))


def embed_image_steps(core: Core, image: ImageSource) -> Steps[Embeddings]:
    """Take the steps of `embed_image`. It shares requests with those of others."""
    core.require_open()
    (waiting,) = yield from picture_steps(core, [image])
    try:
        return cast(Embeddings, (yield waiting))  # what a batcher's futures give
    finally:
        waiting.cancel()


def classify_steps(
    core: Core,
    labels: Iterable[str],
    templates: Iterable[str],
    *,
    image: ImageSource | None,
    item: Key | None,
) -> Steps[list[LabelScore]]:
    """Take the steps of `classify`."""
    if (image is None) == (item is None):
        raise InvalidArgument("a picture to classify is one of image and item; give exactly one of them")
    client = core.reader_of_texts()
    names = [label.strip() if isinstance(label, str) else label for label in labels]
    picture: Array
    if item is not None:
        with core.reading() as index:
            picture = index.vector(core.row(index, item))
    else:
        assert image is not None
        picture = yield from embed_image_steps(core, image)
    vectors = yield from label_steps(client, names, templates)
    wide = np.asarray(picture, np.float32)[None]
    (chances,) = probabilities(client.card, wide, vectors)
    scores = vectors @ wide[0]
    best = np.argsort(-chances, kind="stable")
    return [LabelScore(names[i], float(chances[i]), float(scores[i])) for i in best]
