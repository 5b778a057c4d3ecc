"""Search for a Triton on this machine: NVIDIA's own on PATH, or the one in nvidia-pytriton's wheel.

nvidia-pytriton itself is never imported: its wheel only provides a `tritonserver` binary, the Python backend, and
a stub for each version of CPython.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from clipdex.base.errors import LocalServerError, MissingExtra

__all__ = ["PythonBackend", "TritonBinary", "find_triton"]

_ASKED_S = 60.0
_INSTEAD = "the address  inproc:DIR  runs the same models in the client's own process"


@dataclass(frozen=True)
class PythonBackend:
    """The files of Triton's Python backend; `backend_directory.build` assembles them."""

    library: Path
    utils: Path
    stub: Path


@dataclass(frozen=True)
class TritonBinary:
    """A `tritonserver` that can be run.

    python_backend: None if the installation has its own backends, as NVIDIA's container does.
    library_path: directories to add to LD_LIBRARY_PATH.
    """

    path: Path
    python_backend: PythonBackend | None = None
    library_path: tuple[Path, ...] = ()

    def environment(self, *, tf32: bool = False) -> dict[str, str]:
        """Return this process's environment, with `library_path` first in LD_LIBRARY_PATH, and TensorFloat-32 off.

        TensorFloat-32 would round float32 products to 10 bits; in TensorRT only this variable disables it. It
        overrides what a configuration asks for.

        tf32: leave that to the configurations.
        """
        environment = {**({} if tf32 else {"NVIDIA_TF32_OVERRIDE": "0"}), **os.environ}
        known = environment.get("LD_LIBRARY_PATH")
        paths = [str(path) for path in self.library_path] + ([known] if known else [])
        if paths:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        return environment

    def asked(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program of it that ends by itself -> how it ended, and its output.

        Raises:
            LocalServerError: it does not end.
        """
        try:
            return subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=_ASKED_S, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise LocalServerError(
                f"{command[0]} did not end within {_ASKED_S:g} s of its start: is this machine overloaded, or its "
                "disk? Try again"
            ) from exc


def find_triton() -> TritonBinary:
    """Return the `tritonserver` on PATH if there is one, else the one in nvidia-pytriton's wheel.

    Raises:
        MissingExtra: nvidia-pytriton or onnxruntime is not installed.
        LocalServerError: no Triton exists for this platform or this Python, or the one in the wheel does not work
            with the NumPy that is installed.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return TritonBinary(Path(on_path))
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise LocalServerError(
            f"there is no Triton to install for {platform.system()} on {platform.machine()}: {_INSTEAD}"
        )
    purpose = "a Triton on this machine"
    package = _package_dir("pytriton")
    if package is None and sys.version_info >= (3, 13):
        raise LocalServerError(
            f"there is no Triton to install for Python {_version()}, since nvidia-pytriton needs NumPy 1: use "
            f"Python 3.11 or 3.12, or {_INSTEAD}"
        )
    if package is None:
        raise MissingExtra("nvidia-pytriton", "local", purpose)
    if _package_dir("onnxruntime") is None:
        raise MissingExtra("onnxruntime", "local", purpose)
    return _in_wheel(package)


def site_directories() -> list[Path]:
    """Return the directories of this Python's installed packages, in the order of sys.path."""
    wanted = {path.parent for path in (_package_dir("numpy"), _package_dir("onnxruntime")) if path}
    return [
        path
        for path in map(Path, sys.path)
        if path in wanted or (path.name in ("site-packages", "dist-packages") and path.is_dir())
    ]


def _in_wheel(package: Path) -> TritonBinary:
    server = package / "tritonserver"
    python = _version()
    backend = PythonBackend(
        library=server / "backends" / "python" / "libtriton_python.so",
        utils=server / "backends" / "python" / "triton_python_backend_utils.py",
        stub=server / "python_backend_stubs" / python / "triton_python_backend_stub",
    )
    binary = server / "bin" / "tritonserver"
    for path in (binary, backend.library, backend.utils):
        if not path.is_file():
            raise LocalServerError(
                f"nvidia-pytriton at {package} lacks {path.relative_to(package)}: "
                "reinstall it with  pip install --force-reinstall nvidia-pytriton==0.7.0"
            )
    if not backend.stub.is_file():
        stubs = sorted((server / "python_backend_stubs").iterdir(), key=lambda path: int(path.name[2:]))
        raise LocalServerError(
            f"nvidia-pytriton's Triton supports Python {stubs[0].name} to {stubs[-1].name}, and this is {python}: "
            f"use one of those, or {_INSTEAD}"
        )
    # With NumPy 2 its stub hands over every array empty.
    if int((numpy := version("numpy")).split(".")[0]) >= 2:
        raise LocalServerError(
            f"nvidia-pytriton's Triton works with NumPy 1, and this Python has NumPy {numpy}: run "
            f"{sys.executable} -m pip install 'numpy<2', or {_INSTEAD}"
        )
    if shutil.which("bash") is None:
        raise LocalServerError("Triton starts its Python backend with bash, which is not installed: install bash")
    found = TritonBinary(binary, backend, (*_libpython_directories(), package.parent / "nvidia_pytriton.libs"))
    _check_loads(found, backend.stub)
    return found


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _check_loads(triton: TritonBinary, stub: Path) -> None:
    """Raise LocalServerError if the dynamic loader cannot start the stub; Triton would only say "not healthy"."""
    # Without arguments the stub exits with 1; the loader exits with 127 and names the library.
    result = triton.asked([stub])
    if result.returncode != 127:
        return
    if "libpython" in result.stderr:
        raise LocalServerError(
            f"Triton needs a Python with a shared libpython, and {sys.executable} has none: use your system's "
            f"python3 (on Debian and Ubuntu with the package libpython{_version()}) or one built with "
            f"--enable-shared, or {_INSTEAD}"
        )
    raise LocalServerError(f"Triton's Python stub cannot start: {result.stderr.strip()}")


def _libpython_directories() -> list[Path]:
    candidates = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib")]
    return [Path(path) for path in dict.fromkeys(candidates) if path and Path(path).is_dir()]


def _package_dir(name: str) -> Path | None:
    """Return the directory of an installed package, without importing it; None if it is not installed."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
