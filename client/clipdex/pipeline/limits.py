"""What one file may cost: bytes, pixels, seconds, memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from clipdex.errors import InvalidArgument
from clipdex.images import MAX_PIXELS

__all__ = ["Limits"]

# What shared libraries take of a worker, which the kernel does not count as its data: numpy, Pillow and all
# its decoders. Measured: 31 MiB.
_LIBRARIES = 48 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on decoding, each enforced in or on the worker process.

    max_file_bytes: larger files are not read.
    max_pixels: larger pictures are not decoded.
    file_timeout_s: a worker that takes longer is ended, in seconds.
    worker_memory_bytes: memory of a worker's own, the interpreter's and libraries' included; the ring, which all
        share, is not. Decoded pixels take 4 bytes each, and 8 if they are turned upright or converted.
    """

    max_file_bytes: int = 256 << 20
    max_pixels: int = MAX_PIXELS
    file_timeout_s: float = 60.0
    worker_memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name, least in (("max_file_bytes", 1), ("max_pixels", 1), ("worker_memory_bytes", 128 << 20)):
            if getattr(self, name) < least:
                raise InvalidArgument(f"{name} is {getattr(self, name):,}; expected at least {least:,}")
        if not self.file_timeout_s > 0:
            raise InvalidArgument(
                f"file_timeout_s is {self.file_timeout_s}; expected a positive number of seconds"
            )

    def apply_to_this_process(self) -> None:
        """Bound this process's memory: what would go beyond it gets a MemoryError."""
        try:
            import resource
        except ImportError:  # not a POSIX system
            return
        # RLIMIT_DATA counts private memory, written to or not; RLIMIT_AS would count mapped files whole.
        data = self.worker_memory_bytes - _LIBRARIES
        with suppress(ValueError, OSError):  # a lower hard limit is in force already
            resource.setrlimit(resource.RLIMIT_DATA, (data, data))
