"""Grouping near-duplicates: each ranked row belongs to the best-ranked row before it that it is a copy of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import is_number
from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.search.cosines import agree

__all__ = ["Group", "Grouping", "Traits", "group_rows"]

_AT_ONCE = 4096

# A copy that was resized, recompressed or cropped slightly has at least this cosine with the original.
_AGREE = 0.9

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """The criteria by which pictures are grouped into one hit; files with the same bytes always are.

    similarity: minimum similarity of their perceptual signatures, if the index has them; above 0, at most 1; None
        to ignore signatures. Their vectors must also have a cosine of 0.9: pictures with similar outlines, such
        as a red circle and a green square, may show different things.
    cosine: minimum cosine of their vectors, in the same range; None to ignore vectors.
    """

    similarity: float | None = 0.92
    cosine: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("similarity", self.similarity), ("cosine", self.cosine)):
            if least is not None and not (is_number(least) and 0 < least <= 1):
                raise InvalidArgument(f"the {name} to group by is {least!r}; expected more than 0 and at most 1")


@dataclass(frozen=True)
class Traits:
    """The properties by which n rows are compared.

    content: the files' hashes. signatures: perceptual signatures, or None. sizes: int64 (n, 2), width and
    height. unit: float32 (n, D) of norm 1.
    """

    content: list[bytes]
    signatures: list[bytes | None]
    sizes: Rows
    unit: Array

    def at(self, i: int) -> Traits:
        """Copy those of one row, without keeping the others in memory."""
        part = slice(i, i + 1)
        return Traits(self.content[part], self.signatures[part], self.sizes[part].copy(), self.unit[part].copy())

    def like(self, one: Traits, grouping: Grouping) -> npt.NDArray[np.bool_]:
        """Find the rows that are copies of the given one: bool (n,)."""
        same = np.fromiter((content == one.content[0] for content in self.content), bool, len(self.content))
        cosines = self.unit @ one.unit[0]
        if grouping.cosine is not None:
            same |= agree(cosines, grouping.cosine)
        if grouping.similarity is not None and one.signatures[0] is not None:
            near = np.flatnonzero(~same & agree(cosines, _AGREE))
            left = np.array([i for i in near if self.signatures[i] is not None], np.int64)
            same[left[self._look_like(one, left, grouping.similarity)]] = True
        return same

    def _look_like(self, one: Traits, left: Rows, enough: float) -> npt.NDArray[np.bool_]:
        from clipdex.looks.compare import similarities
        from clipdex.looks.frequencies import Looks

        signatures = [*(self.signatures[i] for i in left), one.signatures[0]]
        sizes = np.concatenate([self.sizes[left], one.sizes])
        looks = Looks.of(b"".join(signature for signature in signatures if signature is not None), sizes)
        last = np.full(len(left), len(left))
        found = similarities(looks, np.arange(len(left)), last, enough) >= enough
        return np.asarray(found & ~looks.plain[:-1] & ~looks.plain[-1])


@dataclass
class Group:
    """A hit and its copies: positions in the ranking, ascending."""

    first: int
    copies: list[int] = field(default_factory=list)

    @property
    def all(self) -> list[int]:
        """The hit and its copies."""
        return [self.first, *self.copies]


def group_rows(rows: Rows, wanted: int, grouping: Grouping, traits_of: Callable[[Rows], Traits]) -> list[Group]:
    """Form the first `wanted` groups of ranked rows, best first; fewer if there are not enough rows.

    Which rows lead a group depends only on the rows before them, so a longer ranking begins with the same groups.
    """
    groups: list[Group] = []
    firsts: list[Traits] = []
    for start, traits in _blocks(rows, traits_of):
        free = np.ones(len(traits.content), bool)

        def claim(group: Group, mine: npt.NDArray[np.bool_], start: int = start, free: Array = free) -> None:
            found = np.flatnonzero(mine & free)
            group.copies += (start + found).tolist()
            free[found] = False

        for group, first in zip(groups, firsts, strict=True):
            claim(group, traits.like(first, grouping))
        while len(groups) < wanted and free.any():
            i = int(np.argmax(free))
            free[i] = False
            groups.append(Group(start + i))
            firsts.append(traits.at(i))
            claim(groups[-1], traits.like(firsts[-1], grouping))
    return groups


def _blocks(rows: Rows, traits_of: Callable[[Rows], Traits]) -> Iterator[tuple[int, Traits]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield start, traits_of(rows[start : start + _AT_ONCE])
