"""Triton over gRPC."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from clipdex.arrays import Array
from clipdex.errors import ModelNotFound, ServerFault, ServerUnreachable
from clipdex.wire.model_config import from_message
from clipdex.wire.status import translate
from clipdex.wire.transport import ModelConfig, ServerInfo

__all__ = ["TritonTransport", "infer_request", "output_array"]

_T = TypeVar("_T")

# Image batches are tens of megabytes; gRPC's own limit is 4 MiB. Pings more often than every five minutes
# make servers hang up. `dns:///` names with several addresses are used in turn.
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.lb_policy_name", "round_robin"),
)


def infer_request(model: str, inputs: Mapping[str, Array], output: str) -> Any:
    """A ModelInferRequest carrying the arrays as raw bytes."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.outputs.add(name=output)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def output_array(response: Any, output: str) -> Array:
    """The named output of a ModelInferResponse, read-only, over the response's own bytes."""
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == output:
            return np.frombuffer(raw, dtype=triton_to_np_dtype(tensor.datatype)).reshape(tuple(tensor.shape))
    raise ServerFault(f"the server's answer for {response.model_name} lacks the output {output!r}")


class TritonTransport:
    """One long-lived channel to a Triton server, or to all addresses behind a DNS name."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._closed = threading.Event()

    @property
    def address(self) -> str:
        """HOST:PORT as given."""
        return self._address

    def server(self, timeout_s: float) -> ServerInfo:
        """Name and version from the server's metadata, once it says that it is ready."""
        metadata = self._call(
            lambda: self._stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=timeout_s)
        )
        ready = self._call(lambda: self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=timeout_s))
        if not ready.ready:
            raise ServerUnreachable(
                f"the server at {self._address} is up but not ready: a model is still loading, or failed to"
            )
        return ServerInfo(metadata.name, metadata.version)

    def models(self, timeout_s: float) -> list[str]:
        """All models of the repository that are ready."""
        request = service_pb2.RepositoryIndexRequest(ready=True)
        index = self._call(lambda: self._stub.RepositoryIndex(request, timeout=timeout_s))
        return sorted({model.name for model in index.models})

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """The configuration the server runs the model with."""
        request = service_pb2.ModelConfigRequest(name=model)
        try:
            return from_message(self._call(lambda: self._stub.ModelConfig(request, timeout=timeout_s)).config)
        except ModelNotFound as exc:
            raise ModelNotFound(f"the server at {self._address} has no model {model!r}") from exc

    def submit(self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float) -> Future[Array]:
        """One ModelInfer call, answered on gRPC's own thread."""
        answer: Future[Array] = Future()
        answer.set_running_or_notify_cancel()

        def done(call: Any) -> None:
            try:
                answer.set_result(output_array(call.result(), output))
            except grpc.RpcError as exc:
                error = translate(exc, self._address)
                error.__cause__ = exc
                answer.set_exception(error)
            except grpc.FutureCancelledError as exc:
                error = ServerUnreachable(f"the connection to {self._address} was closed before the answer came")
                error.__cause__ = exc
                answer.set_exception(error)
            except BaseException as exc:  # a future that is never settled would block its reader for ever
                answer.set_exception(exc)

        request = infer_request(model, inputs, output)
        call = self._call(lambda: self._stub.ModelInfer.future(request, timeout=timeout_s))
        call.add_done_callback(done)
        return answer

    def close(self) -> None:
        """Close the channel; requests under way end with an error."""
        self._closed.set()
        self._channel.close()

    def _call(self, call: Callable[[], _T]) -> _T:
        if self._closed.is_set():
            raise ServerUnreachable(f"the connection to {self._address} is closed")
        try:
            return call()
        except grpc.RpcError as exc:
            raise translate(exc, self._address) from exc
        except ValueError as exc:  # grpc's word for a channel that another thread closed meanwhile
            raise ServerUnreachable(f"the connection to {self._address} is closed") from exc
