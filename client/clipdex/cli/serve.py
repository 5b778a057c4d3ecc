"""`clipdex serve`: a Triton on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import sigterm_interrupts
from clipdex.cli.printing import note, say
from clipdex.client.discovery import served_models

__all__ = ["serve"]


def serve(
    repository: Annotated[
        Path, typer.Option("--repository", "-r", metavar="DIR", help="The Triton model repository to serve.")
    ] = Path("model_repository"),
    port: Annotated[int, typer.Option("--port", "-p", help="The gRPC port; 0 takes any that is free.")] = 8001,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Triton asks for no password: keep it to yourself.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int | None, typer.Option(help="Open Triton's HTTP endpoint, too.", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Open the Prometheus metrics, too.", show_default=False)
    ] = None,
    client_shm: Annotated[
        bool, typer.Option(help="Let clients on this machine pass pictures in shared memory.")
    ] = True,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep Triton's log there.", show_default=False)
    ] = None,
    startup_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long loading the models may take.")
    ] = 300.0,
) -> None:
    """Serve the models of a repository until Ctrl-C.

    Takes the tritonserver on PATH (NVIDIA's container has one), or else the one that
    `pip install 'clipdex[local]'` brings. Prints the address once every model is ready.
    """
    from clipdex_server import LocalTriton

    server = LocalTriton(
        repository,
        grpc_port=port,
        host=host,
        http_port=http_port,
        metrics_port=metrics_port,
        allow_client_shm=client_shm,
        log_file=log,
        startup_timeout_s=startup_timeout,
    )
    with _ended_by_signal(), server:
        models = ", ".join(served_models(server.models or ())) or "no model that clipdex exported"
        say(f"Triton {server.version} serves {models} at {server.address}; stop it with Ctrl-C", flush=True)
        for what, number in (("HTTP", server.http_port), ("metrics", server.metrics_port)):
            if number is not None:
                say(f"{what} at {host}:{number}", flush=True)
        server.wait()


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block; neither is a failure."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt:
        note("stopped")
