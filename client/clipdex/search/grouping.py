"""Near-duplicates among ranked rows: each row belongs to the best-ranked one before it that it is a copy of."""

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

# A copy that was resized, recompressed or trimmed a little has a vector nearer to the original's than this.
_AGREE = 0.9

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """What makes two pictures one hit: files of the same bytes always; the rest where asked for.

    similarity: of their perceptual signatures, at least, where the index has them; above 0, at most 1; None to
        leave looks out of it. Their vectors must agree, by a cosine of 0.9: what looks the same in outline, a red
        circle and a green square, may mean something else.
    cosine: of their vectors, at least, in the same range; None to leave meaning out of it.
    """

    similarity: float | None = 0.92
    cosine: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("similarity", self.similarity), ("cosine", self.cosine)):
            if least is not None and not (is_number(least) and 0 < least <= 1):
                raise InvalidArgument(f"the {name} to group by is {least!r}; expected more than 0, and at most 1")


@dataclass(frozen=True)
class Traits:
    """By which n rows are compared.

    content: the files' hashes. signatures: perceptual ones, where there are any. sizes: int64 (n, 2), width and
    height. unit: float32 (n, D) of norm 1.
    """

    content: list[bytes]
    signatures: list[bytes | None]
    sizes: Rows
    unit: Array

    def at(self, i: int) -> Traits:
        """Those of one row, which keeps no others in memory."""
        part = slice(i, i + 1)
        return Traits(self.content[part], self.signatures[part], self.sizes[part].copy(), self.unit[part].copy())

    def like(self, one: Traits, grouping: Grouping) -> npt.NDArray[np.bool_]:
        """Which of the rows are copies of the one given: bool (n,)."""
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
    """The first `wanted` groups of ranked rows, best first; fewer if the rows do not give so many.

    Which rows lead a group depends on the rows before them alone, so a longer ranking begins with the same ones.
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
