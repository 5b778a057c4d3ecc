"""A Triton backend named `openvino`, in Python, for machines with pip; Triton's C++ backend has the same name.

Triton runs this file in a process of its own (a *stub*) for every instance of every model whose config.pbtxt says
`backend: "openvino"`. It reads the C++ backend's settings, under its names. Unlike that one (docs/cpu.md) it takes
batches of any size, and computes no more rows than there are. It imports only numpy, openvino, what Triton
provides, and python_instance.py, which is copied beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from clipdex_server.backends.python_instance import Instance, Tensor, integer, parameters_of, type_name
else:
    from python_instance import (
        Instance,
        Tensor,
        integer,
        parameters_of,
        type_name,
    )  # beside this file, where Triton runs it

# OpenVINO reports its import over the network through this package, and does without where it cannot be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

_HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")


class TritonPythonModel(Instance):
    """One instance of one model: a model compiled by OpenVINO, behind Triton's request queue."""

    def open(self, config: Mapping[str, Any], path: Path, args: Mapping[str, str]) -> _Session:
        """Compile the file for the CPU.

        Raises:
            ValueError: the instance is not on the CPU, or a setting has an unknown value.
        """
        if args["model_instance_kind"] != "CPU":
            raise ValueError("the OpenVINO backend supports only the CPU: its instance_group needs kind: KIND_CPU")
        core = openvino.Core()
        options, lost = _options(config, "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        if lost:
            pb_utils.Logger.log_warn(
                f"{args['model_instance_name']}: computed in float32: this processor does not multiply bfloat16"
            )
        model = core.read_model(str(path))
        # As the file names them: compiled, a tensor also has the name of every node that only passes it on.
        inputs, outputs = _tensors(model.inputs), _tensors(model.outputs)
        return _Session(core.compile_model(model, "CPU", options), inputs, outputs)


class _Session:
    def __init__(self, compiled: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._request = compiled.create_infer_request()
        self._positions = {name: at for at, out in enumerate(compiled.outputs) for name in out.names}
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.where = f"OpenVINO {openvino.__version__.partition('-')[0]} in {precision}"

    def run(self, outputs: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        # Read where it is, in the memory shared with Triton. The answers are copied: the next run overwrites them.
        self._request.infer({name: np.ascontiguousarray(array) for name, array in feed.items()}, share_inputs=True)
        return [self._request.get_output_tensor(self._positions[name]).data.copy() for name in outputs]

    def is_invalid(self, error: Exception) -> bool:
        return "incompatible" in str(error)  # of shapes and types


def _options(config: Mapping[str, Any], multiplies_bf16: bool) -> tuple[dict[str, Any], bool]:
    """Read the C++ backend's settings -> OpenVINO's options, and whether bfloat16 was asked for in vain.

    Other keys are ignored, as the C++ backend does; so are the three that make it take batches of one size only.
    """
    parameters = parameters_of(config)
    hint = parameters.get("PERFORMANCE_HINT", "LATENCY").upper()
    if hint not in _HINTS:
        raise ValueError(f"parameter 'PERFORMANCE_HINT' is '{hint}', expected one of {', '.join(_HINTS)}")
    streams = parameters.get("NUM_STREAMS", "1").upper()
    if streams not in ("AUTO", "NUMA"):
        streams = str(integer({"NUM_STREAMS": streams}, "NUM_STREAMS"))
    bf16 = parameters.get("HINT_BF16", "").upper()
    if bf16 not in ("", "YES"):
        raise ValueError(f"parameter 'HINT_BF16' is '{bf16}', expected YES, or no such parameter")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": hint,
        "NUM_STREAMS": streams,
        # Both towers and the client's workers share the cores: the kernel places threads better than a fixed plan.
        "ENABLE_CPU_PINNING": False,
        # Left to itself, OpenVINO rounds to bfloat16 on processors that have it: a card may promise more.
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 and multiplies_bf16 else "f32",
    }
    for key in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"):
        if (threads := integer(parameters, key)) > 0:
            options[key] = threads
    return options, bool(bf16) and not multiplies_bf16


def _tensors(ports: Sequence[Any]) -> dict[str, Tensor]:
    """Describe the inputs or outputs of a model."""
    return {
        port.get_any_name(): (
            type_name(port.get_element_type().to_dtype()),
            tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape()),
        )
        for port in ports
    }
