"""The precisions a tower can be exported in. Each has a floor of its own, which the gate holds it to.

The fingerprint does not know the precision: vectors of one checkpoint may live in one index, however computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import InvalidArgument
from clipdex_export.float16 import to_float16
from clipdex_export.int8 import to_int8

__all__ = ["PRECISIONS", "Precision", "find_precision"]


class Convert(Protocol):
    """Rewrites an ONNX file in place."""

    def __call__(self, path: Path, *, wide_norms: bool = False) -> None:
        """wide_norms: LayerNormalization takes and gives float32."""


@dataclass(frozen=True)
class Precision:
    """name: as the model card has it. floor: the smallest cosine to the float32 checkpoint that may be installed.

    convert: rewrites the ONNX file of a float32 tower in place, with LayerNorms in float32 if so asked; None
        leaves it.
    quantize: the same, from what its input is called and rows of it to calibrate on.
    targets: those it may be exported for; none means all.
    """

    name: str
    floor: float
    convert: Convert | None = None
    quantize: Callable[[Path, str, npt.NDArray[np.generic]], None] | None = None
    targets: tuple[str, ...] = ()


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision("fp32", 0.9999),
            Precision("fp16", 0.999, to_float16),
            # For CPUs: TensorRT wants signed activations, and fusion knows no attention with quantized products.
            Precision("int8", 0.99, quantize=to_int8, targets=("auto", "cpu")),
        )
    }
)


def find_precision(name: str, target: str = "auto") -> Precision:
    """The precision of this name.

    Raises:
        InvalidArgument: there is none, or it is not for this target.
    """
    if name not in PRECISIONS:
        raise InvalidArgument(f"precision is {name!r}; expected {', '.join(PRECISIONS)}")
    precision = PRECISIONS[name]
    if precision.targets and target not in precision.targets:
        raise InvalidArgument(
            f"precision {name} is for the targets {' and '.join(precision.targets)}, not for {target}: leave the "
            "precision out for the target's own"
        )
    return precision
