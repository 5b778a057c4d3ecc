"""What Triton's Python-based backends of clipdex share: one instance of a model behind Triton's request queue.

A backend's `model.py` opens the model with its runtime; here are the requests, their errors, and the comparison of
config.pbtxt with the ONNX graph. It imports only numpy and what Triton provides.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

__all__ = ["Instance", "Session", "Tensor", "integer", "parameters_of", "type_name"]

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

# A tensor of the ONNX graph: the name of its type, and the shape with -1 for dynamic dimensions.
Tensor = tuple[str, tuple[int, ...]]


class Session(Protocol):
    """A model that a runtime has opened. where: what computes it, for the log."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    where: str

    def run(self, outputs: Sequence[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Compute the outputs named, in their order."""
        ...

    def is_invalid(self, error: Exception) -> bool:
        """Return whether an error that `run` raised is the request's own."""
        ...


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


class Instance(ABC):
    """One instance of one model. A backend's `TritonPythonModel` derives from it, and says how to open a file."""

    @abstractmethod
    def open(self, config: Mapping[str, Any], path: Path, args: Mapping[str, str]) -> Session:
        """Open the model's file."""

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
            self._session = self.open(config, path, args)
            self._inputs = _check_against_graph(config, self._session)
        except Exception as exc:
            raise pb_utils.TritonModelException(f"unable to load model '{self._name}', {exc}") from exc
        self.log(args, path)

    def log(self, args: Mapping[str, str], path: Path) -> None:
        """Tell Triton's log what computes the model."""
        pb_utils.Logger.log_info(f"{args['model_instance_name']}: {path.name} on {self._session.where}")

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
        """Run the session once over all feeds -> each feed's rows of the outputs, or the runtime's error."""
        if len(feeds) == 1:
            try:
                return [self._session.run(self._outputs, feeds[0])]
            except Exception as exc:  # a runtime's errors may have no common root
                return [_Failure(str(exc), invalid=self._session.is_invalid(exc))]
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


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a configuration that are strings."""
    return {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}


def integer(parameters: Mapping[str, str], key: str) -> int:
    """Return a parameter as a whole number, 0 without it; raise ValueError if it is none."""
    value = parameters.get(key, "0")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"parameter '{key}' is '{value}', expected a whole number") from None


def _check_against_graph(config: Mapping[str, Any], session: Session) -> dict[str, type]:
    """Return the inputs' names and numpy types; raise ValueError if config.pbtxt and the ONNX graph disagree."""
    batched = int(config.get("max_batch_size", 0)) > 0
    graph_inputs, graph_outputs = session.inputs, session.outputs
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


def type_name(dtype: npt.DTypeLike) -> str:
    """Return the name of a numpy type, as onnxruntime says it; numpy's own for others."""
    known: dict[Any, str] = {np.dtype(kind): name for name, kind in _DTYPES.values()}
    return known.get(np.dtype(dtype), str(np.dtype(dtype)))


def _check_tensor(kind: str, tensor: Mapping[str, Any], graph: Mapping[str, Tensor], batched: bool) -> None:
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


def _listed(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"'{name}'" for name in tensors)
