"""The command line of a local `tritonserver`; `docker/` has the container's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdex_server.triton_binary import TritonBinary

__all__ = ["ServeOptions", "command_line"]

# The memory in which Triton and one stub exchange tensors. Linux reserves all of it at once, and a container's
# /dev/shm may have only 64 MB: so it starts small, and grows in large steps at the first large batch.
_STUB_MEMORY_BYTES = 2**20
_STUB_MEMORY_GROWTH_BYTES = 8 * 2**20


@dataclass(frozen=True)
class ServeOptions:
    """The options of a `LocalTriton`, with every port chosen.

    models: None serves every model of the repository.
    pinned_pool_bytes: page-locked memory for GPUs; None for Triton's default.
    http_port, metrics_port: None disables that endpoint.
    key: required to register shared memory, load models, or change logging and tracing; None for no restriction.
    """

    repository: Path
    host: str
    grpc_port: int
    http_port: int | None
    metrics_port: int | None
    models: Sequence[str] | None
    allow_client_shm: bool
    exit_timeout_s: float
    pinned_pool_bytes: int | None = None
    key: str | None = None


def command_line(
    triton: TritonBinary, options: ServeOptions, *, backend_directory: Path | None, shared_memory_prefix: str
) -> list[str]:
    """Return the program and its arguments.

    Automatic behaviour of Triton is disabled: it loads and unloads no model later, does not guess missing parts of
    a config.pbtxt, and exits if a model does not load.
    """
    command = [
        str(triton.path),
        f"--model-repository={options.repository}",
        "--model-control-mode=" + ("none" if options.models is None else "explicit"),
        *(f"--load-model={model}" for model in options.models or ()),
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={max(1, round(options.exit_timeout_s))}",
        f"--grpc-address={options.host}",
        f"--grpc-port={options.grpc_port}",
        *_endpoint("http", options.host, options.http_port),
        *_endpoint("metrics", options.host, options.metrics_port),
    ]
    flags = _usage(triton)
    if options.key is not None:
        from clipdex.wire.local_key import HEADER, KEY_NAME, KEYED_PROTOCOLS

        command.append(f"--grpc-restricted-protocol={KEYED_PROTOCOLS}:{KEY_NAME}={options.key}")
        if options.http_port is not None and "--http-restricted-api" in flags:
            command.append(f"--http-restricted-api={KEYED_PROTOCOLS}:{HEADER}={options.key}")
    # Triton 26.04 disabled it by default and added this flag; before that it is always on.
    if "--allow-client-shm" in flags:
        command.append(f"--allow-client-shm={_boolean(options.allow_client_shm)}")
    if options.pinned_pool_bytes is not None:
        command.append(f"--pinned-memory-pool-byte-size={options.pinned_pool_bytes}")
    if backend_directory is not None:
        command += [
            f"--backend-directory={backend_directory}",
            f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}-",
            f"--backend-config=python,shm-default-byte-size={_STUB_MEMORY_BYTES}",
            f"--backend-config=python,shm-growth-byte-size={_STUB_MEMORY_GROWTH_BYTES}",
        ]
    return command


def _endpoint(name: str, host: str, port: int | None) -> list[str]:
    if port is None:
        return [f"--allow-{name}=false"]
    return [f"--allow-{name}=true", f"--{name}-address={host}", f"--{name}-port={port}"]


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _usage(triton: TritonBinary) -> str:
    """Return the output of `tritonserver --help`, which lists its flags."""
    usage = triton.asked([triton.path, "--help"])
    return usage.stdout + usage.stderr
