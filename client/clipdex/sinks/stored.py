"""The pictures in a collection of a vector database, read and searched by the vectors of queries."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipdex.base.arrays import Array, Vectors
from clipdex.base.errors import FingerprintMismatch, InvalidArgument, SinkError
from clipdex.base.item_paths import paths_meant
from clipdex.base.json_text import parsed_object
from clipdex.base.records import Picture
from clipdex.index.asked import DEFAULT_TOP_K
from clipdex.index.hits import Hit, Hits
from clipdex.index.manifest import Manifest
from clipdex.index.search_options import check_options, check_params, checked_queries
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import check_icc
from clipdex.model.picture_rules import check_decode
from clipdex.sinks.conditions import Condition, parse_condition
from clipdex.sinks.cursor import Described
from clipdex.sinks.payloads import checked_condition, picture_of_payload, point_id
from clipdex.sinks.push import described, unit
from clipdex.sinks.sink import Found, Point, Sink

__all__ = ["NO_ROW", "PointId", "Stored"]

NO_ROW = -1  # of a hit in a database, which does not know the index's rows
_LOOKED_UP_EVERY_S = 2.0  # the description, which another process may replace
_AT_ONCE = 500


class PointId(str):
    """The id of a point that is there, which stands for a row."""


class Stored:
    """The pictures of a collection: what `Query.embed` needs of an index, and searches.

    Safe to share between threads; the database is asked one thing at a time. Close it.
    place: how to name the collection. manifest: the embedding space of its vectors.
    """

    def __init__(self, sink: Sink) -> None:
        """sink: is closed with this.

        Raises:
            SinkError: the collection is not there, or clipdex did not make it.
        """
        self.place = sink.place
        self._sink = sink
        self._lock = threading.RLock()
        self._found = self._described()
        self._looked_up = time.monotonic()
        f = self._found
        icc, decode = check_icc(f.icc), check_decode(f.decode)
        self.manifest = Manifest(f.fingerprint, f.model, f.embedding_dim, icc=icc, decode=decode)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._sink.close()

    def look_up(self) -> None:
        """Read the description again, unless that was done a moment ago.

        Raises:
            FingerprintMismatch: it is another model's collection by now.
            SinkError: it is not there any more.
        """
        with self._lock:
            if time.monotonic() - self._looked_up >= _LOOKED_UP_EVERY_S:
                found = self._described()
                ours = (self.manifest.fingerprint, self.manifest.icc, self.manifest.decode)
                if (found.fingerprint, found.icc, found.decode) != ours:
                    raise FingerprintMismatch(
                        f"{self.place} was replaced by one of {found.model} ({found.fingerprint[:12]}), but was "
                        f"opened for {self.manifest.model} ({self.manifest.fingerprint[:12]}): open it again"
                    )
                self._found, self._looked_up = found, time.monotonic()

    def condition(self, where: object, params: Mapping[str, Any] | None = None) -> Condition | None:
        """Parse a condition, and check it against the fields of the collection; None for None.

        Raises:
            InvalidArgument: it cannot be expressed in a database, or names rows.
        """
        check_params(where, params)
        if where is None:
            return None
        if not isinstance(where, str):
            raise InvalidArgument(
                f"where is {type(where).__name__}, but {self.place} knows no rows: write a condition"
            )
        return checked_condition(parse_condition(where, params), self._found.fields)

    def search(
        self,
        query: Array,
        top_k: int | None = None,
        *,
        offset: int = 0,
        min_score: float | None = None,
        where: str | Sequence[int] | Array | None = None,
        params: Mapping[str, Any] | None = None,
        exclude: Sequence[Any] = (),
        grouping: object = None,
    ) -> Hits:
        """Find the pictures nearest to one query, best first, by the database's own index, which may miss some.

        Args:
            query: (D,) or (1, D) of norm 1.
            top_k, offset, min_score, where, params: as for `Index.search`; without rows.
            exclude: ids of points to leave out.
            grouping: must be None.

        Raises:
            InvalidArgument: as `Index.search`, or the condition cannot be expressed there.
            FingerprintMismatch: the query is of another model.
            SinkError: the database failed.
        """
        (wide,) = checked_queries(query, self.manifest, self.place)[:1]
        check_options(top_k, offset, min_score)
        if grouping is not None:
            raise InvalidArgument(f"{self.place} does not group near-duplicates; search the index itself for that")
        self.look_up()
        condition = self.condition(where, params)
        wanted = DEFAULT_TOP_K if top_k is None else int(top_k)
        left_out = set(exclude)
        with self._lock:
            best = self._sink.query(unit(wide[None])[0], offset + wanted + len(left_out), condition)
        kept = [hit for hit in best if hit.id not in left_out and (min_score is None or hit.score >= min_score)]
        return Hits(self._hit(each) for each in kept[offset : offset + wanted])

    def _hit(self, found: Found) -> Hit:
        picture = picture_of_payload(found.payload, self.place)
        return Hit(NO_ROW, found.score, str(found.payload["path"]), self._metadata(picture), picture=picture)

    def _metadata(self, picture: Picture) -> dict[str, Any] | None:
        try:
            return None if picture.metadata is None else parsed_object(picture.metadata)
        except ValueError as exc:
            path = picture.path.decode("utf-8", "backslashreplace")
            raise SinkError(f"the metadata of {path} is no JSON object there: {exc}") from exc

    # Single pictures

    def require(self, card: ModelCard) -> None:
        """Raise FingerprintMismatch unless the collection has vectors of this model."""
        self.manifest.require(card, self.place)

    def row(self, picture: Any) -> Any:
        """Return the `PointId` of a picture, given that or its path. Raises InvalidArgument if there is none."""
        return self._point(picture)[0]

    def vector(self, picture: Any) -> Vectors:
        """Read the vector of a picture, given its path or PointId: float32 (D,). Raises InvalidArgument."""
        return Embeddings.of(self._point(picture)[1].vector, self.manifest.fingerprint)

    def picture(self, picture: Any) -> Picture:
        """Read what is known of a picture, given its path or PointId. Raises InvalidArgument if there is none."""
        return picture_of_payload(self._point(picture)[1].payload, self.place)

    def _point(self, picture: Any) -> tuple[PointId, Point]:
        if isinstance(picture, int):
            raise InvalidArgument(f"{self.place} knows no rows: name the picture {picture} by its path")
        ids = [picture] if isinstance(picture, PointId) else list(map(point_id, paths_meant(picture)))
        with self._lock:
            points = self._sink.fetch(ids)
        for each in ids:
            if each in points:
                return PointId(each), points[each]
        raise InvalidArgument(f"{picture} is not a picture in {self.place}")

    # All of them

    def __len__(self) -> int:
        """Return the number of points."""
        with self._lock:
            return self._sink.count()

    def points(self) -> list[PointId]:
        """List the ids of all points, in an order of the database's own."""
        with self._lock:
            return [PointId(each) for each, _ in self._sink.digests()]

    def pictures(self, points: Sequence[str]) -> Iterator[Picture]:
        """Read what is known of the pictures of some points that are still there."""
        for start in range(0, len(points), _AT_ONCE):
            some = list(points[start : start + _AT_ONCE])
            with self._lock:
                found = self._sink.fetch(some)
            yield from (picture_of_payload(found[each].payload, self.place) for each in some if each in found)

    def _described(self) -> Described:
        found = described(self._sink)
        if found is None:
            raise SinkError(f"{self.place} does not exist: push an index into it with  clipdex push")
        return found
