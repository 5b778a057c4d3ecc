"""`clipdex serve`: run a Triton server on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdex.cli.common import JsonOption, sigterm_interrupts
from clipdex.cli.demo_model import default_repository
from clipdex.cli.model_at_hand import YesOption, model_at_hand
from clipdex.cli.printing import note, say, say_json
from clipdex.client.discovery import served_models

if TYPE_CHECKING:
    from clipdex_server import LocalTriton

__all__ = ["serve"]


def serve(
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            "-r",
            metavar="DIR",
            help="Triton model repository to serve (default model_repository, or else the one with the demo model "
            "that came with clipdex; with --model, one in the user's cache).",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Serve only this model: one of the repository, or one that  clipdex models --available  lists, "
            "which is downloaded and exported first if it is missing. May be repeated.",
            show_default=False,
        ),
    ] = None,
    yes: YesOption = False,
    port: Annotated[int, typer.Option("--port", "-p", help="gRPC port; 0 picks a free one.")] = 8001,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Triton has no authentication: do not expose it.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int | None, typer.Option(help="Port of Triton's HTTP endpoint (default off).", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of the Prometheus metrics (default off).", show_default=False)
    ] = None,
    client_shm: Annotated[
        bool, typer.Option(help="Let clients on this machine pass pictures in shared memory.")
    ] = True,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for Triton's log.", show_default=False)
    ] = None,
    startup_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time limit for loading the models.")
    ] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Serve the models of a repository until Ctrl-C.

    Runs the tritonserver on PATH (NVIDIA's container has one), or else the one that the extra `local` installs.
    Prints the address once every model is ready.
    """
    from clipdex_server import LocalTriton

    at_hand = [model_at_hand(name, repository, yes=yes) for name in model or ()]
    if at_hand:
        repository = at_hand[0].repository
    is_default = repository is None
    repository = repository or default_repository()
    server = LocalTriton(
        repository,
        models=[part for each in at_hand for part in each.parts] or None,
        grpc_port=port,
        host=host,
        http_port=http_port,
        metrics_port=metrics_port,
        allow_client_shm=client_shm,
        log_file=log,
        startup_timeout_s=startup_timeout,
    )
    with _ended_by_signal(), server:
        if is_default and repository.is_absolute():
            note(f"there is no model_repository in this folder: serving the demo model, {repository}")
        models = served_models(server.models or ())
        if as_json:
            _print_json(server, models)
        else:
            named = ", ".join(models) or "no model that clipdex exported"
            say(f"Triton {server.version} serves {named} at {server.address}; stop it with Ctrl-C", flush=True)
            for line in _runtimes(server, models):
                say(line, flush=True)
            for what, number in (("HTTP", server.http_port), ("metrics", server.metrics_port)):
                if number is not None:
                    say(f"{what} at {host}:{number}", flush=True)
        server.wait()


def _print_json(server: LocalTriton, models: Sequence[str]) -> None:
    say_json(
        {
            "address": server.address,
            "server": f"triton {server.version}",
            "models": list(models),
            "runtimes": {
                name: {"runtime": choice.runtime, "bf16": choice.bf16, "why": choice.why}
                for name, choice in server.runtimes.items()
            },
            "http_port": server.http_port,
            "metrics_port": server.metrics_port,
        },
        flush=True,
    )


def _runtimes(server: LocalTriton, models: Sequence[str]) -> list[str]:
    """Say what computes the towers of each model, and why."""
    lines = []
    for name in models:
        chosen = {str(choice) for part in ("image", "text") if (choice := server.runtimes.get(f"{name}_{part}"))}
        lines += [f"{name} is computed by {choice}" for choice in sorted(chosen)]
    return lines


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block without a failure."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt:
        note("stopped")
