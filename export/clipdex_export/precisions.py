"""The precisions that a tower can be exported in, each with its own floor for the gate.

The fingerprint does not depend on the precision: all vectors of one checkpoint may share an index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import InvalidArgument
from clipdex_export.bfloat16 import as_bfloat16
from clipdex_export.float16 import as_rounded, to_float16
from clipdex_export.int8 import to_int8
from clipdex_export.tensorfloat32 import as_tensorfloat32

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISIONS", "Precision", "Rounding", "find_precision"]

# Makes a copy of a tower that rounds as its hardware does; None if it is computed as it is.
Rounding = Callable[[Path], "onnx.ModelProto | None"]


class Convert(Protocol):
    """A function that rewrites an ONNX file in place."""

    def __call__(self, path: Path, *, wide_norms: bool = False) -> None:
        """Rewrite the file. wide_norms: LayerNormalization stays float32."""


@dataclass(frozen=True)
class Precision:
    """A precision for an export.

    name: as in the model card. floor: the smallest cosine to the float32 checkpoint that passes the gate.
    convert: rewrites the ONNX file of a float32 tower in place, optionally with LayerNorms in float32; None for
        no change.
    quantize: the same, given the name of the input and rows of it for calibration.
    targets: the targets that support it; empty for all.
    bf16_on: the targets on which what is float32 in the file may be multiplied in bfloat16.
    tf32: what is float32 in the file is multiplied in TensorFloat-32.
    """

    name: str
    floor: float
    convert: Convert | None = None
    quantize: Callable[[Path, str, npt.NDArray[np.generic]], None] | None = None
    targets: tuple[str, ...] = ()
    bf16_on: tuple[str, ...] = ()
    tf32: bool = False

    def rounding(self, target: str) -> Rounding:
        """Return what the gate needs to compute as the target does, on any machine."""
        if self.tf32:
            return as_tensorfloat32
        return as_bfloat16 if target in self.bf16_on else as_rounded


_CPUS = ("auto", "cpu", "openvino")

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision("fp32", 0.9999),
            Precision("fp16", 0.999, to_float16),
            # The file is float32: a GPU rounds the factors of its products. TensorRT has no such option.
            Precision("tf32", 0.999, targets=("cuda",), tf32=True),
            # For CPUs. The file is float32: a runtime rounds where the processor gains by it.
            Precision("bf16", 0.999, targets=_CPUS, bf16_on=_CPUS),
            # For CPUs: TensorRT needs signed activations, and fusion does not recognise attention with quantized
            # products.
            Precision("int8", 0.99, quantize=to_int8, targets=_CPUS, bf16_on=("openvino",)),
        )
    }
)


def find_precision(name: str, target: str = "auto") -> Precision:
    """Return the precision of this name.

    Raises:
        InvalidArgument: the precision does not exist, or the target does not support it.
    """
    if name not in PRECISIONS:
        raise InvalidArgument(f"precision is {name!r}; expected {', '.join(PRECISIONS)}")
    precision = PRECISIONS[name]
    if precision.targets and target not in precision.targets:
        raise InvalidArgument(
            f"precision {name} is for {_listed(precision.targets)}, not for {target}: leave it "
            "out to use the target's default"
        )
    return precision


def _listed(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return f"the target {names[0]}"
    return f"the targets {', '.join(names[:-1])} and {names[-1]}"
