"""Searching a collection, as steps that a thread or asyncio drives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.client.steps import Steps
from clipdex.collection.core import Core, Key
from clipdex.collection.decoding import InWorkers
from clipdex.collection.scanning import Wanted
from clipdex.index.hits import Hits
from clipdex.index.reader import Index
from clipdex.model.embeddings import Embeddings
from clipdex.model.images import ImageSource
from clipdex.pipeline.decode_service import DecodedPicture
from clipdex.search.grouping import Grouping
from clipdex.search.mixture import Query

__all__ = ["picture_steps", "search_steps", "started_steps"]


def search_steps(core: Core, text: str | Query | None = None, **options: Any) -> Steps[Hits]:
    """Take the steps of `search`."""
    withdrawn = threading.Event()
    hits = yield from started_steps(core, text, withdrawn=withdrawn, **options)
    try:
        return cast(Hits, (yield cast("Future[Array]", hits)))
    finally:
        hits.cancel()
        withdrawn.set()


def started_steps(
    core: Core,
    text: str | Query | None = None,
    *,
    withdrawn: threading.Event,
    image: ImageSource | None = None,
    item: Key | None = None,
    vector: Array | None = None,
    where: str | Sequence[int] | Array | None = None,
    params: Mapping[str, Any] | None = None,
    group: bool | Grouping = False,
    **options: Any,
) -> Steps[Future[Hits]]:
    """Take the steps of `search` up to its scan -> a future of the hits.

    withdrawn: set it once nobody waits for them, from any thread: the scan then ends, or does not begin.
    """
    core.require_open()
    given = [value for value in (text, image, item, vector) if value is not None]
    if len(given) != 1:
        raise InvalidArgument(
            f"a search takes one of text, image, item and vector; {len(given) or 'none'} of them "
            f"{'were' if given else 'was'} given"
        )
    if not isinstance(group, (bool, Grouping)):
        raise InvalidArgument(f"group is {group!r:.60}; expected True, False or clipdex.Grouping(...)")
    grouping = Grouping() if group is True else group or None
    found = yield from _looked_up(core, text, image, item, vector)
    return core.scans.start(Wanted(found, where, params, grouping, options, withdrawn))


def _looked_up(
    core: Core, text: str | Query | None, image: ImageSource | None, item: Key | None, vector: Array | None
) -> Steps[Callable[[Index], tuple[Array, Sequence[int]]]]:
    """Embed what must be embedded -> a function that gives the vector and the rows to leave out, in an index."""
    if vector is not None:
        one = _one(vector)
        return lambda index: (one, ())
    if item is not None:

        def of_item(index: Index) -> tuple[Array, Sequence[int]]:
            row = core.row(index, item)
            return index.vector(row), [row]

        return of_item
    if image is not None:
        query = Query().plus(image=image)
    elif isinstance(text, Query):
        query = text
    elif isinstance(text, str):
        query = Query().plus(text=text)
    else:
        raise InvalidArgument(f"the query is {text!r:.60}; expected a text or a clipdex.Query")
    texts, images = yield from _embedded(core, query)
    return lambda index: (query.mixed(texts, images, index), query.liked_rows(index))


def _embedded(core: Core, query: Query) -> Steps[tuple[Array | None, Array | None]]:
    """Embed the texts and pictures of a query -> float32 (n, D) each, or None."""
    waiting: list[Future[Any]] = []
    try:
        if query.texts or query.images:
            waiting += map(core.text, query.texts)
            waiting += yield from picture_steps(core, query.images)
        found: list[Embeddings] = []
        for future in waiting:
            found.append(cast(Embeddings, (yield future)))  # what a batcher's futures give
    finally:
        for future in waiting:
            future.cancel()
    texts, images = found[: len(query.texts)], found[len(query.texts) :]
    return _stacked(texts), _stacked(images)


def picture_steps(core: Core, images: Sequence[ImageSource]) -> Steps[list[Future[Any]]]:
    """Decode pictures from outside, in the workers if there are any -> futures of their vectors."""
    decoding: list[tuple[ImageSource, InWorkers[DecodedPicture] | None]] = []
    embedding: list[Future[Any]] = []
    try:
        for image in images:
            decoding.append((image, core.decoding.in_workers(image)))
        for image, waiting in decoding:
            if waiting is None:
                embedding.append(core.model().image(image, icc=core.rules.icc, decode=core.rules.decode))
                continue
            found = yield from waiting.steps()
            embedding.append(core.model().pixels(found.pixels))
    except BaseException:
        for _, waiting in decoding:
            if waiting is not None:
                waiting.cancel()
        for future in embedding:
            future.cancel()
        raise
    return embedding


def _stacked(vectors: list[Embeddings]) -> Embeddings | None:
    """Stack vectors of one client: float32 (n, D), with its model's fingerprint."""
    if not vectors:
        return None
    assert vectors[0].fingerprint is not None
    return Embeddings.of(np.stack(vectors), vectors[0].fingerprint)


def _one(vector: Array) -> Array:
    if np.ndim(vector) != 1 and np.shape(vector)[:1] != (1,):
        raise InvalidArgument(f"the vector has shape {np.shape(vector)}; expected (D,): a search takes one vector")
    return vector
