"""Array types used throughout. Docstrings give the shapes and dtypes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Pixels", "Vectors"]

Array: TypeAlias = "npt.NDArray[Any]"
Pixels: TypeAlias = "npt.NDArray[np.uint8]"  # (S, S, 3) or (B, S, S, 3), RGB
Vectors: TypeAlias = "npt.NDArray[np.float32]"  # (N, D), of norm 1
