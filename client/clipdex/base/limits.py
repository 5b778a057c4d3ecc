"""Limits on what decoding one file may cost: bytes, pixels, seconds, memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from clipdex.base.errors import InvalidArgument

__all__ = ["MAX_PIXELS", "Limits"]

# 16,384 × 16,384: enough for a phone's 200 megapixels. 1 GiB at Pillow's 4 bytes a pixel.
MAX_PIXELS = 1 << 28

# Memory of a worker's shared libraries that the kernel does not count as its data: numpy, Pillow and its
# decoders. Measured: 31 MiB.
_LIBRARIES = 48 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on decoding one file, enforced in or on the worker process.

    max_file_bytes: larger files are not read.
    max_pixels: larger pictures are not decoded.
    file_timeout_s: seconds after which a worker that is still on one file is killed.
    worker_memory_bytes: a worker's own memory, including the interpreter and libraries, but not the shared ring.
        Decoded pixels take 4 bytes each, and 8 if they are rotated or converted.
    large_memory_bytes: memory that one worker at a time may use for a picture that needs more; at most half of
        the machine's. With 0 no picture gets more than worker_memory_bytes.
    """

    max_file_bytes: int = 256 << 20
    max_pixels: int = MAX_PIXELS
    file_timeout_s: float = 60.0
    worker_memory_bytes: int = 1 << 30
    large_memory_bytes: int = 2560 << 20

    def __post_init__(self) -> None:
        bounds = {"max_file_bytes": 1, "max_pixels": 1, "worker_memory_bytes": 128 << 20, "large_memory_bytes": 0}
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise InvalidArgument(f"{name} is {getattr(self, name):,}; expected at least {least:,}")
        if not self.file_timeout_s > 0:
            raise InvalidArgument(
                f"file_timeout_s is {self.file_timeout_s}; expected a positive number of seconds"
            )

    def within(self, machine_bytes: int) -> Limits:
        """Return these limits, adapted to a machine with this much memory."""
        return replace(self, large_memory_bytes=min(self.large_memory_bytes, machine_bytes // 2))

    @property
    def allows_larger(self) -> bool:
        """True if one worker at a time may use more memory than the others."""
        return self.large_memory_bytes > self.worker_memory_bytes

    def apply_to_this_process(self, *, large: bool = False) -> None:
        """Limit this process's memory: an allocation beyond it raises MemoryError.

        large: set the limit of the worker that decodes a large picture; a later call can lower it again.
        """
        try:
            import resource
        except ImportError:  # not a POSIX system
            return
        # RLIMIT_DATA counts private memory, touched or not; RLIMIT_AS would count whole mapped files too.
        most = max(self.worker_memory_bytes, self.large_memory_bytes)
        data = (most if large else self.worker_memory_bytes) - _LIBRARIES
        with suppress(ValueError, OSError):  # a lower hard limit is already in force
            resource.setrlimit(resource.RLIMIT_DATA, (data, most - _LIBRARIES))
