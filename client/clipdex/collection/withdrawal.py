"""Work that ends once nobody waits for it."""

from __future__ import annotations

__all__ = ["Withdrawn"]


class Withdrawn(Exception):
    """Nobody waits for this work any more; so nobody sees this."""
