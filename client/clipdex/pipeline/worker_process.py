"""Worker processes of one pipe each: how they are started, listened to, given up and ended.

`decode.py` keeps a run's workers busy in the order of its files; `worker_service.py` gives them single pictures.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Self

from clipdex.base.errors import ClipdexError
from clipdex.pipeline.worker_loop import BEGINS, WAITS

__all__ = ["FAILED_STARTS_IN_A_ROW", "WorkerProcess", "refused", "worker_environment"]

# After this many, the workers cannot run at all (no memory, a broken installation), and no file is to blame.
FAILED_STARTS_IN_A_ROW = 20
_START_TIMEOUT_S = 120.0
_KILL_TIMEOUT_S = 5.0

# How `Connection` frames a message of up to 2 GiB: its length, then its bytes.
_FRAME = struct.Struct("!i")
_READ_AT_ONCE = 1 << 16

_WAITS, _BEGINS = bytes([WAITS]), bytes([BEGINS])

# Room for what `decode.py` queues at a worker, and for its answers: some systems give a pipe 8 KiB.
_PIPE_BYTES = 1 << 18

# A worker multiplies no matrices. OpenBLAS would start a thread for each core, and reserve memory for each.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# A decoded picture is given back to the kernel and fetched anew, page by page: a fifth of the time of a large one.
# With this, glibc keeps what one of 20 megapixels takes. Its own threshold for mmap, which it raises to this
# by and by, has to be set with it.
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(128 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


def _widen(*ends: Connection) -> None:
    for end in ends:
        with suppress(OSError), socket.socket(fileno=os.dup(end.fileno())) as pipe:
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                pipe.setsockopt(socket.SOL_SOCKET, buffer, _PIPE_BYTES)


@dataclass
class WorkerProcess:
    """A process that answers requests, and our end of its pipe. since: when it started, or began the oldest."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    ready: bool = False
    since: float = field(default_factory=time.monotonic)
    unread: bytearray = field(default_factory=bytearray)  # the beginning of a message

    @classmethod
    def start(cls, module: str, memory: int, arguments: Sequence[str], *, advice: str) -> Self:
        """Start one: `main` of a module, whose arguments are the descriptors of its pipe and memory, and others.

        Args:
            memory: a descriptor of shared memory, which is closed here, whatever happens.
            advice: the end of the sentence if the system refuses.

        Raises:
            ClipdexError: the process cannot be started.
        """
        # Not multiprocessing: a spawned child would run the caller's main module again.
        command = [sys.executable, "-c", f"from {module} import main; main()"]
        try:
            with ExitStack() as failed, ExitStack() as passing:
                passing.callback(os.close, memory)
                ours, theirs = Pipe()
                _widen(ours, theirs)
                failed.callback(ours.close)
                passing.callback(theirs.close)
                passed = [theirs.fileno(), memory]
                process = subprocess.Popen(
                    [*command, *map(str, passed), *arguments],
                    stdin=subprocess.DEVNULL,
                    pass_fds=passed,
                    env=worker_environment(os.environ) | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                )
                failed.pop_all()
        except OSError as exc:
            raise refused(exc, advice) from exc
        return cls(process, ours)

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages as `Connection.send_bytes` would, but together. Raises ConnectionError if it has died."""
        data = memoryview(b"".join(_FRAME.pack(len(message)) + message for message in messages))
        while data:
            data = data[os.writev(self.pipe.fileno(), [data]) :]

    def receive(self) -> list[bytes]:
        """Return the whole messages that have come, sent by `Connection.send_bytes`; waits for some bytes.

        Raises:
            EOFError, ConnectionError: it has died.
        """
        data = os.read(self.pipe.fileno(), _READ_AT_ONCE)
        if not data:
            raise EOFError
        if self.unread:
            self.unread += data
            if len(self.unread) < _FRAME.size + self._length_of_first():
                return []  # a long message is not copied with each of its pieces
            data = bytes(self.unread)
        messages, at, size = [], 0, _FRAME.size
        while at + size <= len(data):
            (length,) = _FRAME.unpack_from(data, at)
            end = at + size + length
            if end > len(data):
                break
            messages.append(data[at + size : end])
            at = end
        self.unread[:] = data[at:]
        return messages

    def _length_of_first(self) -> int:
        return int(_FRAME.unpack_from(self.unread)[0]) if len(self.unread) >= _FRAME.size else 0

    def is_answer(self, message: bytes, now: float) -> bool:
        """Note what a message says of the worker -> whether it is an answer to a request."""
        # The wait for a turn at a large picture does not count towards the timeout.
        self.since = math.inf if message == _WAITS else now
        if message in (_WAITS, _BEGINS):
            return False
        if not self.ready:
            self.ready = True
            return False
        return True

    def allowed_s(self, file_timeout_s: float) -> float:
        """Return the seconds that it may take for what it does now: to start, or to decode a file."""
        return file_timeout_s if self.ready else _START_TIMEOUT_S

    def stop(self) -> None:
        """Kill it."""
        self.pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        # A worker that waits for a lost disk or server cannot be killed; it must not hold up the run.
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_KILL_TIMEOUT_S)

    def how_it_died(self) -> str:
        """Say how a stopped worker, which died at a picture, has ended."""
        status = self.process.returncode
        signal = f" by signal {-status}" if status is not None and status < 0 else ""
        return f"the process that decoded it ended{signal}"

    def how_late(self, file_timeout_s: float) -> str:
        """Say that a picture took too long."""
        return f"decoding took longer than {self.allowed_s(file_timeout_s):g} s"

    def never_started(self, times: int, advice: str) -> ClipdexError:
        """Make the error after so many failed starts in a row, of which this stopped one was the last."""
        return ClipdexError(
            f"{times} decode workers in a row did not start (the last ended with status "
            f"{self.process.returncode}): the pictures are not at fault; see what they printed, and {advice}"
        )


def worker_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a worker, from those of this process."""
    return {**_KEPT_MEMORY, **own, **_ONE_THREAD}


def refused(exc: OSError, advice: str) -> ClipdexError:
    """Make the error for a worker that the system does not let start."""
    return ClipdexError(
        f"a decode worker could not be started: {exc.strerror or exc}; raise the limit on processes (ulimit -u) "
        f"or open files (ulimit -n), or {advice}"
    )
