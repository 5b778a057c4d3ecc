"""Choice of the duplicates of a group that may be moved, and why the others stay.

Looking alike is enough to be listed, but not to be moved: pages, charts and screenshots of one layout look alike
to a signature, and their vectors are close as well. So by default only files with the same bytes move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipdex.apps.duplicates.groups import Duplicate, DuplicateGroup
from clipdex.base.errors import InvalidArgument
from clipdex.search.cosines import agree

__all__ = ["Move", "check_min_cosine", "moves_of"]


@dataclass(frozen=True)
class Move:
    """The decision on one duplicate.

    keeper: the picture that stays in its place. stays: why it may not be moved; "" if it may.
    """

    picture: Duplicate
    keeper: Duplicate
    stays: str = ""

    @property
    def moves(self) -> bool:
        """True if it may be moved."""
        return not self.stays


def moves_of(group: DuplicateGroup, min_cosine: float | None = None) -> list[Move]:
    """Return a decision for each duplicate of the group, in its order.

    A picture with the same bytes as one that stays may be moved. Another may if its vector has at least this
    cosine similarity to the keeper's; if that is None, none of them may. One that only shares a region never may.

    Raises:
        InvalidArgument: the cosine is not above 0 and at most 1.
    """
    check_min_cosine(min_cosine)
    staying = {group.keeper.content_hash: group.keeper}
    moves = []
    for other in group.others:
        same = staying.get(other.content_hash)
        if same is not None:
            moves.append(Move(other, same))
            continue
        why = _why_it_stays(other, min_cosine)
        moves.append(Move(other, group.keeper, why))
        if why:
            staying[other.content_hash] = other
    return moves


def check_min_cosine(min_cosine: float | None) -> None:
    """Raise InvalidArgument unless the cosine is above 0 and at most 1, or None."""
    if min_cosine is not None and not 0 < min_cosine <= 1:
        raise InvalidArgument(f"the minimum cosine for a move is {min_cosine}; expected above 0 and at most 1")


def _why_it_stays(other: Duplicate, min_cosine: float | None) -> str:
    if other.relation == "local":
        return "it shares a region with its keeper, and is not the same picture"
    if min_cosine is None:
        return "its bytes differ, and no minimum cosine was given (--min-cosine)"
    if not agree(np.array([other.cosine], dtype=np.float32), min_cosine)[0]:
        return f"the cosine to its keeper is {other.cosine:.6f}, below {min_cosine:g}"
    return ""
