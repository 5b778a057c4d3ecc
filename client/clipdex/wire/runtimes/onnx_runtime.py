"""onnxruntime as a runtime in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipdex.base.arrays import Array
from clipdex.base.errors import CardError, RequestRefused, ServerFault
from clipdex.base.extras import needs
from clipdex.wire.runtimes.runtime import Opening, reason_of

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """onnxruntime, on a GPU if it offers CUDA, else on the CPU."""

    name = "onnxruntime"

    def __init__(self, purpose: str) -> None:
        # onnxruntime sends telemetry over the network from its import on, unless told not to.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        with needs("onnxruntime", "onnxruntime", "local", purpose):
            import onnxruntime
        self.library = onnxruntime
        self.version = str(onnxruntime.__version__)

    @property
    def on_gpu(self) -> bool:
        """Whether it offers CUDA."""
        return "CUDAExecutionProvider" in self.library.get_available_providers()

    def open(self, model: str, file: Path, opening: Opening) -> _Session:
        """Open a session. Raises CardError if the file cannot be loaded."""
        options = self.library.SessionOptions()
        options.log_severity_level = 3  # errors only; they are also raised
        options.intra_op_num_threads = opening.threads
        # The providers that run everywhere; TensorRT is chosen by a server, in its config.pbtxt.
        # TensorFloat-32 rounds the factors of float32 products to 10 bits; left alone, the provider uses it.
        options_of = {
            "CUDAExecutionProvider": {"use_tf32": "1" if opening.tf32 else "0"},
            "CPUExecutionProvider": {},
        }
        wanted = [(p, own) for p, own in options_of.items() if p in self.library.get_available_providers()]
        try:
            return _Session(model, self.library.InferenceSession(str(file), options, providers=wanted))
        except Exception as exc:
            raise CardError(f"{file}: onnxruntime cannot load it: {reason_of(exc)}") from exc


class _Session:
    def __init__(self, model: str, session: Any) -> None:
        self._model = model
        self._session = session

    def run(self, inputs: Mapping[str, Array], output: str) -> Any:
        """Compute one output; see `Session`."""
        try:
            (result,) = self._session.run([output], dict(inputs))
        except Exception as exc:  # onnxruntime's errors share no public base class
            # Wrong names, dtypes and shapes give INVALID_ARGUMENT, before anything is computed.
            text = reason_of(exc)
            if "INVALID_ARGUMENT" in text or isinstance(exc, ValueError):
                raise RequestRefused(f"{self._model}: {text}") from exc
            raise ServerFault(f"{self._model}: {text}") from exc
        return result
