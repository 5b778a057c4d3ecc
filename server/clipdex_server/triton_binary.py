"""Find a Triton on this machine: NVIDIA's own on PATH, or the one inside nvidia-pytriton's wheel.

Nothing of nvidia-pytriton is imported: its wheel is only a place where a `tritonserver` binary, the Python
backend, and a stub for each version of CPython lie.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from clipdex.base.errors import LocalServerError, MissingExtra

__all__ = ["PythonBackend", "TritonBinary", "find_triton"]

_INSTEAD = "the address  inproc:DIR  runs the same models in the client's own process"


@dataclass(frozen=True)
class PythonBackend:
    """The parts of Triton's Python backend; `backend_directory.build` puts them together."""

    library: Path
    utils: Path
    stub: Path


@dataclass(frozen=True)
class TritonBinary:
    """A `tritonserver` that can be run.

    python_backend: None where the installation has its own backends, as NVIDIA's container does.
    library_path: directories that LD_LIBRARY_PATH must hold for it.
    """

    path: Path
    python_backend: PythonBackend | None = None
    library_path: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """This process's environment, with `library_path` in front of LD_LIBRARY_PATH, and no TensorFloat-32.

        That rounds float32 products to 10 bits, and TensorRT has no other switch for it than the variable.
        """
        environment = {"NVIDIA_TF32_OVERRIDE": "0", **os.environ}
        known = environment.get("LD_LIBRARY_PATH")
        paths = [str(path) for path in self.library_path] + ([known] if known else [])
        if paths:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        return environment


def find_triton() -> TritonBinary:
    """The `tritonserver` on PATH if there is one, else the one in nvidia-pytriton's wheel.

    Raises:
        MissingExtra: nvidia-pytriton or onnxruntime is not installed.
        LocalServerError: no Triton exists for this platform or this Python.
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
    if package is None:
        raise MissingExtra("nvidia-pytriton", "local", purpose)
    if _package_dir("onnxruntime") is None:
        raise MissingExtra("onnxruntime", "local", purpose)
    return _in_wheel(package)


def site_directories() -> list[Path]:
    """Where this Python finds its installed packages, in the order of sys.path."""
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
                "install it again with  pip install --force-reinstall nvidia-pytriton==0.7.0"
            )
    if not backend.stub.is_file():
        stubs = sorted((server / "python_backend_stubs").iterdir(), key=lambda path: int(path.name[2:]))
        raise LocalServerError(
            f"nvidia-pytriton's Triton runs Python {stubs[0].name} to {stubs[-1].name} and this is {python}: "
            f"use one of those, or {_INSTEAD}"
        )
    if shutil.which("bash") is None:
        raise LocalServerError("Triton starts its Python backend with bash, which is not installed here")
    found = TritonBinary(binary, backend, (*_libpython_directories(), package.parent / "nvidia_pytriton.libs"))
    _check_loads(found, backend.stub)
    return found


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _check_loads(triton: TritonBinary, stub: Path) -> None:
    """Refuse a stub that the dynamic loader cannot start; Triton itself would only say "not healthy"."""
    # Without arguments the stub complains and ends with 1; the loader ends with 127 and names the library.
    result = subprocess.run(
        [stub], env=triton.environment(), capture_output=True, text=True, timeout=60, check=False
    )
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
    """The directory of an installed package, without importing it."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
