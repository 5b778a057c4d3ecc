"""Conversion between arrays or counters and Triton's protobuf messages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from clipdex.base.arrays import Array
from clipdex.base.counting import counted
from clipdex.base.errors import ServerFault
from clipdex.wire.generated import service_pb2
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import ModelStatistics

__all__ = ["infer_request", "output_array", "statistics"]

_MOST_DIMS = 8


def infer_request(
    model: str,
    inputs: Mapping[str, Array],
    output: str,
    shared: Sequence[SharedMemory] = (),
    timeout_s: float | None = None,
) -> Any:
    """Build a ModelInferRequest that refers to arrays in shared memory, and carries others as raw bytes.

    timeout_s: if the model's configuration allows it, the server drops a request that was queued for longer.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    if timeout_s is not None:
        request.parameters["timeout"].int64_param = max(1, int(timeout_s * 1e6))
    request.outputs.add(name=output)
    for name, array in inputs.items():
        tensor = request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        for memory in shared:
            offset = memory.offset_of(array)
            if offset is not None:
                tensor.parameters["shared_memory_region"].string_param = memory.name
                tensor.parameters["shared_memory_byte_size"].int64_param = array.nbytes
                tensor.parameters["shared_memory_offset"].int64_param = offset
                break
        else:
            request.raw_input_contents.append(array.tobytes())
    return request


def output_array(response: Any, output: str) -> Array:
    """Return the named output of a ModelInferResponse: a read-only view of the response's own bytes.

    Raises:
        ServerFault: it is missing, has a type without a fixed size, or its bytes do not match its shape.
    """
    whose = f"the server's answer for {response.model_name[:200]}"
    if len(response.outputs) != len(response.raw_output_contents):
        raise ServerFault(
            f"{whose} is malformed: it names {counted(len(response.outputs), 'output')} but carries "
            f"{len(response.raw_output_contents)}"
        )
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == output:
            dtype, shape = _dtype(tensor.datatype), tuple(tensor.shape)
            if dtype is None:
                raise ServerFault(f"{whose} is malformed: {output!r} is of type {tensor.datatype[:40]!r}")
            if (
                min(shape, default=0) < 0
                or len(shape) > _MOST_DIMS
                or math.prod(shape) * dtype.itemsize != len(raw)
            ):
                raise ServerFault(
                    f"{whose} is malformed: {output!r} is {dtype} {list(shape)[:_MOST_DIMS]} in {len(raw):,} bytes"
                )
            return np.frombuffer(raw, dtype=dtype).reshape(shape)
    raise ServerFault(f"{whose} lacks the output {output!r}")


def _dtype(name: str) -> np.dtype[Any] | None:
    """Return numpy's dtype for a Triton data type; None for strings, which have no fixed size, and unknowns."""
    # What bfloat16 maps to depends on the release of tritonclient, and no model outputs it.
    found = None if name in ("BYTES", "BF16") else triton_to_np_dtype(name)
    dtype = None if found is None else np.dtype(found)
    return None if dtype is None or dtype.hasobject else dtype


def statistics(response: Any) -> ModelStatistics:
    """Sum the counters of a ModelStatisticsResponse over all versions of the model."""
    requests = failures = rows = queue_ns = compute_ns = 0
    batches: Counter[int] = Counter()
    for model in response.model_stats:
        stats = model.inference_stats
        requests += stats.success.count
        failures += stats.fail.count
        rows += model.inference_count
        queue_ns += stats.queue.ns
        compute_ns += stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
        for batch in model.batch_stats:
            batches[batch.batch_size] += batch.compute_infer.count
    return ModelStatistics(requests, failures, rows, dict(batches), queue_ns, compute_ns)
