"""When two vectors agree: the one rule for every least cosine, of duplicates, of groups, and of moves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["agree"]

# The last bits are rounding: a vector agrees with itself also where 1 is asked for.
_ROUNDING = 1e-6


def agree(cosines: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    """Which cosines are at least so large: bool, of the same shape. NaN never is."""
    return np.asarray(cosines >= np.float32(least - _ROUNDING))
