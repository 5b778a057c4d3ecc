"""Running the application: its socket, its server, and a clean end.

Not public: `clipdex web` runs it, and other services embed `create_app`.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.types import Receive, Scope, Send

from clipdex.base.errors import InvalidArgument
from clipdex.base.extras import needs
from clipdex.web import WebSettings, create_app
from clipdex.web.guard.headers import ALWAYS, Headers
from clipdex.web.guard.requests import Refused, refuse
from clipdex.web.problems import problem

with needs("uvicorn", "uvicorn", "web", "the REST API and the page"):
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["address_of", "bound", "serve"]

_HEAD_S = 15.0  # in which the head of a request must arrive, and what comes of a body after its answer
_READ_S = 60.0  # in which a client must read some of what fills the buffers
_KEEP_ALIVE_S = 30  # that a connection may wait for the next request
_HEAD_BYTES = 64 << 10
_FINISHING_S = 5  # that open requests have when the server ends
_MOST_CONNECTIONS = 1_000
_SPARE_CONNECTIONS = 64  # that are told so, for a moment; more are closed without a word
_TELLING_S = 1.0
_BACKLOG = 512


def bound(host: str, port: int) -> socket.socket:
    """Listen at a host's first address. port: 0 for a free one.

    Raises:
        InvalidArgument: the host is unknown or not of this machine, or the port is taken or not allowed.
    """
    if not host:
        raise InvalidArgument("--host is empty; expected an address of this machine, such as 127.0.0.1")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise InvalidArgument(
            f"--host {host!r:.80} cannot be resolved; expected an address of this machine"
        ) from exc
    # `localhost` is also ::1, where containers often have no network.
    family, kind, protocol, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        why = {
            errno.EADDRINUSE: f"port {port} of {host} is taken: choose another with --port, or 0 for a free one",
            errno.EACCES: f"this user may not listen on port {port} of {host}: choose one above 1023 with --port",
            errno.EADDRNOTAVAIL: f"{host} is not an address of this machine: choose another --host",
        }.get(exc.errno or 0, f"cannot listen on port {port} of {host}: {exc.strerror}")
        raise InvalidArgument(why) from exc
    return listening


def address_of(host: str, port: int) -> str:
    """Return the URL at which a browser on this machine finds a listening host and port."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(  # noqa: S104
        host, f"[{host}]" if ":" in host else host
    )
    return f"http://{shown}:{port}"


def serve(
    settings: WebSettings,
    listening: socket.socket,
    ready: Callable[[str], None],
    *,
    trusted_proxies: str | None = None,
    access_log: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, which is raised again once open requests are answered.

    Args:
        settings: as for `create_app`; its port is replaced by the socket's.
        listening: a socket, as `bound` makes it.
        ready: called with the URL once requests are answered.
        trusted_proxies: addresses, separated by commas, whose X-Forwarded headers are believed.
        access_log: log each request to the logger `uvicorn.access`.

    Raises:
        ClipdexError: a collection cannot be opened.
    """
    settings = replace(settings, port=listening.getsockname()[1])
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="auto",  # uvloop, where it can be imported
        lifespan="on",
        log_config=None,
        access_log=access_log,
        server_header=False,
        proxy_headers=trusted_proxies is not None,
        forwarded_allow_ips=trusted_proxies or "",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FINISHING_S,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    server = _Server(config, app.state, lambda: ready(address_of(settings.host, settings.port)))
    server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """Reports when it is ready, and raises what prevents that instead of logging a traceback."""

    def __init__(self, config: uvicorn.Config, state: Any, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._state = state
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log = logging.getLogger("uvicorn.error")
        log.disabled = True
        try:
            await super().startup(sockets=sockets)
        except SystemExit as exc:
            raise getattr(self._state, "failed", exc) from None
        finally:
            log.disabled = False
        # What was imported and opened stays: a full collection would look at all of it again.
        gc.collect()
        gc.freeze()
        self._ready()


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await refuse(Refused(503, "too many connections; try again later", Connection="close"), scope, receive, send)


class _Protocol(H11Protocol):
    """Bounds connections, and the time of a request's head, so that slow clients hold none for long.

    Those that never read are bounded here too: what is refused before its route has no time limit of its own.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        count, limit_s = len(self.connections), _HEAD_S
        if count > _MOST_CONNECTIONS + _SPARE_CONNECTIONS:
            transport.abort()
            return
        if count > _MOST_CONNECTIONS:
            self.app, limit_s = Headers(_busy), _TELLING_S
        self._late = self.loop.call_later(limit_s, self._give_up)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP as everything else that is refused."""
        answer = problem(400, "the request is not HTTP; what came is not of its form, or its head is too long")
        said = [(name.encode(), value.encode()) for name, value in ALWAYS.items()]
        said += [*answer.raw_headers, (b"cache-control", b"no-store"), (b"connection", b"close")]
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            self.transport.write(self.conn.send(h11.Response(status_code=400, headers=said)) or b"")
            self.transport.write(self.conn.send(h11.Data(data=bytes(answer.body))) or b"")
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_between_requests():
            self._forget()
        # Whatever comes ends uvicorn's own wait for the next request.
        elif self._late is None and self.timeout_keep_alive_task is None:
            self._late = self.loop.call_later(_HEAD_S, self._give_up)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_unless_read()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._forget_unread()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_unless_read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._forget_unread()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        """Whether a head is awaited, or the rest of a body that was answered before it had come."""
        answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        return answered or self.conn.their_state is h11.IDLE

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_unless_read(self) -> None:
        """End the connection soon, unless its client reads: one that is closed is still held until all is read."""
        self._unread = self._unread or self.loop.call_later(_READ_S, self.transport.abort)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        self._late = None
        if self._is_between_requests():
            with suppress(OSError):
                self.transport.close()
            self._end_unless_read()
