"""What decides whether a query and a picture match, once it is known how one lies in the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["DEFAULT_MIN_INLIERS", "PARTS", "SAME", "Fit", "Rule"]

DEFAULT_MIN_INLIERS = 8


@dataclass(frozen=True, eq=False)
class Fit:
    """How a query lies in a picture.

    inliers: pairs at different places that agree. share: of all points where the two overlap, of the picture with
    fewer. model: "affine" or "homography". transform: float64 (3, 3), from the query's pixels to the picture's.
    contained: the share of the area of one of the two that the other shows, of that with the larger share.
    spread: how evenly the points that agree lie among all points where the two overlap: 1 as if drawn at random
    from them, less if they keep to a part. inlier_ratio: of the pairs of points that look alike, the share that
    agrees: of those whose point lies where the two overlap, in the picture that the other shows more of.
    """

    inliers: int
    share: float
    model: str
    transform: npt.NDArray[np.float64]
    contained: float = 1.0
    spread: float = 1.0
    inlier_ratio: float = 1.0

    @property
    def agreement(self) -> float:
        """`spread` × `inlier_ratio`: low where pictures have some things in common, and others elsewhere."""
        return self.spread * self.inlier_ratio


@dataclass(frozen=True)
class Rule:
    """What a `Fit` must have for two pictures to match.

    min_roots: its inliers, in square roots of the number of points where the two overlap, whose chance agreements
    grow with it. Others: see there.
    """

    min_share: float
    min_roots: float = 0.0
    min_contained: float = 0.0
    min_agreement: float = 0.0

    def accepts(self, fit: Fit) -> bool:
        """Return whether a fit has all of it."""
        return (
            fit.share >= self.min_share
            and (fit.inliers * fit.share) ** 0.5 >= self.min_roots
            and fit.contained >= self.min_contained
            and fit.agreement >= self.min_agreement
        )


# Measured: benchmarks/local_matching.py prints recall and false matches around them.
SAME = Rule(0.03, 0.8, 0.75, 0.5)  # the two are the same where they overlap, and that is most of one of them
PARTS = Rule(0.08)  # the two have something in common, if only an icon or a heading
