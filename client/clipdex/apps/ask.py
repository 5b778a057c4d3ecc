"""Answer queries from an index: embed their texts and pictures, then rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice

import numpy as np

from clipdex.apps.results import Answer
from clipdex.base.arrays import Array, Vectors
from clipdex.client.client import Client
from clipdex.index.ranker import Ranker
from clipdex.index.reader import Index
from clipdex.model.texts import cuts_kept
from clipdex.search import Grouping, Query

__all__ = ["ask"]


def ask(
    index: Index,
    queries: Sequence[Query],
    connect: Callable[[], AbstractContextManager[Client]],
    *,
    top_k: int | None = None,
    offset: int = 0,
    min_score: float | None = None,
    where: str | Sequence[int] | Array | None = None,
    grouping: Grouping | None = None,
    ranker: Ranker | None = None,
) -> list[Answer]:
    """Rank the pictures of an index for each query.

    Args:
        index: the opened index.
        queries: texts, pictures, and mixtures of them.
        connect: returns a client of the index's model; called only if something has to be embedded.
        top_k, offset, min_score, where, grouping: as `Index.search` takes them.
        ranker: an approximate ranker; exact search if not given.

    Raises:
        FingerprintMismatch: the client's model is not the index's.
        InvalidArgument: a query has no parts, names no picture of the index, or cancels itself out.
        ImageError: a picture of a query cannot be decoded.
        ServerError: the server did not answer.
    """
    exclude = [row for query in queries for row in query.liked_rows(index)]
    with ExitStack() as stack:
        client = None
        if any(query.texts or query.images for query in queries):
            client = stack.enter_context(connect())
            index.require(client.card)
        lost = stack.enter_context(cuts_kept())
        vectors = _embedded(queries, client, index)
    each_lost = iter(lost)  # of each text, in the order of the queries
    cuts = [tuple(filter(None, islice(each_lost, len(query.texts)))) for query in queries]
    found = index.search(
        vectors,
        top_k,
        offset=offset,
        min_score=min_score,
        where=where,
        exclude=exclude,
        grouping=grouping,
        ann=ranker,
    )
    missing = tuple(index.missing)
    return [
        Answer(str(query), hits, offset, cut, missing)
        for query, hits, cut in zip(queries, found, cuts, strict=True)
    ]


def _embedded(queries: Sequence[Query], client: Client | None, index: Index) -> Vectors:
    """Embed the queries: float32 (Q, D). Plain texts are one request, however many there are."""
    if client is not None and all(_is_plain_text(query) for query in queries):
        return client.embed_texts([query.texts[0] for query in queries])
    return np.concatenate([query.embed(client, index) for query in queries])


def _is_plain_text(query: Query) -> bool:
    return len(query.parts) == 1 and query.parts[0].kind == "text" and query.parts[0].weight == 1
