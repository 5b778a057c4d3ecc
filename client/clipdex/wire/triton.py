"""The transport to a Triton server by gRPC."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc

from clipdex.base.arrays import Array
from clipdex.base.errors import (
    AccessDenied,
    Cancelled,
    ClipdexError,
    Closed,
    ModelNotFound,
    ServerUnreachable,
)
from clipdex.wire.connection import Connection
from clipdex.wire.credentials import Credentials
from clipdex.wire.generated import service_pb2
from clipdex.wire.messages import infer_request, output_array, statistics
from clipdex.wire.model_config import from_message
from clipdex.wire.regions import Regions
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.status import cause_of, is_restricted, translate
from clipdex.wire.transport import LARGEST_ANSWER, SMALLEST_LIMIT, ModelConfig, ModelStatistics, ServerInfo, failed

__all__ = ["TritonTransport"]

_LOG = logging.getLogger("clipdex.wire")


class _Answer(Future[Array]):
    """A future of one call's answer. Cancelling it cancels the call, and it ends with `Cancelled`.

    sent_bytes: bytes that the request carried itself, not in shared memory.
    """

    def __init__(self, sent_bytes: int) -> None:
        super().__init__()
        self.sent_bytes = sent_bytes
        self.call: Any = None
        self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Withdraw the request; False if it has already ended."""
        return self.call is not None and bool(self.call.cancel())


def _asked_bytes(inputs: Mapping[str, Array]) -> int:
    """Return the bytes of assets that a request asks for; 0 for other models, whose config implies a limit."""
    span = (inputs.get("start"), inputs.get("end"))
    return 0 if span[0] is None or span[1] is None else int(span[1][0]) - int(span[0][0])


class TritonTransport:
    """One long-lived channel to a Triton server, or to all addresses behind a DNS name."""

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self._address = address
        self._credentials = credentials or Credentials()
        self._credentials.check(address)
        self._answer_bytes = SMALLEST_LIMIT
        self._connection = Connection(address, self._credentials, self._answer_bytes)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._regions = Regions(self._ask, self._start)

    @property
    def address(self) -> str:
        """HOST:PORT as given."""
        return self._address

    def server(self, timeout_s: float) -> ServerInfo:
        """Name and version from the server's metadata, once it says that it is ready."""
        if self._connection.may_be_lost:
            # gRPC would wait before it reconnects; this question needs an answer now.
            self._renew(self._connection)
        metadata = self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout_s)
        ready = self._ask("ServerReady", service_pb2.ServerReadyRequest(), timeout_s)
        if not ready.ready:
            raise ServerUnreachable(
                f"the server at {self._address} is up but not ready: a model is still loading, or failed to"
            )
        return ServerInfo(metadata.name, metadata.version)

    def models(self, timeout_s: float) -> list[str]:
        """List all models of the repository that are ready."""
        try:
            index = self._ask("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True), timeout_s)
        except AccessDenied as exc:
            if not isinstance(exc.__cause__, grpc.RpcError) or not is_restricted(exc.__cause__):
                raise
            # The repository index is only for holders of the server's key; its counters list the ready models.
            counted = self._ask("ModelStatistics", service_pb2.ModelStatisticsRequest(), timeout_s)
            return sorted({model.name for model in counted.model_stats})
        return sorted({model.name for model in index.models})

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """Return the configuration with which the server runs the model."""
        request = service_pb2.ModelConfigRequest(name=model)
        try:
            found = from_message(self._ask("ModelConfig", request, timeout_s).config)
        except ModelNotFound as exc:
            raise ModelNotFound(f"the server at {self._address} has no model {model!r}") from exc
        self._expect(found)
        return found

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Make one ModelInfer call, answered on gRPC's own thread, or on this one with `wait`."""
        try:
            return self._sent(model, inputs, output, timeout_s, wait)
        except ClipdexError as exc:
            return failed(exc)

    def _sent(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, wait: bool
    ) -> Future[Array]:
        request = infer_request(model, inputs, output, self._regions.mapped, timeout_s)
        answer = _Answer(sum(map(len, request.raw_input_contents)))
        connection, began = self._connection, time.monotonic()
        asked = _asked_bytes(inputs)
        if asked > self._answer_bytes:
            # The assets, once: on a connection of their own, so that no later answer may be as large.
            connection = Connection(self._address, self._credentials, asked)

        def done(result: Callable[[], Any]) -> None:
            try:
                outcome = self._outcome(result, output, connection, began, timeout_s)
            except BaseException as exc:  # a future that is never settled would block its reader forever
                outcome = exc
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        if wait:
            with self._translated():
                done(partial(connection.call, "ModelInfer", request, timeout_s))
        else:
            answer.call = self._start("ModelInfer", request, timeout_s, lambda call: done(call.result), connection)
        if asked > self._answer_bytes:
            connection.retire()
        return answer

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """Return the server's own counters."""
        return statistics(self._ask("ModelStatistics", service_pb2.ModelStatisticsRequest(name=model), timeout_s))

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """Register shared memory; False if the server lacks the same /dev/shm, or does not allow it."""
        if self._address.startswith("dns:"):
            return False  # only one of the servers behind the name would be told
        return self._regions.add(memory, timeout_s)

    def unshare(self, memory: SharedMemory) -> None:
        """Unregister shared memory; a server that has gone has dropped it already."""
        self._regions.remove(memory)

    def close(self) -> None:
        """Close the channel; pending requests end with an error."""
        self._closed.set()
        self._connection.close()

    def _expect(self, config: ModelConfig) -> None:
        """Raise the limit on answers to that of a full batch, but no further than LARGEST_ANSWER."""
        values = max((math.prod(dims) for dims in config.outputs.values() if min(dims, default=0) > 0), default=0)
        needed = min(4 * values * max(1, config.max_batch_size), LARGEST_ANSWER)
        if needed > self._answer_bytes:
            self._answer_bytes = needed
            self._renew(self._connection)

    def _outcome(
        self, call: Callable[[], Any], output: str, connection: Connection, began: float, timeout_s: float
    ) -> Array | BaseException:
        """Return the result of a call of `submit`: the array, or clipdex's error."""
        error: ClipdexError
        try:
            result = output_array(call(), output)
        except grpc.RpcError as exc:
            self._look_after(connection, exc, began, timeout_s)
            error = self._error(exc, connection)
            error.__cause__ = cause_of(error, exc)
            return error
        except grpc.FutureCancelledError as exc:
            if self._closed.is_set():
                error = Closed(f"the connection to {self._address} was closed before the answer came")
            else:
                error = Cancelled("the request was withdrawn before its answer came")
            error.__cause__ = exc
            return error
        except ValueError as exc:
            error = self._of_closed_channel()
            error.__cause__ = exc
            return error
        connection.heard()
        return result

    def _of_closed_channel(self) -> ClipdexError:
        """Return clipdex's error where grpc raises ValueError: another thread has closed the channel."""
        if self._closed.is_set():
            return Closed(f"the connection to {self._address} is closed")
        return ServerUnreachable(f"the connection to {self._address} was closed by another request")

    def _error(self, exc: grpc.RpcError, connection: Connection) -> ClipdexError:
        """Return clipdex's error for a failed inference; a restarted server has lost the shared memory."""
        if exc.code() is grpc.StatusCode.CANCELLED:
            if self._closed.is_set():
                return Closed(f"the connection to {self._address} was closed before the answer came")
            if connection.given_up:
                return ServerUnreachable(f"the connection to {self._address} stopped responding")
        if self._regions.lost(exc.details() or ""):
            return ServerUnreachable(f"the server at {self._address} was restarted and has lost the shared memory")
        return translate(exc, self._address)

    def _start(
        self,
        method: str,
        request: Any,
        timeout_s: float,
        done: Callable[[Any], None],
        connection: Connection | None = None,
    ) -> Any:
        """Start one call without waiting; `done` is called on gRPC's own thread."""
        with self._translated():
            return (connection or self._connection).start(method, request, timeout_s, done)

    def _ask(self, method: str, request: Any, timeout_s: float) -> Any:
        """Make one call, and wait for its answer."""
        connection, began = self._connection, time.monotonic()
        with self._translated():
            try:
                response = connection.call(method, request, timeout_s)
            except grpc.RpcError as exc:
                self._look_after(connection, exc, began, timeout_s)
                raise
        connection.heard()
        return response

    def _look_after(self, connection: Connection, exc: grpc.RpcError, began: float, timeout_s: float) -> None:
        """Open a new connection if a call's end shows that the other side of this one has vanished."""
        code = exc.code()
        if code is grpc.StatusCode.UNAVAILABLE:
            connection.may_be_lost = True
        elif code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            connection.heard()
        elif connection.seems_dead(began, timeout_s) and self._renew(connection):
            connection.give_up()

    def _renew(self, connection: Connection) -> bool:
        """Replace a connection -> whether it has been replaced; if that fails, the old one is kept."""
        with self._lock:
            if self._connection is not connection or self._closed.is_set():
                return True  # another call has already replaced it
            try:
                self._connection = Connection(self._address, self._credentials, self._answer_bytes)
            except ClipdexError as exc:  # a certificate's file is gone, or just being replaced
                _LOG.warning("cannot open a new connection to %s: %s", self._address, exc)
                return False
        connection.retire()
        return True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed.is_set():
            raise Closed(f"the connection to {self._address} is closed")
        try:
            yield
        except grpc.RpcError as exc:
            error = translate(exc, self._address)
            raise error from cause_of(error, exc)
        except ValueError as exc:
            raise self._of_closed_channel() from exc
