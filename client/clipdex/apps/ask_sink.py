"""Answer queries from a vector database, as `ask` does from an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from typing import Any

from clipdex.apps.results import Answer
from clipdex.client.client import Client
from clipdex.index.search_options import check_options
from clipdex.model.texts import cuts_kept
from clipdex.search.mixture import Query
from clipdex.sinks.stored import Stored

__all__ = ["ask_sink"]


def ask_sink(
    stored: Stored,
    queries: Sequence[Query],
    connect: Callable[[], AbstractContextManager[Client]],
    *,
    top_k: int | None = None,
    offset: int = 0,
    min_score: float | None = None,
    where: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> list[Answer]:
    """Rank the pictures of a collection for each query; the arguments are those of `ask`.

    Raises:
        SinkError: the database failed.
        InvalidArgument: the condition cannot be expressed there, or as `ask`.
        FingerprintMismatch, ImageError, ServerError: as `ask`.
    """
    # What is faulty is reported before anything is embedded.
    stored.condition(where, params)
    check_options(top_k, offset, min_score)
    liked = [query.liked_rows(stored) for query in queries]
    with ExitStack() as stack:
        client = None
        if any(query.texts or query.images for query in queries):
            client = stack.enter_context(connect())
        lost = stack.enter_context(cuts_kept())
        vectors = [query.embed(client, stored) for query in queries]
    each_lost = iter(lost)
    cuts = [tuple(filter(None, islice(each_lost, len(query.texts)))) for query in queries]
    options: dict[str, Any] = {"offset": offset, "min_score": min_score, "where": where, "params": params}
    found = [
        stored.search(vector, top_k, exclude=left_out, **options)
        for vector, left_out in zip(vectors, liked, strict=True)
    ]
    return [Answer(str(query), hits, offset, cut) for query, hits, cut in zip(queries, found, cuts, strict=True)]
