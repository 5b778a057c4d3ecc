"""What one file may cost: bytes, pixels, seconds, memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from clipdex.base.errors import InvalidArgument

__all__ = ["MAX_PIXELS", "Limits"]

# 16,384 × 16,384: a telephone's 200 megapixels, and not much more. 1 GiB at Pillow's 4 bytes a pixel.
MAX_PIXELS = 1 << 28

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
    large_memory_bytes: what one worker at a time may have, for a picture that needs more; no less than the other
        workers have, and at most half of the machine's memory. 0: no picture gets more.
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
        """These limits on a machine with so much memory."""
        return replace(self, large_memory_bytes=min(self.large_memory_bytes, machine_bytes // 2))

    @property
    def allows_larger(self) -> bool:
        """Whether one worker at a time may have more memory than the others."""
        return self.large_memory_bytes > self.worker_memory_bytes

    def apply_to_this_process(self, *, large: bool = False) -> None:
        """Bound this process's memory: what would go beyond it gets a MemoryError.

        large: as a worker is that decodes a large picture. It can be bounded again as the others are.
        """
        try:
            import resource
        except ImportError:  # not a POSIX system
            return
        # RLIMIT_DATA counts private memory, written to or not; RLIMIT_AS would count mapped files whole.
        most = max(self.worker_memory_bytes, self.large_memory_bytes)
        data = (most if large else self.worker_memory_bytes) - _LIBRARIES
        with suppress(ValueError, OSError):  # a lower hard limit is in force already
            resource.setrlimit(resource.RLIMIT_DATA, (data, most - _LIBRARIES))
