"""A handle on a supervised Triton, for the process that started it."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

from clipdex_server import supervisor

__all__ = ["SupervisedTriton"]


class SupervisedTriton:
    """A supervisor and its Triton, controlled by one pipe, and reporting on another.

    pid: Triton's process id, None until it is known. status: its exit status, None while it runs.
    """

    def __init__(self, spec: supervisor.Spec, environment: dict[str, str], log: int) -> None:
        self.owner = os.getpid()
        self.name = spec.name
        self.directory = Path(spec.run_dir)
        self.pid: int | None = None
        self.status: int | None = None
        self.stopped = False
        self.supervisor = subprocess.Popen(
            # -I -S: only the standard library, so it starts in milliseconds.
            [sys.executable, "-I", "-S", supervisor.__file__, str(spec.write())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        assert self.supervisor.stdout is not None
        self._news = self.supervisor.stdout.fileno()
        self._unread = b""
        self._watching = False

    def poll(self) -> int | None:
        """Return Triton's exit status, or None while it runs."""
        supervisor_status = self.supervisor.poll()
        self.read_news(0)
        if self.status is None and supervisor_status is not None:
            self.status = supervisor_status  # it was killed, and Triton with it
        return self.status

    def watch_stubs(self) -> None:
        """Have the loss of any of Triton's processes end the server from now on."""
        assert self.supervisor.stdin is not None
        with contextlib.suppress(OSError):  # the supervisor may be gone; `poll` tells
            self.supervisor.stdin.write(b"r")
        while not self._watching and self.poll() is None:
            self.read_news(1)

    def stop(self, timeout_s: float) -> None:
        """End both; Triton has `timeout_s` to answer the requests it has accepted."""
        stdin, stdout = self.supervisor.stdin, self.supervisor.stdout
        assert stdin is not None
        assert stdout is not None
        self.poll()  # it may have exited on its own before
        with contextlib.suppress(OSError):  # the supervisor may be gone
            stdin.write(b"s")
        stdin.close()
        try:
            self.supervisor.wait(timeout_s + 10)
        except subprocess.TimeoutExpired:
            self.supervisor.kill()  # and the kernel kills Triton
            self.supervisor.wait()
        if self.status is None:
            self.status = 0  # it was asked to stop: how much force that took does not matter
        stdout.close()
        self.stopped = True

    def read_news(self, timeout_s: float | None) -> None:
        """Wait up to `timeout_s` (None: forever) for a line, and process all that have come."""
        if self.stopped:
            return
        waiting = select.poll()  # not select.select, which is limited to file descriptors below 1024
        waiting.register(self._news, select.POLLIN)
        while waiting.poll(None if timeout_s is None else timeout_s * 1000):
            read = os.read(self._news, 512)
            if not read:
                return
            *lines, self._unread = (self._unread + read).split(b"\n")
            for line in lines:
                word, number = line.decode().split()
                if word == "started":
                    self.pid = int(number)
                elif word == "watching":
                    self._watching = True
                else:
                    self.status = int(number)
            timeout_s = 0
