"""Arrays and counters <-> Triton's protobuf messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from clipdex.arrays import Array
from clipdex.errors import ServerFault
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import ModelStatistics

__all__ = ["infer_request", "output_array", "statistics"]


def infer_request(
    model: str,
    inputs: Mapping[str, Array],
    output: str,
    shared: Sequence[SharedMemory] = (),
    timeout_s: float | None = None,
) -> Any:
    """A ModelInferRequest that names the arrays in shared memory, and carries the others as raw bytes.

    timeout_s: a server whose model allows it drops the request when it has waited so long in its queue.
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
    """The named output of a ModelInferResponse, read-only, over the response's own bytes."""
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == output:
            return np.frombuffer(raw, dtype=triton_to_np_dtype(tensor.datatype)).reshape(tuple(tensor.shape))
    raise ServerFault(f"the server's answer for {response.model_name} lacks the output {output!r}")


def statistics(response: Any) -> ModelStatistics:
    """The counters of a ModelStatisticsResponse, all versions of the model together."""
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
