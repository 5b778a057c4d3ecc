"""OpenVINO as a runtime in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import CardError, RequestRefused, ServerFault
from clipdex.base.extras import needs
from clipdex.wire.runtimes.runtime import Opening, reason_of

__all__ = ["OpenVino"]

_TELEMETRY = "openvino_telemetry"


class OpenVino:
    """OpenVINO's CPU plugin."""

    name = "openvino"
    on_gpu = False

    def __init__(self, purpose: str) -> None:
        with needs("openvino", "openvino", "openvino", purpose), _without_telemetry():
            import openvino
        self._core = openvino.Core()
        self.version = openvino.__version__.partition("-")[0]
        # Only where the processor has instructions for it; elsewhere it would be computed slowly, or in float32.
        self._bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def open(self, model: str, file: Path, opening: Opening) -> _Session:
        """Compile a file for the CPU. Raises CardError if it cannot."""
        options: dict[str, Any] = {
            # One request at a time gets all threads. Several streams would each hold buffers of their own.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": opening.threads,
            # Towers and decode workers share the cores: the kernel places threads better than a fixed plan.
            "ENABLE_CPU_PINNING": False,
            # Left to itself, OpenVINO rounds to bfloat16 on processors that have it: a card may promise more.
            "INFERENCE_PRECISION_HINT": "bf16" if opening.bf16 and self._bf16 else "f32",
        }
        try:
            return _Session(model, self._core.compile_model(str(file), "CPU", options))
        except Exception as exc:
            raise CardError(f"{file}: OpenVINO cannot load it: {reason_of(exc)}") from exc


class _Session:
    """A compiled model with one request, which is used again and again."""

    def __init__(self, model: str, compiled: Any) -> None:
        self._model = model
        self._request = compiled.create_infer_request()
        # A tensor has a name for each node that only passes it on.
        self._inputs = [(each.names, each.get_element_type().to_dtype(), _dims(each)) for each in compiled.inputs]
        self._outputs = {name: position for position, out in enumerate(compiled.outputs) for name in out.names}

    def run(self, inputs: Mapping[str, Array], output: str) -> Any:
        """Compute one output; see `Session`."""
        self._check(inputs, output)
        try:
            # The arrays are read where they are, which is why they must be in one piece.
            given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            self._request.infer(given, share_inputs=True, share_outputs=True)
            # A copy: the next request writes into the same memory.
            return self._request.get_output_tensor(self._outputs[output]).data.copy()
        except Exception as exc:
            raise ServerFault(f"{self._model}: {reason_of(exc)}") from exc

    def _check(self, inputs: Mapping[str, Array], output: str) -> None:
        """Refuse what OpenVINO would convert silently, or refuse in many lines."""
        if len(inputs) != len(self._inputs):
            raise RequestRefused(
                f"{self._model}: it has {len(self._inputs)} inputs; the request has {len(inputs)}"
            )
        if output not in self._outputs:
            raise RequestRefused(f"{self._model}: it has no output {output!r}")
        for name, array in inputs.items():
            found = next((each for each in self._inputs if name in each[0]), None)
            if found is None:
                raise RequestRefused(f"{self._model}: it has no input {name!r}")
            _, dtype, dims = found
            fits = array.ndim == len(dims) and all(
                dim in (-1, size) for dim, size in zip(dims, array.shape, strict=True)
            )
            if array.dtype != dtype or not fits:
                raise RequestRefused(
                    f"{self._model}: its input {name} is {dtype} {list(dims)}; the request has {array.dtype} "
                    f"{list(array.shape)}"
                )


def _dims(tensor: Any) -> tuple[int, ...]:
    """Return the dimensions of a compiled model's input; -1 for any."""
    return tuple(-1 if dim.is_dynamic else dim.get_length() for dim in tensor.get_partial_shape())


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep OpenVINO from reporting its import over the network, and from writing files into the home directory.

    It does so through a package of its own, and does without where that cannot be imported.
    """
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to forbid an import
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
