"""A transport that runs a model repository in this process: for laptops, tests and comparison."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.cpus import has_quota, usable_cpus
from clipdex.base.errors import CardError, ClipdexError, Closed, ModelNotFound, RequestRefused, ServerFault
from clipdex.base.git_lfs import is_pointer_file, pointer_words
from clipdex.wire.model_config import asks_for_tf32, from_message, read_config
from clipdex.wire.runtimes.choice import ONNXRUNTIME, OPENVINO, Choice, choose, installed_runtimes
from clipdex.wire.runtimes.onnx_runtime import OnnxRuntime
from clipdex.wire.runtimes.open_vino import OpenVino
from clipdex.wire.runtimes.runtime import Opening, Runtime, Session
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
        self._purpose = f"inproc:{repository}"
        self._installed = installed_runtimes()
        self._runtimes: dict[str, Runtime] = {}
        if self._installed != {OPENVINO}:
            self._runtime(ONNXRUNTIME)  # raises MissingExtra where there is none
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
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # One at a time: a runtime spreads each run over all cores by itself.
        self._runner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clipdex-inproc")

    @property
    def address(self) -> str:
        """inproc:DIR."""
        return f"inproc:{self._repository}"

    def server(self, timeout_s: float) -> ServerInfo:
        """`inproc`, and the runtime's version; with its name, where it is not onnxruntime for all towers."""
        chosen = set()
        for name in self._names:
            with suppress(CardError):  # told when the model is asked for
                if not name.endswith("_assets"):
                    chosen.add(self.choice(name).runtime)
        runtimes = sorted(chosen or set(self._runtimes))
        if runtimes == [ONNXRUNTIME]:
            return ServerInfo("inproc", self._runtime(ONNXRUNTIME).version)
        return ServerInfo("inproc", ", ".join(f"{name} {self._runtime(name).version}" for name in runtimes))

    def choice(self, model: str) -> Choice:
        """Return which runtime computes a model, and why."""
        return self._choice(self._message(model))

    def _choice(self, config: Any) -> Choice:
        known = self._runtimes.get(ONNXRUNTIME)
        return choose(config, installed=self._installed, gpu=known is not None and known.on_gpu)

    def models(self, timeout_s: float) -> list[str]:
        """List the directories that contain a config.pbtxt."""
        return list(self._names)

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """Read the model's config.pbtxt."""
        config = self._message(model)
        return replace(from_message(config), runtime=str(self._choice(config)))

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Queue one run. The timeout is ignored: the work is this process's own."""
        try:
            limit = from_message(self._message(model)).max_batch_size
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
        result = self._session(model).run(inputs, output)
        if not isinstance(result, np.ndarray) or result.dtype.hasobject:
            raise ServerFault(f"{model}: its output {output!r} is not a tensor of numbers")
        array: Array = result
        return array

    def _runtime(self, name: str) -> Runtime:
        if name not in self._runtimes:
            self._runtimes[name] = OpenVino(self._purpose) if name == OPENVINO else OnnxRuntime(self._purpose)
        return self._runtimes[name]

    def _session(self, model: str) -> Session:
        with self._lock:
            if model not in self._sessions:
                self._sessions[model] = self._load(model)
            return self._sessions[model]

    def _load(self, model: str) -> Session:
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
        choice = self.choice(model)
        return self._runtime(choice.runtime).open(
            model, file, Opening(_threads(config), choice.bf16, asks_for_tf32(config))
        )


# The same setting, by the name that each of Triton's backends gives it.
_THREADS = ("intra_op_thread_count", "INFERENCE_NUM_THREADS")


def _threads(config: Any) -> int:
    """Return the number of threads that a configuration asks for; 0 for the runtime's own choice."""
    stated = [config.parameters[name].string_value for name in _THREADS if name in config.parameters]
    asked = next((int(text) for text in stated if _is_number(text)), 0)
    # A runtime would start a thread for every core, whatever the quota.
    return usable_cpus() if asked == 0 and has_quota() else asked
