"""A Triton backend named `onnxruntime`, in Python, for machines without the C++ one.

Triton runs this file in a process of its own (a *stub*) for every instance of every model whose config.pbtxt says
`backend: "onnxruntime"`. It serves the same directories as the C++ ONNX Runtime backend in NVIDIA's container: it
reads the same settings, rejects the same mistakes when a model loads, and gives the same results. It imports only
numpy, onnxruntime, what Triton provides, and python_instance.py, which is copied beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from clipdex_server.backends.python_instance import Instance, Tensor, integer, parameters_of
else:
    from python_instance import Instance, Tensor, integer, parameters_of  # beside this file, where Triton runs it

# optimization.graph.level, as the C++ backend reads it.
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_EXECUTION_MODES = {0: ort.ExecutionMode.ORT_SEQUENTIAL, 1: ort.ExecutionMode.ORT_PARALLEL}
_CONV_SEARCHES = {0: "EXHAUSTIVE", 1: "HEURISTIC", 2: "DEFAULT"}
_ARENA_STRATEGIES = {0: "kNextPowerOfTwo", 1: "kSameAsRequested"}

# onnxruntime's threads spin while they wait for work. Within a run that pays, as they need not be woken for each
# of hundreds of operators. Between runs it would take cores from other models' processes and the client's workers,
# so these settings stop it then (benchmarks/spinning.py).
_WAITING = {"session.force_spinning_stop": "1", "session.intra_op.spin_duration_us": "1000"}

# The C++ backend's names for options of the TensorRT provider, where they differ from the provider's own.
_TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_TENSORRT_PRECISIONS = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}


class TritonPythonModel(Instance):
    """One instance of one model: an onnxruntime session behind Triton's request queue."""

    def open(self, config: Mapping[str, Any], path: Path, args: Mapping[str, str]) -> _Session:
        """Open the ONNX file on the instance's device."""
        self._providers = _providers(config, args["model_instance_kind"], args["model_instance_device_id"])
        return _Session(
            ort.InferenceSession(str(path), sess_options=_session_options(config), providers=self._providers)
        )

    def log(self, args: Mapping[str, str], path: Path) -> None:
        """Tell Triton's log the provider, as a warning if it is not the one asked for."""
        # If CUDA does not start, onnxruntime continues without it and reports that only on its standard error.
        provider = self._session.where
        lost = provider != _first(self._providers)
        idle = args["model_instance_kind"] == "GPU" and provider == "CPUExecutionProvider"
        log = pb_utils.Logger.log_warn if lost or idle else pb_utils.Logger.log_info
        log(f"{args['model_instance_name']}: {path.name} on {provider}")


class _Session:
    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs, self.outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
        self.where: str = session.get_providers()[0]

    def run(self, outputs: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        found: list[npt.NDArray[Any]] = self._session.run(outputs, feed)
        return found

    def is_invalid(self, error: Exception) -> bool:
        return type(error).__name__ == "InvalidArgument"  # it lives in a private module


def _tensors(nodes: Sequence[Any]) -> dict[str, Tensor]:
    return {
        node.name: (node.type, tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)) for node in nodes
    }


def _session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    """Read the C++ backend's settings, under its names; unknown keys are ignored, as it does."""
    options = ort.SessionOptions()
    graph = config.get("optimization", {}).get("graph", {})
    options.graph_optimization_level = _GRAPH_LEVELS.get(
        int(graph.get("level", 0)), ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    parameters = parameters_of(config)
    options.execution_mode = _choice(parameters, "execution_mode", _EXECUTION_MODES)
    options.intra_op_num_threads = max(0, integer(parameters, "intra_op_thread_count"))
    options.inter_op_num_threads = max(0, integer(parameters, "inter_op_thread_count"))
    options.enable_cpu_mem_arena = _boolean(parameters, "enable_mem_arena")
    options.enable_mem_pattern = _boolean(parameters, "enable_mem_pattern")
    for key, value in (_WAITING | parameters).items():
        if key.startswith("session."):
            options.add_session_config_entry(key, value)
    return options


def _providers(config: Mapping[str, Any], kind: str, device_id: str) -> list[Any]:
    """List the providers, as far as onnxruntime offers them.

    They are TensorRT if config.pbtxt asks for it, CUDA on the instance's device, and the CPU for the rest.
    """
    offered = ort.get_available_providers()
    if kind != "GPU":
        return ["CPUExecutionProvider"]
    parameters = parameters_of(config)
    top_level: dict[str, str] = {
        "cudnn_conv_algo_search": _choice(parameters, "cudnn_conv_algo_search", _CONV_SEARCHES),
        "arena_extend_strategy": _choice(parameters, "arena_extend_strategy", _ARENA_STRATEGIES),
    }
    for key in ("gpu_mem_limit", "do_copy_in_default_stream"):
        if key in parameters:
            top_level[key] = parameters[key]
    # TensorFloat-32 would round float32 products to 10 bits; off even for exports that do not say so.
    cuda = {"use_tf32": "0", **top_level}
    tensorrt: dict[str, str] | None = None
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    for accelerator in accelerators.get("gpu_execution_accelerator", []):
        options = accelerator.get("parameters", {})
        if accelerator.get("name") == "cuda":
            cuda = {**cuda, **options, **top_level}
        elif accelerator.get("name") == "tensorrt":
            tensorrt = _tensorrt_options(options)
        else:
            raise ValueError(f"unknown Execution Accelerator '{accelerator.get('name')}' is requested")
    if "CUDAExecutionProvider" not in offered:
        return ["CPUExecutionProvider"]
    if hasattr(ort, "preload_dlls"):  # since 1.21: finds CUDA and cuDNN in NVIDIA's own wheels
        ort.preload_dlls()
    providers: list[Any] = [("CUDAExecutionProvider", cuda | {"device_id": device_id}), "CPUExecutionProvider"]
    if tensorrt is not None and "TensorrtExecutionProvider" in offered:
        providers.insert(0, ("TensorrtExecutionProvider", tensorrt | {"device_id": device_id}))
    return providers


def _tensorrt_options(parameters: Mapping[str, str]) -> dict[str, str]:
    """Convert the C++ backend's parameters to options of onnxruntime's TensorRT provider."""
    options: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value not in _TENSORRT_PRECISIONS:
                raise ValueError(f"unsupported precision mode '{value}' is requested")
            options.update(_TENSORRT_PRECISIONS[value])
        elif key in _TENSORRT_NAMES or key.startswith("trt_"):
            options[_TENSORRT_NAMES.get(key, key)] = value
        else:
            raise ValueError(f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator")
    return options


def _first(providers: Sequence[Any]) -> str:
    return str(providers[0] if isinstance(providers[0], str) else providers[0][0])


def _boolean(parameters: Mapping[str, str], key: str) -> bool:
    value = parameters.get(key, "true").lower()
    if value not in ("true", "1", "false", "0"):
        raise ValueError(f"parameter '{key}' is '{value}', expected true or false")
    return value in ("true", "1")


def _choice(parameters: Mapping[str, str], key: str, choices: Mapping[int, Any]) -> Any:
    number = integer(parameters, key)
    if number not in choices:
        raise ValueError(f"parameter '{key}' is {number}, expected one of {', '.join(map(str, choices))}")
    return choices[number]
