"""A TCP proxy that misbehaves on demand, to stand between a client and a server."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

FAULTS = ("reset", "black hole", "half close", "slow", "dropped replies", "refused")

_CHUNK = 1 << 16


class FaultProxy:
    """Passes bytes between clients and `target` (HOST:PORT), with one fault at a time.

    reset: connections are reset, new ones after their first bytes.
    black hole: nothing is passed in either direction, and nobody is told; bytes are taken, connections accepted.
    half close: the client is told that the server has ended its side; what it sends goes nowhere.
    slow: 20 ms for every chunk, `slow_bytes_s` at most.
    dropped replies: requests reach the server, answers get lost.
    refused: no connection is accepted, the ones there are reset.

    A connection on which bytes were lost never recovers, whatever the fault is set to later.
    """

    def __init__(self, target: str, slow_bytes_s: float = 1e6) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._slow_bytes_s = slow_bytes_s
        self._fault: str | None = None
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.connections = 0

    @property
    def fault(self) -> str | None:
        """The present fault; None for none."""
        return self._fault

    @fault.setter
    def fault(self, fault: str | None) -> None:
        assert fault is None or fault in FAULTS
        before, self._fault = self._fault, fault
        with self._lock:
            links = list(self._links)
        if fault == "refused":
            _close(self._listener)
        elif before == "refused":
            self._listener = self._listen(int(self.address.rpartition(":")[2]))
        for link in links:
            if fault in ("reset", "refused"):
                link.reset()
            elif fault == "half close":
                link.end_towards_client()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close(self._listener)
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()
        for link in links:
            link.join()

    def delay_s(self, count: int) -> float:
        return 0.02 + count / self._slow_bytes_s if self._fault == "slow" else 0.0

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            try:
                server = socket.create_connection(self._target, timeout=2)
                server.settimeout(None)
            except OSError:
                _reset(client)
                continue
            link = _Link(self, client, server)
            with self._lock:  # so that whoever ends all links finds none that is not yet running
                self._links.add(link)
                link.start()

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._lost = {"request": False, "reply": False}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._pump, args=(client, server, "request"), daemon=True),
            threading.Thread(target=self._pump, args=(server, client, "reply"), daemon=True),
        ]

    def start(self) -> None:
        if self._proxy.fault == "half close":
            self.end_towards_client()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def reset(self) -> None:
        self._over.set()
        _reset(self._client)
        _close(self._server)

    def end_towards_client(self) -> None:
        self._lost["request"] = self._lost["reply"] = True
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(_CHUNK):
                fault = self._proxy.fault
                if fault in ("reset", "refused"):
                    self.reset()
                    return
                if fault == "black hole" or (fault == "dropped replies" and direction == "reply"):
                    self._lost[direction] = True
                if self._lost[direction]:
                    continue
                time.sleep(self._proxy.delay_s(len(data)))
                sink.sendall(data)
            if not self._lost[direction] and not self._over.is_set():
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if self._over.is_set() or not any(self._lost.values()):
            self._over.set()
            _close(self._client)
            _close(self._server)
            self._proxy.forget(self)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes who waits in recv, and sends nothing
    connection.close()


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes who waits in recv or accept
    connection.close()
