"""The interface of what ranks rows in another way than by a full scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array, Vectors
from clipdex.search.exact import Ranking

if TYPE_CHECKING:
    from clipdex.index.reader import Index

__all__ = ["Ranker"]


class Ranker(Protocol):
    """A search for the best rows that replaces the full scan, such as an approximate one."""

    def require(self, index: Index) -> None:
        """Raise IndexFault unless it was built for this index as it is now. Called before every `rank`."""
        ...

    def rank(
        self,
        vectors: Array,
        queries: Vectors,
        k: int,
        *,
        allowed: Array | None = None,
        dead: npt.NDArray[np.int64] | None = None,
        minimum: float = -np.inf,
    ) -> list[Ranking]:
        """Find the k best rows of each query; like `search.topk.top_k`."""
        ...
