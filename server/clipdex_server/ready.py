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
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(address)
    try:
        if not client.is_server_ready(client_timeout=timeout_s):
            return None
        version = client.get_server_metadata(client_timeout=timeout_s).version
        index = client.get_model_repository_index(client_timeout=timeout_s)
        ready = tuple(sorted(model.name for model in index.models if model.state == "READY"))
        return ServerState(version, ready)
    except triton.InferenceServerException:
        return None  # still starting, or ending; the caller sees which
    finally:
        client.close()
