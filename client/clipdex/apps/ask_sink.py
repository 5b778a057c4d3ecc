"""Answer queries from a vector database, as `ask` does from an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from typing import Any

from clipdex.apps.results import Answer
from clipdex.base.arrays import Vectors
from clipdex.base.errors import InvalidArgument, ItemNotFound
from clipdex.base.item_paths import paths_meant
from clipdex.base.json_text import parsed_object
from clipdex.client.client import Client
from clipdex.index.hits import Hit, Hits
from clipdex.index.manifest import Manifest
from clipdex.index.reader import DEFAULT_TOP_K
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import check_icc
from clipdex.model.picture_rules import check_decode
from clipdex.model.texts import cuts_kept
from clipdex.search.mixture import Query
from clipdex.sinks.conditions import parse_condition
from clipdex.sinks.cursor import Described
from clipdex.sinks.payloads import checked_condition, point_id
from clipdex.sinks.push import described, unit
from clipdex.sinks.sink import Found, Point, Sink, SinkError

__all__ = ["NO_ROW", "ask_sink", "described_or_raise"]

NO_ROW = -1  # of a hit in a database, which does not know the index's rows


def described_or_raise(sink: Sink) -> Described:
    """Read the description of a collection that has to be there.

    Raises:
        SinkError: it is not there, or clipdex did not make it.
    """
    found = described(sink)
    if found is None:
        raise SinkError(f"{sink.place} does not exist: push an index into it with  clipdex push")
    return found


def ask_sink(
    sink: Sink,
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
    found = described_or_raise(sink)
    # A faulty condition is reported before anything is embedded.
    condition = None if where is None else checked_condition(parse_condition(where, params), found.fields)
    stored = _Stored(sink, found)
    wanted = DEFAULT_TOP_K if top_k is None else top_k
    if wanted < 1 or offset < 0:
        raise InvalidArgument(f"top_k is {wanted} and offset {offset}; expected at least 1 and 0")
    answers = []
    with ExitStack() as stack:
        client = None
        if any(query.texts or query.images for query in queries):
            client = stack.enter_context(connect())
        lost = stack.enter_context(cuts_kept())
        vectors = [query.embed(client, stored) for query in queries]
    each_lost = iter(lost)
    cuts = [tuple(filter(None, islice(each_lost, len(query.texts)))) for query in queries]
    for query, vector, cut in zip(queries, vectors, cuts, strict=True):
        liked = {stored.id_of(part.value) for part in query.parts if part.kind == "like"}
        best = sink.query(unit(vector)[0], offset + wanted + len(liked), condition)
        kept = [hit for hit in best if hit.id not in liked and (min_score is None or hit.score >= min_score)]
        hits = Hits(_hit(each) for each in kept[offset : offset + wanted])
        answers.append(Answer(str(query), hits, offset, cut))
    return answers


def _hit(found: Found) -> Hit:
    said = found.payload.get("metadata")
    try:
        metadata = parsed_object(said) if isinstance(said, str) else None
    except ValueError as exc:
        raise SinkError(f"the metadata of {found.payload.get('path')} is no JSON object there: {exc}") from exc
    return Hit(NO_ROW, found.score, str(found.payload.get("path", "")), metadata)


class _Stored:
    """The pictures of a collection, for `like`: what `Query.embed` needs of an index."""

    def __init__(self, sink: Sink, found: Described) -> None:
        self._sink = sink
        icc, decode = check_icc(found.icc), check_decode(found.decode)
        self.manifest = Manifest(found.fingerprint, found.model, found.embedding_dim, icc=icc, decode=decode)

    def require(self, card: ModelCard) -> None:
        """Raise FingerprintMismatch unless the collection holds vectors of this model."""
        self.manifest.require(card, self._sink.place)

    def row(self, which: Any) -> int:
        """Return no row: a database does not know them."""
        return NO_ROW

    def vector(self, which: Any) -> Vectors:
        """Read the vector of a picture by its path: float32 (D,). Raises ItemNotFound."""
        return Embeddings.of(self._point(which)[1].vector, self.manifest.fingerprint)

    def id_of(self, which: Any) -> str:
        """Return the id of a picture's point. Raises ItemNotFound."""
        return self._point(which)[0]

    def _point(self, which: Any) -> tuple[str, Point]:
        if isinstance(which, int):
            raise InvalidArgument(f"{self._sink.place} does not know rows: name the picture {which} by its path")
        ids = [point_id(path) for path in paths_meant(which)]
        points = self._sink.fetch(ids)
        for each in ids:
            if each in points:
                return each, points[each]
        raise ItemNotFound(f"{which} is not a picture in {self._sink.place}")
