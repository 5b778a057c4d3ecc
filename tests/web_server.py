"""A web application over a fake inference server, for tests of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from clipdex.client.client import Client
from clipdex.wire import FakeTransport

__all__ = ["answering", "serving", "settings_of"]


def settings_of(*indexes: Path, **given: Any) -> Any:
    """Settings for an application that the fake answers; `fake=False` for one without an inference server."""
    from clipdex.web import WebSettings

    server = "fake" if given.pop("fake", True) else None
    return WebSettings(indexes=indexes, server=server, port=0, **given)


def _connected(transport: FakeTransport | None) -> Any:
    def connect(*_: object, **settings: object) -> Client:
        return Client(transport or FakeTransport())

    return mock.patch("clipdex.collection.open_collection.connect", connect)


@contextmanager
def serving(settings: Any, transport: FakeTransport | None = None) -> Iterator[int]:
    """Serve at a free port, as `clipdex web` does, in a thread -> the port."""
    from clipdex.web import running

    listening = running.bound(settings.host, 0)
    servers: list[Any] = []
    ready = threading.Event()
    startup = running._Server.startup

    async def noted(self: Any, sockets: Any = None) -> None:
        servers.append(self)
        await startup(self, sockets)

    def serve() -> None:
        running.serve(settings, listening, lambda _: ready.set())

    thread = threading.Thread(target=serve)
    with mock.patch.object(running._Server, "startup", noted), _connected(transport):
        thread.start()
        while not ready.wait(0.2):
            assert thread.is_alive(), "the server did not start"
    try:
        yield listening.getsockname()[1]
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


@contextmanager
def answering(settings: Any, transport: FakeTransport | None = None) -> Iterator[Any]:
    """Start the application in this process -> a client that requests of it."""
    from fastapi.testclient import TestClient

    from clipdex.web import create_app

    with (
        _connected(transport),
        TestClient(create_app(settings), base_url="http://127.0.0.1") as client,
    ):
        yield client
