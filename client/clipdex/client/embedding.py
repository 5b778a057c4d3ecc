"""Embedding of any number of pictures or texts: split into full batches, sent, and joined into one array."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

import numpy as np

from clipdex.base.arrays import Array, Pixels, Vectors
from clipdex.base.errors import RequestRefused
from clipdex.client.steps import Steps, bisection
from clipdex.model.embeddings import Embeddings
from clipdex.model.images import ImageSource, model_pixels, require_several
from clipdex.model.picture_rules import PictureRules

if TYPE_CHECKING:
    from clipdex.client.client import Client

__all__ = ["image_steps", "pixel_steps", "text_steps"]


def image_steps(
    client: Client, images: Iterable[ImageSource], rules: PictureRules, *, wait: bool = False
) -> Steps[Embeddings]:
    """The steps of `Client.embed_images`. Each opens and resizes a batch of pictures. wait: see `pixel_steps`."""
    client.require_open()
    require_several(images)
    spec = client.card.image

    def batches() -> Iterator[Pixels]:
        batch: list[Pixels] = []
        for image in images:
            batch.append(model_pixels(image, spec, rules))
            if len(batch) == client.max_batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    return _embedding(client, batches(), client.max_batch_size, client.submit_pixels, wait)


def pixel_steps(client: Client, pixels: Pixels, *, wait: bool = False) -> Steps[Embeddings]:
    """The steps of `Client.embed_pixels`.

    wait: the driver blocks on each future at once, so a single request may be answered within its step.
    """
    client.require_open()
    client.require_pixels(pixels)
    most = client.max_batch_size
    return _embedding(client, _slices(pixels, most), most, client.submit_pixels, wait)


def text_steps(client: Client, texts: Iterable[str], *, wait: bool = False) -> Steps[Embeddings]:
    """The steps of `Client.embed_texts`. wait: see `pixel_steps`."""
    client.require_open()
    most = client.max_texts
    return _embedding(client, _slices(client.tokenize(texts), most), most, client.submit_tokens, wait)


class _Submit(Protocol):
    """`Client.submit_pixels` or `Client.submit_tokens`."""

    def __call__(self, batch: Array, /, *, wait: bool = False) -> Future[Array]: ...


def _slices(rows: Array, step: int) -> Iterator[Array]:
    return (rows[i : i + step] for i in range(0, len(rows), step))


def _embedding(
    client: Client, batches: Iterator[Array], most: int, submit: _Submit, wait: bool
) -> Steps[Embeddings]:
    """Keep up to `in_flight` requests pending, and concatenate their answers: float32 (N, D)."""
    parts: list[Vectors] = []
    waiting: deque[tuple[int, Array, Future[Array]]] = deque()
    first = 0
    try:
        for batch in batches:
            # A batch that is not full is the last; if no other is pending, the only thing left to do is wait.
            alone = wait and not waiting and len(batch) < most
            waiting.append((first, batch, submit(batch, wait=alone)))
            first += len(batch)
            if len(waiting) >= client.in_flight:
                parts.append((yield from _answer(client, *waiting.popleft(), submit)))
        while waiting:
            parts.append((yield from _answer(client, *waiting.popleft(), submit)))
    finally:
        for _, _, future in waiting:
            future.cancel()
    if not parts:
        return Embeddings.of(np.empty((0, client.card.embedding_dim)), client.card.fingerprint)
    return Embeddings.of(np.concatenate(parts), client.card.fingerprint)


def _answer(
    client: Client, first: int, batch: Array, future: Future[Array], submit: Callable[[Array], Future[Array]]
) -> Steps[Vectors]:
    """Wait for one request's answer; if it is refused, find the item at fault by bisection."""
    try:
        vectors = yield future
    except RequestRefused as refusal:
        found = yield from bisection(batch, submit, refusal, client.checked)
        refused = [(i, each) for i, each in enumerate(found) if isinstance(each, RequestRefused)]
        if len(refused) == len(batch) > 1:
            raise  # every item is refused, so none of them is the cause
        if refused:
            position, reason = refused[0]
            others = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
            raise RequestRefused(f"item {first + position} of the list{others}: {reason}") from reason
        return np.stack([each for each in found if not isinstance(each, RequestRefused)])
    finally:
        future.cancel()  # no effect if it is done
    return client.checked(vectors, len(batch))
