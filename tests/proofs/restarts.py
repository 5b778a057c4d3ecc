"""Runs whose server is killed and started again under them, and what their index must be."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

import clipdex
from clipdex_server import LocalTriton

MODEL_REPOSITORY = Path(__file__).resolve().parent.parent.parent / "model_repository"


class Killer:
    """A Triton that is killed whenever a run has come so far, and started again on the same port.

    error: why it could not be started. It ends the run, which would wait for the server until its deadline.
    """

    def __init__(self, kill_at: Sequence[int]) -> None:
        """kill_at: numbers of indexed pictures, ascending."""
        self.killed = 0
        self._kill_at = list(kill_at)
        self._due = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._ready = threading.Event()
        self.address = ""
        self.error: BaseException | None = None

    def __enter__(self):
        self._thread.start()
        self._ready.wait()  # a start has a time-out of its own
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *error):
        self._over.set()
        self._due.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def watch(self, progress: clipdex.Progress) -> None:
        """To be called as the run goes on."""
        if self._kill_at and progress.indexed >= self._kill_at[0]:
            self._kill_at.pop(0)
            self._due.set()

    def _serve(self) -> None:
        try:
            self._start_and_kill()
        except BaseException as exc:
            self.error = exc
            if self._ready.is_set() and not self._over.is_set():
                main = threading.main_thread().ident  # which waits within the run
                assert main is not None
                signal.pthread_kill(main, signal.SIGINT)
            self._ready.set()

    def _start_and_kill(self) -> None:
        port = 0
        while not self._over.is_set():
            with LocalTriton(MODEL_REPOSITORY, grpc_port=port, stop_timeout_s=0) as server:
                port, self.address = server.grpc_port, server.address
                self._ready.set()
                self._due.wait()
                self._due.clear()
                if not self._over.is_set():
                    # In the middle of a batch, as a rule.
                    time.sleep(0.02)
                    assert server.pid is not None
                    with suppress(ProcessLookupError):
                        os.kill(server.pid, signal.SIGKILL)
                    self.killed += 1


def index_rows(directory: Path) -> tuple[list[tuple[int, bytes]], np.ndarray]:
    """Every live row's number and path, and the vectors' own bits."""
    with clipdex.Index.open(directory) as index:
        return index.live_paths(), np.array(index.vectors).view(np.uint16)
