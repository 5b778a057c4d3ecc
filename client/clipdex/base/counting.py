"""Counts with singular or plural nouns: 1 picture, 2 pictures."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun: `1 picture`, `1,200 pictures`. many: the plural, if not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
