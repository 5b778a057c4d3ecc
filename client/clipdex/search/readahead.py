"""Reading ahead of a scan, and releasing pages behind it: for files that are not in the page cache.

If a file is already in memory nothing is done, since the calls cost time too. If it is larger than half of
the memory this process may use, pages are released behind the scan, so that it takes a bounded part of it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

import numpy as np

from clipdex.base.arrays import Array

__all__ = ["Readahead", "in_memory", "memory_limit", "want_rows"]

_AHEAD = 128 << 20
_PIECE = 8 << 20
_BEHIND = 64 << 20  # other threads may still be there
_FEWEST_PROBES, _MOST_PROBES, _PROBED = 8, 32, 8 << 20  # one for so many bytes, within these bounds

_MADV_POPULATE_READ = 22  # Linux 5.14

# What was found in memory is taken to be there for so long: asking is a tenth of what a search of few rows costs.
_KNOWN_S, _MOST_KNOWN = 1.0, 1024
_known: dict[int, tuple[weakref.ref[mmap.mmap], int, float]] = {}  # a mapping's id -> bytes of it, until when


class Readahead:
    """Reads ahead in one array, if it is a memmap, for the duration of a `with` block.

    A separate thread reads pages before the scan comes to them.
    """

    def __init__(self, array: Array) -> None:
        self._thread: threading.Thread | None = None
        mapping = _mapping_of(array)
        if mapping is None or array.nbytes == 0 or in_memory(array) or _madvise() is None:
            return
        self._here = 0
        self._stopped = False
        self._moved = threading.Condition()
        self._base, self._length = array.ctypes.data, array.nbytes
        self._bytes = np.frombuffer(mapping, np.uint8)  # keeps it open
        self._bytes = self._bytes[self._base - self._bytes.ctypes.data :][: self._length]
        self._dropping = array.nbytes > memory_limit() // 2
        self._thread = threading.Thread(target=self._run, name="clipdex-readahead", daemon=True)

    def __enter__(self) -> Readahead:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            with self._moved:
                self._stopped = True
                self._moved.notify()
            self._thread.join()
            if self._dropping:
                self._advise(mmap.MADV_DONTNEED, 0, self._length)

    def reading(self, offset: int) -> None:
        """Report that the scan has come to this byte of the array."""
        if self._thread is not None:
            with self._moved:
                self._here = max(self._here, offset)
                self._moved.notify()

    def _run(self) -> None:
        asked = dropped = 0
        while True:
            with self._moved:
                while not self._stopped and asked >= min(self._length, self._here + _AHEAD):
                    self._moved.wait()
                if self._stopped:
                    return
                behind = self._here - _BEHIND
            stop = min(self._length, asked + _PIECE)
            if self._advise(_MADV_POPULATE_READ, asked, stop) != 0:
                # An older kernel. MADV_WILLNEED may read but the first few pages; a fault reads on as a scan does.
                self._bytes[asked : stop : mmap.PAGESIZE].max()
            asked = stop
            if self._dropping and behind >= dropped + _PIECE:
                self._advise(mmap.MADV_DONTNEED, dropped, behind)
                dropped = behind

    def _advise(self, advice: int, first: int, end: int) -> int:
        return _advise(advice, self._base + first, self._base + end)


def want_rows(array: Array, rows: Array) -> None:
    """Request these rows from the disk all at once, if the array is a file's, instead of waiting for each."""
    if _mapping_of(array) is None or _madvise() is None:
        return
    row_bytes, base = array.strides[0], array.ctypes.data
    for row in rows.tolist():
        _advise(mmap.MADV_WILLNEED, base + row * row_bytes, base + (row + 1) * row_bytes)


def _advise(advice: int, start: int, end: int) -> int:
    """Call madvise, but not mmap.madvise, which blocks all other threads -> 0 if the kernel knows the advice."""
    madvise = _madvise()
    assert madvise is not None
    start -= start % mmap.PAGESIZE
    return madvise(start, end - start, advice)


def _mapping_of(array: Array) -> mmap.mmap | None:
    """Find the file mapping that an array is a view of, if there is one."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def in_memory(array: Array) -> bool:
    """Return whether an array is not a file's, or sampled pages of it are in memory; False if unknown.

    That they are is known for a second.
    """
    mapping, size = _mapping_of(array), array.nbytes
    if mapping is None or size == 0:
        return True
    now, known = time.monotonic(), _known.get(id(mapping))
    if known is not None and known[0]() is mapping and known[1] == size and now < known[2]:
        return True
    found = _is_told(array) and _resident(array.ctypes.data, size)
    if found:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[id(mapping)] = weakref.ref(mapping), size, now + _KNOWN_S
    return found


def _resident(start: int, size: int) -> bool:
    """Return whether sampled pages of so many bytes of a file's mapping are in memory; False if unknown."""
    mincore = _mincore()
    if mincore is None:
        return False
    resident = (ctypes.c_ubyte * 1)()
    probes = min(_MOST_PROBES, max(_FEWEST_PROBES, size // _PROBED))
    for i in range(probes):
        address = start + (size - 1) * i // (probes - 1)
        if mincore(address - address % mmap.PAGESIZE, 1, resident) != 0 or not resident[0] & 1:
            return False
    return True


def _is_told(array: Array) -> bool:
    """Return whether mincore is reliable: all pages of a file that we neither own nor may write seem resident."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.filename is not None:
            with suppress(OSError):  # it may have been removed
                return os.stat(base.filename).st_uid == os.geteuid() or os.access(base.filename, os.W_OK)
        base = base.base
    return False


def _madvise() -> Callable[..., int] | None:
    if not hasattr(mmap, "MADV_WILLNEED"):
        return None
    return _function("madvise", (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int))


def _mincore() -> Callable[..., int] | None:
    # It never waits for a disk, and is done before another thread could have had its turn.
    return _function("mincore", (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p), brief=True)


@cache
def _function(name: str, arguments: tuple[type, ...], brief: bool = False) -> Callable[..., int] | None:
    """Look up a function of the C library with arguments of these types; None if it does not exist.

    brief: other threads wait while it runs.
    """
    try:
        function = getattr((ctypes.PyDLL if brief else ctypes.CDLL)(None), name)
    except (AttributeError, OSError):
        return None
    function.argtypes = arguments
    found: Callable[..., int] = function
    return found


def memory_limit() -> int:
    """Bytes of memory this process may use: the least of the machine's, its control group's and its own limits."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [limit for limit in map(_number, _group_limits()) if limit is not None]
    with suppress(ImportError):
        import resource

        for kind in ("RLIMIT_DATA", "RLIMIT_RSS", "RLIMIT_AS"):
            with suppress(AttributeError, OSError):
                soft, _ = resource.getrlimit(getattr(resource, kind))
                if soft != resource.RLIM_INFINITY:
                    limits.append(soft)
    return max(1, min(limits))


def _group_limits() -> list[Path]:
    """List the files with the memory limits of this process's control groups, version 1 and 2."""
    root = Path("/sys/fs/cgroup")
    places = [root / "memory.max", root / "memory/memory.limit_in_bytes"]
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                places.append(root / path.lstrip("/") / "memory.max")
            elif "memory" in controllers.split(","):
                places.append(root / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    return places


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
