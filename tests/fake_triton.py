"""A gRPC server that looks like Triton and computes like `FakeTransport`: for clients at full speed, no model.

with FakeTriton(FakeTransport()) as server:
    clipdex.connect(server.address)
"""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from clipdex.base.errors import RequestRefused
from clipdex.wire import FakeTransport

OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Serve a FakeTransport's models on a free port of 127.0.0.1. shm: let clients share memory."""

    def __init__(self, transport: FakeTransport, *, shm: bool = True, port: int = 0) -> None:
        self._fake = transport
        self._shm = shm
        self._regions: dict[str, mmap.mmap] = {}
        self._server = grpc.server(ThreadPoolExecutor(4), options=OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *error):
        self._server.stop(None).wait()

    # The service

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="0.0.0-fake")

    def RepositoryIndex(self, request, context):
        response = service_pb2.RepositoryIndexResponse()
        for name in self._fake.models(1):
            response.models.add(name=name, version="1", state="READY")
        return response

    def ModelConfig(self, request, context):
        if request.name not in self._fake.models(1):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        config = self._fake.config(request.name, 1)
        response = service_pb2.ModelConfigResponse()
        response.config.name = config.name
        response.config.max_batch_size = config.max_batch_size
        response.config.instance_group.add(count=config.instance_count)
        for key, value in config.parameters.items():
            response.config.parameters[key].string_value = value
        return response

    def ModelStatistics(self, request, context):
        return service_pb2.ModelStatisticsResponse()

    def ModelInfer(self, request, context):
        raw = iter(request.raw_input_contents)
        inputs = {tensor.name: self._array(tensor, raw, context) for tensor in request.inputs}
        output = request.outputs[0].name
        try:
            array = self._fake.submit(request.model_name, inputs, output, 1).result()
        except RequestRefused as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name=output, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
        return response

    def SystemSharedMemoryStatus(self, request, context):
        response = service_pb2.SystemSharedMemoryStatusResponse()
        for name in self._regions:
            response.regions[name].name = name
        return response

    def SystemSharedMemoryRegister(self, request, context):
        if not self._shm:
            context.abort(grpc.StatusCode.UNAVAILABLE, "shared memory is switched off")
        try:
            descriptor = os.open("/dev/shm" + request.key, os.O_RDWR)
        except OSError:
            context.abort(grpc.StatusCode.INTERNAL, f"Unable to open shared memory region: '{request.name}'")
        self._regions[request.name] = mmap.mmap(descriptor, request.byte_size)
        os.close(descriptor)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request, context):
        self._regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def _array(self, tensor, raw, context):
        dtype, shape = triton_to_np_dtype(tensor.datatype), tuple(tensor.shape)
        if "shared_memory_region" not in tensor.parameters:
            return np.frombuffer(next(raw), dtype=dtype).reshape(shape)
        name = tensor.parameters["shared_memory_region"].string_param
        if name not in self._regions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
        at = tensor.parameters["shared_memory_offset"].int64_param
        count = int(np.prod(shape))
        return np.frombuffer(self._regions[name], dtype=dtype, count=count, offset=at).reshape(shape)
