"""Ask a server over gRPC whether it is ready."""

from __future__ import annotations

import socket
from dataclasses import dataclass

__all__ = ["ServerState", "accepts_connections", "server_state"]


@dataclass(frozen=True)
class ServerState:
    """A server that is ready: its version, and the names of the models that are."""

    version: str
    models: tuple[str, ...]


def accepts_connections(host: str, port: int) -> bool:
    """Whether something listens there. Triton does so only when its models have loaded."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def server_state(address: str, timeout_s: float) -> ServerState | None:
    """The server's state when it and all its models are READY, else None."""
    # Imported here: `import clipdex_server` is for programs that may never start a server.
    from clipdex.base.errors import ClipdexError
    from clipdex.wire.triton import TritonTransport

    transport = TritonTransport(address)
    try:
        return ServerState(transport.server(timeout_s).version, tuple(transport.models(timeout_s)))
    except ClipdexError:
        return None  # still starting, or ending; the caller sees which
    finally:
        transport.close()
