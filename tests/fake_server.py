"""A gRPC server that speaks Triton's protocol and answers as FakeTransport does. Also a command, to be killed.

python tests/fake_server.py PORT [DELAY_S]
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from clipdex.base.errors import ClipdexError, ModelNotFound, RequestRefused
from clipdex.wire import FakeTransport

UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """delay_s: what each inference takes. fault: sees (model, rows), and returns (code, details) to fail with.

    requests: (model, rows, timeout parameter, metadata) of every inference. ready: what it says of itself.
    """

    transport: FakeTransport
    delay_s: float = 0.0
    fault: Callable[[str, int], tuple[grpc.StatusCode, str] | None] = lambda model, rows: None
    requests: list = field(default_factory=list)
    ready: bool = True
    address: str = ""

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="0.fake")

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def RepositoryIndex(self, request, context):
        index = service_pb2.RepositoryIndexResponse()
        for name in self.transport.models(1):
            index.models.add(name=name, state="READY")
        return index

    def ModelConfig(self, request, context):
        try:
            found = self.transport.config(request.name, 1)
        except ModelNotFound as exc:
            context.abort(grpc.StatusCode.NOT_FOUND, str(exc))
        response = service_pb2.ModelConfigResponse()
        response.config.name = found.name
        response.config.max_batch_size = found.max_batch_size
        response.config.instance_group.add(count=found.instance_count)
        for key, value in found.parameters.items():
            response.config.parameters[key].string_value = value
        return response

    def ModelStatistics(self, request, context):
        return service_pb2.ModelStatisticsResponse()

    def ModelInfer(self, request, context):
        inputs = {
            tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(tuple(tensor.shape))
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        rows = max(map(len, inputs.values()))
        timeout_us = request.parameters["timeout"].int64_param
        self.requests.append((request.model_name, rows, timeout_us, dict(context.invocation_metadata())))
        if failure := self.fault(request.model_name, rows):
            context.abort(*failure)
        if self.delay_s:
            time.sleep(self.delay_s)
        output = request.outputs[0].name
        try:
            array = self.transport.submit(request.model_name, inputs, output, 1).result()
        except RequestRefused as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        except ClipdexError as exc:
            context.abort(grpc.StatusCode.INTERNAL, str(exc))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name=output, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
        return response


@contextmanager
def serving(
    transport: FakeTransport | None = None,
    *,
    port: int = 0,
    address: str | None = None,
    credentials: grpc.ServerCredentials | None = None,
    threads: int = 16,
    servicer: Callable[..., FakeTriton] | None = None,
    **settings: Any,
) -> Iterator[FakeTriton]:
    """Serve on 127.0.0.1, or at another gRPC address, for as long as the block lasts."""
    fake = (servicer or FakeTriton)(transport or FakeTransport(), **settings)
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    where = address or f"127.0.0.1:{port}"
    bound = (
        server.add_secure_port(where, credentials) if credentials is not None else server.add_insecure_port(where)
    )
    fake.address = address or f"127.0.0.1:{bound}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(grace=0).wait()


if __name__ == "__main__":
    with serving(port=int(sys.argv[1]), delay_s=float(sys.argv[2]) if len(sys.argv) > 2 else 0.0) as served:
        print(served.address, flush=True)
        threading.Event().wait()
