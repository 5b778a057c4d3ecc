"""A number and what it counts, as English has it: 1 picture, 2 pictures."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, many: str = "") -> str:
    """`1 picture`, `1,200 pictures`. many: where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
