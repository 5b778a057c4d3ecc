"""A web application over a fake inference server, for tests of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from clipdex.client.client import Client
from clipdex.wire import FakeTransport

__all__ = ["answering", "settings_of"]


def settings_of(*indexes: Path, **given: Any) -> Any:
    """Settings for an application that the fake answers; `fake=False` for one without an inference server."""
    from clipdex.web import WebSettings

    server = "fake" if given.pop("fake", True) else None
    return WebSettings(indexes=indexes, server=server, port=0, **given)


@contextmanager
def answering(settings: Any, transport: FakeTransport | None = None) -> Iterator[Any]:
    """Start the application in this process -> a client that requests of it."""
    from fastapi.testclient import TestClient

    from clipdex.web import create_app

    def connect(*_: object, **settings: object) -> Client:
        return Client(transport or FakeTransport())

    with (
        mock.patch("clipdex.collection.open_collection.connect", connect),
        TestClient(create_app(settings), base_url="http://127.0.0.1") as client,
    ):
        yield client
