"""Sessions of ONNX Runtime on the CPU, for the gate and its references."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["open_session"]


def open_session(model: Path | bytes, *, weights_in: Path | None = None) -> Any:
    """Open an ONNX file, or one in memory.

    Args:
        model: the file, or its bytes.
        weights_in: for bytes, the directory with their external weights; the session then optimizes nothing.
    """
    # onnxruntime sends telemetry over the network from its import on, unless told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    if weights_in is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_in))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
