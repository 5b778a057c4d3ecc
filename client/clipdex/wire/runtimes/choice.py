"""Which runtime computes a model on a CPU, and why: by its configuration, the processor, and what is installed.

A configuration names a backend. Exports for `auto` and `cpu` name `onnxruntime`, but any reads their files.
OpenVINO is the faster one where the card allows bfloat16 (`HINT_BF16`) and the processor gains by it, and for int8
files on processors with AVX512_VNNI; elsewhere it gains little (docs/cpu.md has the measurements), so onnxruntime
stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from clipdex.base.extras import is_installed
from clipdex.base.processor import Processor, this_processor

__all__ = [
    "BF16_PARAMETER",
    "ONNXRUNTIME",
    "OPENVINO",
    "PRECISION_PARAMETER",
    "Choice",
    "asks_for_bf16",
    "choose",
    "installed_runtimes",
]

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
# Triton's C++ OpenVINO backend reads it; its only value is YES.
BF16_PARAMETER = "HINT_BF16"
# Of a tower that any runtime may compute; its only value is int8.
PRECISION_PARAMETER = "clipdex_precision"
_NO_BF16 = "this processor gains nothing by bf16"


@dataclass(frozen=True)
class Choice:
    """A runtime for one model: `onnxruntime` or `openvino`. bf16: whether it multiplies in bfloat16."""

    runtime: str
    bf16: bool
    why: str

    def __str__(self) -> str:
        return f"{self.runtime}{' in bf16' if self.bf16 else ''}: {self.why}"


def asks_for_bf16(parameters: Mapping[str, str]) -> bool:
    """Return whether a model's parameters allow products in bfloat16."""
    return parameters.get(BF16_PARAMETER, "").upper() == "YES"


def choose(
    config: Any,
    *,
    processor: Processor | None = None,
    installed: Collection[str] | None = None,
    gpu: bool = False,
) -> Choice:
    """Choose the runtime of a model, by its `inference.ModelConfig` message.

    Args:
        config: the message.
        processor: the one that will compute; None for this machine's.
        installed: names of installed runtimes; None for what is found here.
        gpu: a GPU takes the models that do not ask for a CPU.
    """
    from clipdex.wire.model_config import parameters_of  # gRPC's messages, which most importers of this do without

    processor = processor or this_processor()
    installed = installed_runtimes() if installed is None else installed
    parameters = parameters_of(config)
    asks = asks_for_bf16(parameters)
    if config.backend == OPENVINO:
        if not asks:
            return Choice(OPENVINO, False, "its configuration names it, and asks for float32")
        if processor.gains_by_bf16:
            return Choice(OPENVINO, True, f"its configuration names it, for {processor}")
        return Choice(OPENVINO, False, f"its configuration names it; in float32, since {_NO_BF16}")
    groups = config.instance_group
    if gpu and not (groups and all(group.kind == group.KIND_CPU for group in groups)):
        return Choice(ONNXRUNTIME, False, "a GPU computes it")
    if not asks:
        if ONNXRUNTIME not in installed and OPENVINO in installed:
            return Choice(OPENVINO, False, "onnxruntime is not installed")
        if parameters.get(PRECISION_PARAMETER) == "int8" and processor.gains_by_openvino_int8:
            if OPENVINO in installed:
                return Choice(OPENVINO, False, f"faster in int8 on {processor}")
            why = f"OpenVINO, which is not installed, would be faster in int8 on {processor}"
            return Choice(ONNXRUNTIME, False, why)
        return Choice(ONNXRUNTIME, False, "its configuration names it")
    if not processor.gains_by_bf16:
        return Choice(ONNXRUNTIME, False, f"in float32, since {_NO_BF16}")
    if OPENVINO not in installed:
        why = f"in float32; OpenVINO, which is not installed, would use bf16 on {processor}"
        return Choice(ONNXRUNTIME, False, why)
    return Choice(OPENVINO, True, f"faster in bf16 on {processor}")


def installed_runtimes() -> frozenset[str]:
    """Return the names of the runtimes that are installed here; none is imported."""
    return frozenset(name for name in (ONNXRUNTIME, OPENVINO) if is_installed(name))
