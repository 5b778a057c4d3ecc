"""Sessions of ONNX Runtime on the CPU, for the gate and its references."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["crashes", "open_session"]

_OPEN = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"


def open_session(model: Path | bytes, *, weights_in: Path | None = None, optimized: bool = True) -> Any:
    """Open an ONNX file, or one in memory.

    Args:
        model: the file, or its bytes.
        weights_in: for bytes, the directory with their external weights; the session then optimizes nothing.
        optimized: whether the session may rewrite the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    if weights_in is not None or not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights_in is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_in))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def crashes(path: Path) -> bool:
    """Return whether ONNX Runtime dies when it opens a file as a server does: tried in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(path)],
        capture_output=True,
        check=False,
    )
    return done.returncode < 0
