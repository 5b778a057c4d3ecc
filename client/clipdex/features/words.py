"""What agrees, and where, in words."""

from __future__ import annotations

from collections.abc import Sequence

from clipdex.base.counting import counted

__all__ = ["points_words", "region_words"]


def points_words(points: int, mirrored: bool) -> str:
    """Say how many points agree. Example: `45 points agree, mirrored`."""
    return f"{counted(points, 'point agrees', 'points agree')}{', mirrored' if mirrored else ''}"


def region_words(region: Sequence[Sequence[float]]) -> str:
    """Say which part of a picture a region is, by its corners in shares of it. Example: `20-60 % × 0-45 %`."""
    across, down = zip(*region, strict=True)

    def percent(share: float) -> str:
        return f"{100 * min(1.0, max(0.0, share)):.0f}"

    return " × ".join(f"{percent(min(along))}-{percent(max(along))} %" for along in (across, down))
