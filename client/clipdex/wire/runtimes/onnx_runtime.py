"""A transport that runs a model repository by onnxruntime in this process: for laptops, tests and comparison."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.cpus import has_quota, usable_cpus
from clipdex.base.errors import CardError, ClipdexError, Closed, ModelNotFound, RequestRefused, ServerFault
from clipdex.base.extras import needs
from clipdex.base.git_lfs import is_pointer_file, pointer_words
from clipdex.wire.model_config import from_message, read_config
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import ModelConfig, ModelStatistics, ServerInfo, failed

__all__ = ["InprocTransport"]


_MOST_DIGITS = 4


def _is_number(text: str) -> bool:
    """Return whether a text is a whole number, short enough for a model version or a count of threads."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


class InprocTransport:
    """A transport for a Triton model repository, without a Triton. Models are loaded when first used."""

    def __init__(self, repository: Path) -> None:
        # onnxruntime sends telemetry over the network from its import on, unless told not to.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        with needs("onnxruntime", "onnxruntime", "local", f"inproc:{repository}"):
            import onnxruntime
        self._onnxruntime = onnxruntime
        self._repository = repository
        if not repository.is_dir():
            raise ModelNotFound(
                f"{repository}: the model repository does not exist; expected a directory of Triton models"
            )
        self._names = sorted(p.parent.name for p in repository.glob("*/config.pbtxt") if p.parent.name[0] != ".")
        if not self._names:
            raise ModelNotFound(
                f"{repository}: contains no Triton model (no */config.pbtxt): export one with  clipdex export"
            )
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # One at a time: onnxruntime spreads each run over all cores by itself.
        self._runner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipdex-inproc")

    @property
    def address(self) -> str:
        """inproc:DIR."""
        return f"inproc:{self._repository}"

    def server(self, timeout_s: float) -> ServerInfo:
        """`inproc` and the version of onnxruntime."""
        return ServerInfo("inproc", str(self._onnxruntime.__version__))

    def models(self, timeout_s: float) -> list[str]:
        """List the directories that contain a config.pbtxt."""
        return list(self._names)

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """Read the model's config.pbtxt."""
        return from_message(self._message(model))

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Queue one run. The timeout is ignored: the work is this process's own."""
        try:
            limit = self.config(model, timeout_s).max_batch_size
            rows = max((len(array) for array in inputs.values()), default=0)
            if limit and rows > limit:
                raise RequestRefused(f"{model} takes at most {limit} rows in a request; this one has {rows}")
            return self._runner.submit(self._run, model, dict(inputs), output)
        except ClipdexError as exc:
            return failed(exc)
        except RuntimeError:  # the runner was shut down
            return failed(self._is_closed())

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """Zeros: nothing is counted."""
        return ModelStatistics()

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """True: arrays are never copied here."""
        return True

    def unshare(self, memory: SharedMemory) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Wait for the current run, and drop the sessions. Requests in the queue end with `Closed`."""
        self._closed.set()
        self._runner.shutdown()
        self._sessions.clear()

    def _is_closed(self) -> Closed:
        return Closed(f"{self.address} is closed")

    def _message(self, model: str) -> Any:
        if model not in self._names:
            raise ModelNotFound(f"{self._repository} has no model {model!r}")
        return read_config(self._repository / model / "config.pbtxt")

    def _run(self, model: str, inputs: dict[str, Array], output: str) -> Array:
        if self._closed.is_set():
            raise self._is_closed()
        session = self._session(model)
        try:
            (result,) = session.run([output], inputs)
        except Exception as exc:  # onnxruntime's errors share no public base class
            # Wrong names, dtypes and shapes give InvalidArgument, before anything is computed.
            text = " ".join(str(exc).split())
            if "INVALID_ARGUMENT" in text or isinstance(exc, ValueError):
                raise RequestRefused(f"{model}: {text}") from exc
            raise ServerFault(f"{model}: {text}") from exc
        if not isinstance(result, np.ndarray) or result.dtype.hasobject:
            raise ServerFault(f"{model}: its output {output!r} is not a tensor of numbers")
        array: Array = result
        return array

    def _session(self, model: str) -> Any:
        with self._lock:
            if model not in self._sessions:
                self._sessions[model] = self._load(model)
            return self._sessions[model]

    def _load(self, model: str) -> Any:
        config = self._message(model)
        versions = sorted(
            (p for p in (self._repository / model).iterdir() if _is_number(p.name)), key=lambda p: int(p.name)
        )
        if not versions:
            raise CardError(
                f"{self._repository / model}: contains no version directory; expected {model}/1/model.onnx"
            )
        file = versions[-1] / (config.default_model_filename or "model.onnx")
        for part in (file, file.with_name(file.name + ".data")):
            if is_pointer_file(part):
                raise CardError(pointer_words(part, "the model"))
        ort = self._onnxruntime
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only; they are also raised
        threads = config.parameters["intra_op_thread_count"].string_value if config.parameters else ""
        if _is_number(threads):
            options.intra_op_num_threads = int(threads)
        if (
            options.intra_op_num_threads == 0 and has_quota()
        ):  # onnxruntime would start a thread for every core, whatever the quota
            options.intra_op_num_threads = usable_cpus()
        # The providers that run everywhere; TensorRT is chosen by a server, in its config.pbtxt.
        # TensorFloat-32 would round the factors of float32 products on a GPU to 10 bits.
        options_of = {"CUDAExecutionProvider": {"use_tf32": "0"}, "CPUExecutionProvider": {}}
        wanted = [(p, own) for p, own in options_of.items() if p in ort.get_available_providers()]
        try:
            return ort.InferenceSession(str(file), options, providers=wanted)
        except Exception as exc:
            raise CardError(f"{file}: onnxruntime cannot load it: {' '.join(str(exc).split())}") from exc
