"""Lay out a backend directory for the Triton of nvidia-pytriton's wheel.

    backends/python/        Triton's Python backend: its library, its utilities, the stub for this CPython
    backends/onnxruntime/   model.py: our backend of that name, which the former runs
    environment/            a virtual environment that holds nothing but the way to this Python's packages

The stub embeds Python in isolation: it ignores PYTHONHOME and PYTHONPATH, and finds its packages through the
first `python3` on PATH, as a virtual environment's own interpreter does. So it is given one.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from clipdex_server.triton_binary import PythonBackend

__all__ = ["build"]

_MODEL = Path(__file__).parent / "backends" / "onnxruntime" / "model.py"


def build(run_dir: Path, parts: PythonBackend, site_directories: Sequence[Path]) -> tuple[Path, Path]:
    """Write both directories under `run_dir`; return the backends' and the one to put first on PATH."""
    backends = run_dir / "backends"
    python = backends / "python"
    python.mkdir(parents=True)
    # Copies: Triton refuses a library or a stub whose real path "escapes" the backend directory.
    shutil.copy(parts.library, python / "libtriton_python.so")
    shutil.copy(parts.utils, python / "triton_python_backend_utils.py")
    shutil.copy(parts.stub, python / "triton_python_backend_stub")
    (backends / "onnxruntime").mkdir()
    shutil.copy(_MODEL, backends / "onnxruntime" / "model.py")
    return backends, _environment(run_dir / "environment", site_directories)


def _environment(directory: Path, site_directories: Sequence[Path]) -> Path:
    """What `python -m venv` makes, without its packages and its half second."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Of a virtual environment's python3 too, this is the interpreter it was made from.
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    binaries = directory / "bin"
    packages = directory / "lib" / f"python{version}" / "site-packages"
    binaries.mkdir(parents=True)
    packages.mkdir(parents=True)
    (binaries / "python3").symlink_to(executable)
    (directory / "pyvenv.cfg").write_text(
        f"home = {executable.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    (packages / "clipdex.pth").write_text("".join(f"{path}\n" for path in site_directories))
    return binaries
