"""Checks before a server is started, so that mistakes are reported at once and clearly."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clipdex.base.errors import LocalServerError
from clipdex.base.git_lfs import is_pointer_file, pointer_words

__all__ = ["check_names", "check_repository", "free_port", "temp_dir"]

# nvidia-pytriton's Triton starts a stub with `bash -c`, and quotes neither the stub's path nor the model's.
_SHELL_SAFE = re.compile(r"[A-Za-z0-9._/+@%:,-]+")


def check_repository(repository: Path, models: Sequence[str] | None) -> None:
    """Raise LocalServerError if the directory lacks models, or those named, or has git-lfs pointers as models."""
    if not repository.is_dir():
        what = "is not a directory" if repository.exists() else "does not exist"
        raise LocalServerError(f"the model repository {repository} {what}")
    there = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not there:
        raise LocalServerError(
            f"the model repository {repository} contains no model: expected directories such as "
            "demo_image with a config.pbtxt in them"
        )
    for model in models or ():
        if model not in there:
            raise LocalServerError(
                f"the model repository {repository} has no model {model!r}; it has {', '.join(there)}"
            )
    for model in models or there:
        for file in sorted((repository / model).glob("[0-9]*/model.onnx*")):
            if is_pointer_file(file):
                raise LocalServerError(pointer_words(file, "the model"))


def check_names(repository: Path) -> None:
    """Raise LocalServerError for names that a shell would split: Triton passes them to `bash -c` unquoted."""
    for path in repository.iterdir():
        if path.is_dir() and not _SHELL_SAFE.fullmatch(path.name):
            raise LocalServerError(
                f"Triton cannot serve a model named {path.name!r}: use letters, digits, dots, underscores, hyphens"
            )


def temp_dir() -> Path:
    """Return the directory for a run's files."""
    # The stub's own path goes through the same shell.
    directory = Path(tempfile.gettempdir())
    if _SHELL_SAFE.fullmatch(str(directory)):
        return directory
    return Path("/tmp")  # noqa: S108  # a directory of mode 0700 with a random name is made in it


# What sets each port: on the command line, and in Python.
_PORT_OPTIONS = {
    "gRPC": "--port (grpc_port=)",
    "HTTP": "--http-port (http_port=)",
    "metrics": "--metrics-port (metrics_port=)",
}


def free_port(what: str, host: str, port: int) -> int:
    """Return `port` if it is free, or any free port for 0."""
    if not 0 <= port <= 65535:
        raise LocalServerError(f"the {what} port is {port}; expected 1 to 65535, or 0 for any free port")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as exc:
        if port == 0:
            raise LocalServerError(f"Triton cannot listen on {host}: {exc.strerror}") from exc
        raise LocalServerError(
            f"the {what} port {port} of {host} cannot be used ({exc.strerror}): "
            f"choose another with {_PORT_OPTIONS[what]}, or 0 for any free one"
        ) from exc
