"""A Triton backend named `onnxruntime`, in Python, for machines without the C++ one.

Triton runs this file in a process of its own (a *stub*) for every instance of every model whose config.pbtxt says
`backend: "onnxruntime"`. It serves the same directories as the C++ ONNX Runtime backend in NVIDIA's container: it
reads the same settings, rejects the same mistakes when a model loads, and gives the same results. It imports only
numpy, onnxruntime and what Triton provides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

# config.pbtxt's data types -> (onnxruntime's name, numpy's). bfloat16 and strings are missing: numpy has no
# bfloat16, and no model of this project takes strings.
_DTYPES: dict[str, tuple[str, type]] = {
    "TYPE_BOOL": ("tensor(bool)", np.bool_),
    "TYPE_UINT8": ("tensor(uint8)", np.uint8),
    "TYPE_UINT16": ("tensor(uint16)", np.uint16),
    "TYPE_UINT32": ("tensor(uint32)", np.uint32),
    "TYPE_UINT64": ("tensor(uint64)", np.uint64),
    "TYPE_INT8": ("tensor(int8)", np.int8),
    "TYPE_INT16": ("tensor(int16)", np.int16),
    "TYPE_INT32": ("tensor(int32)", np.int32),
    "TYPE_INT64": ("tensor(int64)", np.int64),
    "TYPE_FP16": ("tensor(float16)", np.float16),
    "TYPE_FP32": ("tensor(float)", np.float32),
    "TYPE_FP64": ("tensor(double)", np.float64),
}

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

# A tensor of the ONNX graph: onnxruntime's type name, and the shape with -1 for dynamic dimensions.
_Tensor = tuple[str, tuple[int, ...]]


class _Failure(NamedTuple):
    """The reason why a request failed, and whether the request is at fault or this backend."""

    reason: str
    invalid: bool = True


class _Inputs(NamedTuple):
    """One request's inputs, or the error in them."""

    feed: dict[str, npt.NDArray[Any]]
    error: _Failure | None = None


# One request's outputs, in the order of config.pbtxt, or its failure.
_Result = list[npt.NDArray[Any]] | _Failure


class TritonPythonModel:
    """One instance of one model: an onnxruntime session behind Triton's request queue."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the ONNX file and compare it with config.pbtxt.

        Raises:
            TritonModelException: the file is missing or unreadable, a setting has an unknown value, or names,
                types or dimensions differ. Triton then does not load the model.
        """
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self._max_batch_size = int(config.get("max_batch_size", 0))
        self._outputs = [output["name"] for output in config["output"]]
        path = _model_path(Path(args["model_repository"]), args["model_version"], config)
        try:
            providers = _providers(config, args["model_instance_kind"], args["model_instance_device_id"])
            options = _session_options(config)
            self._session = ort.InferenceSession(str(path), sess_options=options, providers=providers)
            self._inputs = _check_against_graph(config, self._session)
        except Exception as exc:
            raise pb_utils.TritonModelException(f"unable to load model '{self._name}', {exc}") from exc
        # If CUDA does not start, onnxruntime continues without it and reports that only on its standard error.
        provider = self._session.get_providers()[0]
        lost = provider != _first(providers)
        idle = args["model_instance_kind"] == "GPU" and provider == "CPUExecutionProvider"
        log = pb_utils.Logger.log_warn if lost or idle else pb_utils.Logger.log_info
        log(f"{args['model_instance_name']}: {path.name} on {provider}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, in order, with one run for all that can be stacked along axis 0."""
        inputs = [self._read(request) for request in requests]
        results: list[_Result] = [each.error or [] for each in inputs]
        for group in self._groups(inputs):
            for index, result in zip(group, self._run([inputs[i].feed for i in group]), strict=True):
                results[index] = result
        return [self._respond(request, result) for request, result in zip(requests, results, strict=True)]

    def finalize(self) -> None:
        """Release the session; Triton calls this when it exits, after the last accepted request was answered."""
        # clipdex_server.supervisor waits for this line from every stub, and then kills them without further delay.
        os.write(2, b"clipdex: finalized\n")
        del self._session

    def _read(self, request: Any) -> _Inputs:
        """Read a request's arrays, as views into the memory shared with Triton, not copies."""
        feed: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in self._inputs.items():
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                return _Inputs({}, _Failure(f"the request lacks the input '{name}'"))
            feed[name] = tensor.as_numpy()
            if feed[name].dtype != dtype:
                found = feed[name].dtype
                return _Inputs({}, _Failure(f"the input '{name}' is {found}, expected {np.dtype(dtype)}"))
        rows = {array.shape[:1] for array in feed.values()}
        if self._max_batch_size > 0 and len(rows) != 1:
            shapes = {name: list(array.shape) for name, array in feed.items()}
            return _Inputs({}, _Failure(f"the inputs have different batch sizes: {shapes}"))
        return _Inputs(feed)

    def _groups(self, inputs: Sequence[_Inputs]) -> list[list[int]]:
        """Group the positions of valid requests whose arrays differ only in axis 0."""
        groups: dict[object, list[int]] = {}
        for index, each in enumerate(inputs):
            if each.error is None:
                key: object = index
                if self._max_batch_size > 0:
                    key = tuple(array.shape[1:] for array in each.feed.values())
                groups.setdefault(key, []).append(index)
        return list(groups.values())

    def _run(self, feeds: Sequence[dict[str, npt.NDArray[Any]]]) -> list[_Result]:
        """Run the session once over all feeds -> each feed's rows of the outputs, or onnxruntime's error."""
        if len(feeds) == 1:
            try:
                return [self._session.run(self._outputs, feeds[0])]
            except Exception as exc:  # onnxruntime's errors have no common root, and live in a private module
                return [_Failure(str(exc), invalid=type(exc).__name__ == "InvalidArgument")]
        stacked = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        try:
            outputs = self._session.run(self._outputs, stacked)
        except Exception:
            # One of them is at fault, for instance by a token id outside the table. Find it, and answer the rest.
            return [result for feed in feeds for result in self._run([feed])]
        first = next(iter(self._inputs))
        ends = np.cumsum([len(feed[first]) for feed in feeds])[:-1]
        parts = [np.split(output, ends) for output in outputs]
        return [list(rows) for rows in zip(*parts, strict=True)]

    def _respond(self, request: Any, result: _Result) -> Any:
        if isinstance(result, _Failure):
            code = pb_utils.TritonError.INVALID_ARG if result.invalid else pb_utils.TritonError.INTERNAL
            error = pb_utils.TritonError(f"{self._name}: {result.reason}", code)
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        wanted = set(request.requested_output_names())
        tensors = [
            pb_utils.Tensor(name, array)
            for name, array in zip(self._outputs, result, strict=True)
            if name in wanted
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _model_path(model_dir: Path, version: str, config: Mapping[str, Any]) -> Path:
    path = model_dir / version / (config.get("default_model_filename") or "model.onnx")
    return path / "model.onnx" if path.is_dir() else path


def _session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    """Read the C++ backend's settings, under its names; unknown keys are ignored, as it does."""
    options = ort.SessionOptions()
    graph = config.get("optimization", {}).get("graph", {})
    options.graph_optimization_level = _GRAPH_LEVELS.get(
        int(graph.get("level", 0)), ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    parameters = _parameters(config)
    options.execution_mode = _choice(parameters, "execution_mode", _EXECUTION_MODES)
    options.intra_op_num_threads = max(0, _integer(parameters, "intra_op_thread_count"))
    options.inter_op_num_threads = max(0, _integer(parameters, "inter_op_thread_count"))
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
    parameters = _parameters(config)
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


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}


def _integer(parameters: Mapping[str, str], key: str) -> int:
    value = parameters.get(key, "0")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"parameter '{key}' is '{value}', expected a whole number") from None


def _boolean(parameters: Mapping[str, str], key: str) -> bool:
    value = parameters.get(key, "true").lower()
    if value not in ("true", "1", "false", "0"):
        raise ValueError(f"parameter '{key}' is '{value}', expected true or false")
    return value in ("true", "1")


def _choice(parameters: Mapping[str, str], key: str, choices: Mapping[int, Any]) -> Any:
    number = _integer(parameters, key)
    if number not in choices:
        raise ValueError(f"parameter '{key}' is {number}, expected one of {', '.join(map(str, choices))}")
    return choices[number]


def _check_against_graph(config: Mapping[str, Any], session: ort.InferenceSession) -> dict[str, type]:
    """Return the inputs' names and numpy types; raise ValueError if config.pbtxt and the ONNX graph disagree."""
    batched = int(config.get("max_batch_size", 0)) > 0
    graph_inputs = _tensors(session.get_inputs())
    graph_outputs = _tensors(session.get_outputs())
    if len(config["input"]) != len(graph_inputs):
        raise ValueError(
            f"configuration expects {len(config['input'])} inputs, model provides {len(graph_inputs)}: "
            f"{_listed(graph_inputs)}"
        )
    for tensor in config["input"]:
        _check_tensor("input", tensor, graph_inputs, batched)
    for tensor in config["output"]:
        _check_tensor("output", tensor, graph_outputs, batched)
    return {tensor["name"]: _DTYPES[tensor["data_type"]][1] for tensor in config["input"]}


def _tensors(nodes: Sequence[Any]) -> dict[str, _Tensor]:
    return {
        node.name: (node.type, tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)) for node in nodes
    }


def _check_tensor(kind: str, tensor: Mapping[str, Any], graph: Mapping[str, _Tensor], batched: bool) -> None:
    name, data_type = tensor["name"], tensor["data_type"]
    if name not in graph:
        raise ValueError(f"unexpected {kind} '{name}', the model has {_listed(graph)}")
    if data_type not in _DTYPES:
        raise ValueError(f"{kind} '{name}' has the unsupported data type {data_type}")
    found, shape = graph[name]
    if _DTYPES[data_type][0] != found:
        raise ValueError(f"configuration expects {data_type} for {kind} '{name}', model provides {found}")
    dims = [int(dim) for dim in tensor.get("reshape", {}).get("shape", tensor["dims"])]
    if batched and shape[:1] != (-1,):
        raise ValueError(
            f"{kind} '{name}' cannot be batched: max_batch_size above 0 needs a first dimension of -1, "
            f"the model's shape is {list(shape)}"
        )
    expected = [-1, *dims] if batched else dims
    # The configuration may leave a dimension open (-1) that the model fixes, and vice versa.
    agree = len(expected) == len(shape) and all(
        a == b or -1 in (a, b) for a, b in zip(expected, shape, strict=True)
    )
    if not agree:
        raise ValueError(
            f"configuration expects shape {expected} for {kind} '{name}', model provides {list(shape)}"
        )


def _listed(tensors: Mapping[str, _Tensor]) -> str:
    return ", ".join(f"'{name}'" for name in tensors)
