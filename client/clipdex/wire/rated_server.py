"""A server that speaks Triton's protocol, computes nothing, and answers at a given rate: for measuring clients.

with rated_server(Rate(20_000)) as address:
    clipdex.connect(address)        # in a process of its own, which ends with the block
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import grpc
import numpy as np
from tritonclient.utils import triton_to_np_dtype

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, InvalidArgument, ServerUnreachable
from clipdex.wire.fake import FakeTransport
from clipdex.wire.generated import service_pb2, service_pb2_grpc
from clipdex.wire.shared_memory import DIRECTORY, PREFIX

__all__ = ["Rate", "RatedServer", "main", "rated_server"]

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
)
_END_S = 10.0


@dataclass(frozen=True)
class Rate:
    """What a server answers, and how fast.

    rows_per_s: pictures or texts a second, all instances together; infinity: as fast as it can.
    instances: the batches that it computes at once. max_batch_size: the most rows in a request.
    image_size, embedding_dim: S of its pixels, uint8 (B, S, S, 3), and D of its answers, float32 (B, D).
    """

    rows_per_s: float = math.inf
    instances: int = 1
    max_batch_size: int = 64
    image_size: int = 224
    embedding_dim: int = 512

    def __post_init__(self) -> None:
        if not self.rows_per_s > 0:
            raise InvalidArgument(
                f"a server of {self.rows_per_s} rows a second answers nothing; expected more than 0"
            )
        for name in ("instances", "max_batch_size", "image_size", "embedding_dim"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; expected at least 1")


class RatedServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serve two towers and their card on a free port of 127.0.0.1, while in a `with`. All rows have one vector."""

    def __init__(self, rate: Rate) -> None:
        self._fake = FakeTransport(
            name="rated",
            embedding_dim=rate.embedding_dim,
            image_size=rate.image_size,
            max_batch_size=rate.max_batch_size,
        )
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = [0.0] * rate.instances
        self._regions: dict[str, mmap.mmap] = {}
        self._rows = self._requests = 0
        vectors = np.zeros((rate.max_batch_size, rate.embedding_dim), dtype=np.float32)
        vectors[:, 0] = 1.0
        self._answer = vectors.tobytes()
        self._scratch = threading.local()
        self._server = grpc.server(ThreadPoolExecutor(2 * rate.instances + 4), options=_OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> RatedServer:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(None).wait()

    # The service

    def ServerReady(self, request: Any, context: Any) -> Any:
        """Always."""
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """`rated`, version 0."""
        return service_pb2.ServerMetadataResponse(name="rated", version="0")

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """List the three models of one card."""
        response = service_pb2.RepositoryIndexResponse()
        for name in self._fake.models(1):
            response.models.add(name=name, version="1", state="READY")
        return response

    def ModelConfig(self, request: Any, context: Any) -> Any:
        """Describe a model."""
        try:
            config = self._fake.config(request.name, 1)
        except ClipdexError as exc:
            context.abort(grpc.StatusCode.NOT_FOUND, str(exc))
        response = service_pb2.ModelConfigResponse()
        response.config.name = config.name
        response.config.max_batch_size = config.max_batch_size
        response.config.instance_group.add(count=self._rate.instances)
        for key, value in config.parameters.items():
            response.config.parameters[key].string_value = value
        return response

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Count the requests and rows answered, of all models together."""
        response = service_pb2.ModelStatisticsResponse()
        model = response.model_stats.add(name=request.name, inference_count=self._rows)
        model.inference_stats.success.count = self._requests
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer at the given rate."""
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        if request.model_name.endswith("_assets"):
            self._add_assets(request, response)
            return response
        rows = int(request.inputs[0].shape[0])
        if not 1 <= rows <= self._rate.max_batch_size:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"{rows} rows; expected 1 to {self._rate.max_batch_size}"
            )
        self._fetch(request, context)
        self._compute(rows)
        dim = self._rate.embedding_dim
        response.outputs.add(name=request.outputs[0].name, datatype="FP32", shape=(rows, dim))
        response.raw_output_contents.append(self._answer[: 4 * rows * dim])
        return response

    def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        """List the memory that is mapped."""
        response = service_pb2.SystemSharedMemoryStatusResponse()
        for name in list(self._regions):
            response.regions[name].name = name
        return response

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Map a file of clipdex in /dev/shm, to read it."""
        name = request.key.removeprefix("/")
        if not name.startswith(PREFIX) or "/" in name:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{request.key!r} is no memory of clipdex")
        try:
            descriptor = os.open(DIRECTORY / name, os.O_RDONLY)
        except OSError:
            context.abort(grpc.StatusCode.INTERNAL, f"Unable to open shared memory region: '{request.name}'")
        try:
            self._regions[request.name] = mmap.mmap(descriptor, request.byte_size, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        """Unmap it."""
        self._regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def _add_assets(self, request: Any, response: Any) -> None:
        raw = zip(request.inputs, request.raw_input_contents, strict=True)
        inputs: dict[str, Array] = {
            tensor.name: np.frombuffer(data, triton_to_np_dtype(tensor.datatype)) for tensor, data in raw
        }
        assets = self._fake.submit(request.model_name, inputs, "bytes", 1).result()
        response.outputs.add(name="bytes", datatype="UINT8", shape=assets.shape)
        response.raw_output_contents.append(assets.tobytes())

    def _fetch(self, request: Any, context: Any) -> None:
        """Copy the pixels from shared memory, as a server copies them into memory that a GPU reads."""
        parameters = request.inputs[0].parameters
        if "shared_memory_region" not in parameters:
            return  # gRPC has copied them
        name = parameters["shared_memory_region"].string_param
        region = self._regions.get(name)
        if region is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
            return  # it has raised
        start = parameters["shared_memory_offset"].int64_param
        length = parameters["shared_memory_byte_size"].int64_param
        if not hasattr(self._scratch, "array"):
            side = self._rate.image_size
            self._scratch.array = np.empty(self._rate.max_batch_size * side * side * 3, dtype=np.uint8)
        pixels = np.frombuffer(region, dtype=np.uint8, count=length, offset=start)
        self._scratch.array[:length] = pixels

    def _compute(self, rows: int) -> None:
        """Wait until the instance that is free first has had the time for so many rows."""
        with self._lock:
            self._rows += rows
            self._requests += 1
            at = min(range(len(self._free_at)), key=self._free_at.__getitem__)
            takes = rows * self._rate.instances / self._rate.rows_per_s
            until = self._free_at[at] = max(self._free_at[at], time.monotonic()) + takes
        time.sleep(max(0.0, until - time.monotonic()))


@contextmanager
def rated_server(rate: Rate) -> Iterator[str]:
    """Run a RatedServer in a process of its own -> its address.

    Raises:
        ServerUnreachable: it did not start.
    """
    ours, theirs = Pipe()
    paths = os.pathsep.join(path for path in sys.path if path)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", f"from {__name__} import main; main()"),
                    *(str(theirs.fileno()), json.dumps(asdict(rate))),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": paths},
            )
        try:
            yield ours.recv_bytes().decode()
        except EOFError as exc:
            raise ServerUnreachable(
                "the server that answers at a given rate did not start: see what it printed"
            ) from exc
        finally:
            ours.close()  # it ends then, as when this process is killed
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    """Serve until a pipe closes. The arguments: its descriptor, to which the address goes, and a Rate as JSON."""
    descriptor, rate = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    with Connection(int(descriptor)) as pipe, RatedServer(Rate(**json.loads(rate))) as server:
        pipe.send_bytes(server.address.encode())
        with suppress(EOFError, ConnectionError):
            pipe.recv_bytes()
