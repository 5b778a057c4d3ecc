"""How many rows a request carries, and how many requests are under way: what a server says, within bounds.

A server's configuration may state any number. What a client makes room for follows from it, so it is bounded here.
"""

from __future__ import annotations

from clipdex.model.card import ModelCard
from clipdex.wire.transport import LARGEST_ANSWER

__all__ = ["pixel_bytes", "requests_in_flight", "rows_of_pixels", "rows_of_texts"]

_LARGEST_REQUEST = 256 << 20  # bytes; 64 pictures of 224 px are 9.6 MB
_ALL_REQUESTS = 1 << 30  # bytes under way, with their answers
_FEWEST = 2  # one that is computed, one on its way


def rows_of_pixels(card: ModelCard, max_batch_size: int) -> int:
    """The pictures that one request may carry, at least one."""
    return _rows(max_batch_size, pixel_bytes(card), card)


def rows_of_texts(card: ModelCard, max_batch_size: int) -> int:
    """The texts that one request may carry, at least one."""
    return _rows(max_batch_size, 4 * card.text.context_length, card)


def pixel_bytes(card: ModelCard) -> int:
    """The bytes of one picture as the model takes it."""
    return 3 * card.image.size**2


def requests_in_flight(card: ModelCard, instances: int, rows: int) -> int:
    """Two for each instance: as many as memory for their pixels and answers allows, and two at least."""
    each = rows * (pixel_bytes(card) + 4 * card.embedding_dim)
    return max(_FEWEST, min(2 * instances, _ALL_REQUESTS // each))


def _rows(max_batch_size: int, row_bytes: int, card: ModelCard) -> int:
    return max(1, min(max_batch_size, _LARGEST_REQUEST // row_bytes, LARGEST_ANSWER // (4 * card.embedding_dim)))
