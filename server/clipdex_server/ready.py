"""Readiness checks of a server, over TCP and gRPC."""

from __future__ import annotations

import socket
from dataclasses import dataclass

__all__ = ["ServerState", "accepts_connections", "server_state"]


@dataclass(frozen=True)
class ServerState:
    """A ready server's version, and the names of its ready models."""

    version: str
    models: tuple[str, ...]


def accepts_connections(host: str, port: int) -> bool:
    """Return whether something listens there. Triton does only once its models have loaded."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def server_state(address: str, timeout_s: float) -> ServerState | None:
    """Return the server's state if it and all its models are READY, else None."""
    # Imported here, because programs that import clipdex_server may never start a server.
    from clipdex.base.errors import ClipdexError
    from clipdex.wire.triton import TritonTransport

    transport = TritonTransport(address)
    try:
        return ServerState(transport.server(timeout_s).version, tuple(transport.models(timeout_s)))
    except ClipdexError:
        return None  # still starting, or exiting; the caller finds out which
    finally:
        transport.close()
