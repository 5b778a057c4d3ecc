"""A real Milvus server, of the wheel `milvus`: started once in a process of tests, and stopped when that ends.

It listens on all interfaces, whatever its configuration says, and some of its ports are fixed. So it runs in a
network namespace of its own, whose only interface is a loopback: nobody else can reach it, and no other server is
in its way. A Unix socket, which belongs to no network, leads there from a port of 127.0.0.1.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["milvus_port"]

_ROLES = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
_WAIT_S = 600  # on a machine that has other work; a server that ends is seen at once
_started: list[int | Exception] = []


def milvus_port() -> int:
    """Start the server, and wait until it creates collections: its port answers long before.

    A server that does not start is not tried again, but fails each test in the same words.
    """
    if not _started:
        try:
            _started.append(_start())
        except Exception as exc:
            _started.append(exc)
    if isinstance(_started[0], Exception):
        raise _started[0]
    return _started[0]


def _start() -> int:
    import pytest
    from pymilvus import MilvusClient

    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the system gives no network namespace, and Milvus would listen on all interfaces")
    place = Path(tempfile.mkdtemp(prefix="milvus"))
    log = place / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*own, sys.executable, __file__, place], stdout=file, stderr=file, start_new_session=True
        )

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        shutil.rmtree(place, ignore_errors=True)

    atexit.register(end)
    door = socket.create_server(("127.0.0.1", 0))
    _forward(door, str(place / "door"), socket.AF_UNIX)
    port = int(door.getsockname()[1])
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            client = MilvusClient(uri=f"http://127.0.0.1:{port}", timeout=30)
            client.create_collection("awake", dimension=2)
            client.drop_collection("awake")
            client.close()
            return port
        except Exception as exc:
            if server.poll() is not None or time.monotonic() > until:
                how = f"has not started in {_WAIT_S} s" if server.poll() is None else "ended while it started"
                raise RuntimeError(f"Milvus {how}: {log.read_text(errors='replace')[-2000:]}") from exc
            time.sleep(1)


def _forward(door: socket.socket, to: str | tuple[str, int], family: int) -> None:
    """Carry what comes to a listening socket to another address, and back, in threads."""

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def both_ways(guest: socket.socket) -> None:
        with guest, socket.socket(family, socket.SOCK_STREAM) as host, suppress(OSError):  # nobody there yet
            host.connect(to)
            back = threading.Thread(target=carry, args=(host, guest), daemon=True)
            back.start()
            carry(guest, host)
            back.join()

    def accept() -> None:
        while True:
            guest, _ = door.accept()
            threading.Thread(target=both_ways, args=(guest,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _inside(place: Path) -> None:
    """Run the server, in a namespace, until this process is told to end or the server does."""
    import fcntl

    import milvus

    with socket.socket() as any_socket:  # brings the loopback up
        flags = 1 | 64  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", flags))  # SIOCSIFFLAGS
    config = milvus.MilvusServerConfig(data_dir=str(place / "data"))
    for role in _ROLES:
        config.set(f"{role}.ip", "127.0.0.1")  # what its parts call each other by
    server = milvus.MilvusServer(config, wait_for_started=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        server.start()
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(place / "door"))
        door.listen(64)
        _forward(door, ("127.0.0.1", server.listen_port), socket.AF_INET)
        status = server.server_proc.wait()
        sys.exit(f"the server ended with status {status}\n{_last_log(place)}")
    finally:
        server.stop()


def _last_log(place: Path) -> str:
    logs = (place / "data" / "logs").glob("milvus-*.log")
    return "\n".join(log.read_text(errors="replace")[-1500:] for log in logs)


if __name__ == "__main__":
    _inside(Path(sys.argv[1]))
