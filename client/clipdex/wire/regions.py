"""Registration of shared memory with one Triton: first, again after its restart, and clean-up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from clipdex.base.errors import ClipdexError
from clipdex.wire.generated import service_pb2
from clipdex.wire.shared_memory import DIRECTORY, PREFIX, SharedMemory

__all__ = ["Regions"]

_LOG = logging.getLogger("clipdex.wire")

_TIMEOUT_S = 10.0
_UNREGISTER_TIMEOUT_S = 2.0


class Regions:
    """The shared memory that requests to one server may refer to. Safe to use from many threads.

    mapped: the memory that the server has mapped.
    """

    def __init__(
        self, ask: Callable[[str, Any, float], Any], start: Callable[[str, Any, float, Callable[[Any], None]], Any]
    ) -> None:
        """ask: makes a call (method, request, timeout), raising clipdex's errors. start: the same, not waiting."""
        self.mapped: tuple[SharedMemory, ...] = ()
        self._wanted: tuple[SharedMemory, ...] = ()  # includes memory that is being registered again
        self._ask = ask
        self._start = start
        self._lock = threading.Lock()

    def add(self, memory: SharedMemory, timeout_s: float) -> bool:
        """Register memory with the server; False if it lacks the same /dev/shm, or does not allow it."""
        try:
            self._ask("SystemSharedMemoryRegister", _register(memory), timeout_s)
        except ClipdexError as exc:
            _LOG.debug("no shared memory: %s", exc)
            return False
        with self._lock:
            self._wanted = (*self._wanted, memory)
        self._note(memory)
        # Only now is it known that the server's /dev/shm is ours, so a file missing here is missing there too.
        with suppress(ClipdexError):
            self._forget_left_overs(timeout_s)
        return True

    def remove(self, memory: SharedMemory) -> None:
        """Unregister memory from the server; one that has gone has dropped it already."""
        with self._lock:
            self._wanted = _without(self._wanted, memory)
            self.mapped = _without(self.mapped, memory)
        self._unregister(memory.name)

    def lost(self, details: str) -> bool:
        """Return whether an error says that the server, since restarted, no longer has some of the memory.

        If so, start registering it again; until that is done, requests carry their pixels.
        """
        named = [memory for memory in self._wanted if f"'{memory.name}'" in details]
        for memory in named:
            self._add_again(memory)
        return bool(named)

    def _note(self, memory: SharedMemory) -> bool:
        """Note that the server has mapped memory -> whether it is still wanted, so that requests may use it."""
        with self._lock:
            wanted = memory in self._wanted
            if wanted:
                self.mapped = (*self.mapped, memory)
        return wanted

    def _add_again(self, memory: SharedMemory) -> None:
        with self._lock:
            if memory not in self.mapped:
                return  # another request's error has already started this
            self.mapped = _without(self.mapped, memory)

        def done(call: Any) -> None:
            if not call.cancelled() and _is_there(call.exception()) and not self._note(memory):
                # Removed meanwhile. On gRPC's thread, so without waiting.
                with suppress(ClipdexError):
                    self._start("SystemSharedMemoryUnregister", _unregister(memory.name), _TIMEOUT_S, _ignore)

        with suppress(ClipdexError):
            self._start("SystemSharedMemoryRegister", _register(memory), _TIMEOUT_S, done)

    def _forget_left_overs(self, timeout_s: float) -> None:
        """Unregister the memory of clients that were killed; the server would keep it for as long as it runs."""
        found = self._ask("SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest(), timeout_s)
        for name in found.regions:
            if name.startswith(PREFIX) and not (DIRECTORY / name).exists():
                self._unregister(name)

    def _unregister(self, name: str) -> None:
        with suppress(ClipdexError):
            self._ask("SystemSharedMemoryUnregister", _unregister(name), _UNREGISTER_TIMEOUT_S)


def _is_there(error: BaseException | None) -> bool:
    """Return whether the server has the memory after being told to register it, by the error, if any.

    The refusal of a request, for want of the memory, may arrive when the memory has been registered again.
    """
    code = getattr(error, "code", None)
    return error is None or (callable(code) and code() is grpc.StatusCode.ALREADY_EXISTS)


def _without(memories: tuple[SharedMemory, ...], memory: SharedMemory) -> tuple[SharedMemory, ...]:
    return tuple(each for each in memories if each is not memory)


def _ignore(call: Any) -> None:
    pass


def _register(memory: SharedMemory) -> Any:
    return service_pb2.SystemSharedMemoryRegisterRequest(
        name=memory.name, key=f"/{memory.name}", offset=0, byte_size=memory.size
    )


def _unregister(name: str) -> Any:
    return service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
