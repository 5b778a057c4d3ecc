"""One gRPC channel, and the detection of a dead one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from clipdex.base.interrupts import interrupts_wait
from clipdex.wire.address import proxy_options
from clipdex.wire.credentials import Credentials
from clipdex.wire.generated import service_pb2_grpc
from clipdex.wire.local_key import HEADER, key_headers
from clipdex.wire.transport import SMALLEST_LIMIT

__all__ = ["Connection"]

# Image batches are tens of megabytes; gRPC's own limit is 4 MiB. Servers hang up on pings more frequent than
# every five minutes. `dns:///` names with several addresses are used in turn. A restarted server is found again
# within a second. A new channel is a new connection: by default gRPC would share the old one.
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # the time that connecting may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)

_ENVELOPE = 64 << 10  # bytes of an answer besides its tensor

# With a timeout shorter than this, a late answer says nothing about the connection.
_SHORTEST_S = 0.5


class Connection:
    """A gRPC channel with its stub.

    TCP cannot tell a connection whose other end has vanished from one that is merely quiet, and gRPC goes on
    using it for minutes. `seems_dead` can tell, by the requests that were made on it.

    may_be_lost: the last call ended with UNAVAILABLE. given_up: see `give_up`.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        answer_bytes: int = SMALLEST_LIMIT,
        *,
        with_local_key: bool = True,
    ) -> None:
        """answer_bytes: size of the largest answer expected on it. with_local_key: see `local_key`."""
        options: tuple[tuple[str, object], ...] = (
            *_OPTIONS,
            *proxy_options(address),
            ("grpc.max_receive_message_length", answer_bytes + _ENVELOPE),
        )
        if credentials.secure:
            if credentials.server_name is not None:
                options = (*options, ("grpc.ssl_target_name_override", credentials.server_name))
            secret = grpc.ssl_channel_credentials(*credentials.read())
            self._channel = grpc.secure_channel(address, secret, options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        self._metadata = credentials.metadata
        if with_local_key and HEADER not in credentials.headers:
            self._metadata += key_headers(address)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.may_be_lost = False
        self.given_up = False
        self._heard = 0.0
        self._lock = threading.Lock()
        self._under_way = 0
        self._retired = False

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Make one call, and wait for its answer."""
        with self._lock:
            self._under_way += 1
        try:
            return getattr(self.stub, method)(request, timeout=timeout_s, metadata=self._metadata)
        finally:
            self._ended()

    def start(self, method: str, request: Any, timeout_s: float, done: Callable[[Any], None]) -> Any:
        """Start one call; `done` is called at its end, on gRPC's own thread -> the call."""

        def ended(call: Any) -> None:
            try:
                done(call)
            finally:
                self._ended()

        # Ctrl-C within gRPC's own bookkeeping would leave a call that no thread handles, and `close` waits for it.
        with interrupts_wait():
            call = getattr(self.stub, method).future(request, timeout=timeout_s, metadata=self._metadata)
            with self._lock:
                self._under_way += 1
            call.add_done_callback(ended)
        return call

    def heard(self) -> None:
        """Note that something came back."""
        self._heard = time.monotonic()
        self.may_be_lost = False

    def seems_dead(self, began: float, timeout_s: float) -> bool:
        """Return whether a timed-out call means a dead connection: nothing has come back since it was made."""
        return timeout_s >= _SHORTEST_S and self._heard < began

    def retire(self) -> None:
        """Close the channel once pending calls are done."""
        self._retired = True
        self._close_if_idle()

    def give_up(self) -> None:
        """Close the channel and end its pending calls: they would wait in vain, and can be made elsewhere."""
        self.given_up = True
        self._close_soon()

    def close(self) -> None:
        """Close the channel; pending calls end with an error."""
        self._channel.close()

    def _ended(self) -> None:
        with self._lock:
            self._under_way -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        with self._lock:
            if not self._retired or self._under_way:
                return
        self._close_soon()

    def _close_soon(self) -> None:
        # Closing waits for gRPC's thread, which may be the current one.
        threading.Thread(target=self._channel.close, name="clipdex-close", daemon=True).start()
