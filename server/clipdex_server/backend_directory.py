"""The backend directory for the Triton in nvidia-pytriton's wheel.

    backends/python/        Triton's Python backend: its library, its utilities, the stub for this CPython
    backends/onnxruntime/   model.py: our backend of that name, which the Python backend runs; python_instance.py
    backends/openvino/      the same
    environment/            a virtual environment that contains only the paths of this Python's packages

The stub embeds an isolated Python: it ignores PYTHONHOME and PYTHONPATH, and finds its packages through the first
`python3` on PATH, as the interpreter of a virtual environment does. So one is made for it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from clipdex_server.triton_binary import PythonBackend

__all__ = ["build"]

_OURS = Path(__file__).parent / "backends"
_BACKENDS = ("onnxruntime", "openvino")


def build(run_dir: Path, parts: PythonBackend, site_directories: Sequence[Path]) -> tuple[Path, Path]:
    """Write the directories under `run_dir` -> the backends' directory, and the one to put first on PATH."""
    backends = run_dir / "backends"
    python = backends / "python"
    python.mkdir(parents=True)
    # Copies, since Triton rejects a library or stub whose real path "escapes" the backend directory.
    shutil.copy(parts.library, python / "libtriton_python.so")
    shutil.copy(parts.utils, python / "triton_python_backend_utils.py")
    shutil.copy(parts.stub, python / "triton_python_backend_stub")
    for name in _BACKENDS:
        (backends / name).mkdir()
        shutil.copy(_OURS / name / "model.py", backends / name / "model.py")
        shutil.copy(_OURS / "python_instance.py", backends / name / "python_instance.py")
    return backends, _environment(run_dir / "environment", site_directories)


def _environment(directory: Path, site_directories: Sequence[Path]) -> Path:
    """Make a virtual environment as `python -m venv` does, but without packages, and half a second faster."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # In a virtual environment, this is the interpreter that it was made from.
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
