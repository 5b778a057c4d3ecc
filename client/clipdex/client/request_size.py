"""Limits on the rows in one request and on the requests in flight: the server's own, within the client's bounds.

A server's configuration may state any number. The client allocates memory by it, so it is bounded here.
"""

from __future__ import annotations

from clipdex.model.card import ModelCard
from clipdex.wire.transport import LARGEST_ANSWER

__all__ = ["pixel_bytes", "requests_in_flight", "rows_of_pixels", "rows_of_texts"]

_LARGEST_REQUEST = 256 << 20  # bytes; 64 pictures of 224 px are 9.6 MB
_ALL_REQUESTS = 1 << 30  # bytes in flight, answers included
_FEWEST = 2  # one being computed, one on its way


def rows_of_pixels(card: ModelCard, max_batch_size: int) -> int:
    """Return the most pictures that one request may carry, at least 1."""
    return _rows(max_batch_size, pixel_bytes(card), card)


def rows_of_texts(card: ModelCard, max_batch_size: int) -> int:
    """Return the most texts that one request may carry, at least 1."""
    return _rows(max_batch_size, 4 * card.text.context_length, card)


def pixel_bytes(card: ModelCard) -> int:
    """Return the bytes of one picture at the model's input size."""
    return 3 * card.image.size**2


def requests_in_flight(card: ModelCard, instances: int, rows: int) -> int:
    """Return the requests to keep in flight: two for each instance, at least 2, as memory allows."""
    each = rows * (pixel_bytes(card) + 4 * card.embedding_dim)
    return max(_FEWEST, min(2 * instances, _ALL_REQUESTS // each))


def _rows(max_batch_size: int, row_bytes: int, card: ModelCard) -> int:
    return max(1, min(max_batch_size, _LARGEST_REQUEST // row_bytes, LARGEST_ANSWER // (4 * card.embedding_dim)))
