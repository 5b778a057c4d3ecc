"""Dividing points into what one request to a vector database may carry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from clipdex.base.errors import SinkError
from clipdex.sinks.sink import Payload, Sink

__all__ = ["batch_ends", "cut", "fitting"]

_KEPT = ("path", "digest")  # without which a point is of no use
_ID_BYTES = 64  # of a point's id, with what is around it


def fitting(payload: Payload, most: int) -> Payload:
    """Return a payload of at most `most` bytes as JSON; a longer one without its `metadata`.

    If that is not enough, without its longest fields, too.
    """
    if payload_bytes(payload) <= most:
        return payload
    kept = {name: value for name, value in payload.items() if name != "metadata"}
    for name in sorted(kept, key=lambda name: -payload_bytes({name: kept[name]})):
        if payload_bytes(kept) <= most:
            break
        if name not in _KEPT:
            kept = {other: value for other, value in kept.items() if other != name}
    return kept


def payload_bytes(payload: Payload) -> int:
    """Return the length of a payload as JSON in UTF-8."""
    return len(json.dumps(payload, ensure_ascii=False).encode())


def batch_ends(payloads: Sequence[Payload], dim: int, sink: Sink) -> Iterator[int]:
    """Yield the ends of batches of points that one upsert may carry; vectors have `dim` numbers.

    Raises:
        SinkError: one point alone is too large.
    """
    size = start = 0
    for i, payload in enumerate(payloads):
        own = dim * sink.number_bytes + payload_bytes(payload) + _ID_BYTES
        if own > sink.most_bytes:
            raise SinkError(
                f"the point of {payload['path']!r:.200} has {own:,} bytes; {sink.place} takes {sink.most_bytes:,} "
                "at once"
            )
        if i > start and (size + own > sink.most_bytes or i - start >= sink.most_points):
            yield i
            start, size = i, 0
        size += own
    if payloads:
        yield len(payloads)


def cut(ids: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Yield ids, at most so many at once."""
    for start in range(0, len(ids), most):
        yield ids[start : start + most]
