"""Where decoded pictures wait: trays of slots in memory that workers write and a local server reads.

    tray 0: | slot | slot | … |     one request is the first n slots of a tray
    tray 1: | slot | slot | … |     used again, in turn, when the rows of a tray are in the index

It is all the room there is for pixels, so it bounds what is decoded ahead and what is in flight.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from types import TracebackType

from clipdex.base.arrays import Pixels
from clipdex.base.errors import ClipdexError, ServerError
from clipdex.client.client import Client
from clipdex.client.request_size import pixel_bytes
from clipdex.wire.shared_memory import DIRECTORY, SharedMemory, free_bytes

__all__ = ["PixelRing", "open_ring"]

_LOG = logging.getLogger("clipdex.pipeline")

# Trays beside those in flight: one that is filled, and the next ones being decoded.
_AHEAD = 4
_FEWEST = 2
_OUR_SHARE = 0.75  # of what is free in /dev/shm

# Transports with no server: arrays are never copied there.
_IN_PROCESS = ("inproc:", "fake:")


class PixelRing:
    """Room for `trays` × `rows` pictures. Close it, or use it in a `with`.

    pixels: uint8 (trays, rows, S, S, 3).
    transfer: how they go to the server: "shared memory", "wire", or "in process" where there is none.
    """

    transfer = "wire"

    def __init__(self, size: int, rows: int, trays: int, *, named: bool = False) -> None:
        """size: S. named: a server on this machine is to map it. Raises OSError if there is no room for it."""
        self.rows = rows
        self.memory = SharedMemory(trays * rows * size * size * 3, named=named)
        self.pixels: Pixels = self.memory.array.reshape(trays, rows, size, size, 3)

    @property
    def trays(self) -> int:
        """How many trays there are."""
        return len(self.pixels)

    @property
    def slots(self) -> int:
        """How many pictures there is room for."""
        return self.trays * self.rows

    def slot_of(self, order: int) -> int:
        """Where the picture of the n-th file goes, counted from the first tray's first slot."""
        return order % self.slots

    def tray_of(self, order: int) -> Pixels:
        """The tray that it goes to, uint8 (rows, S, S, 3)."""
        tray: Pixels = self.pixels[order // self.rows % self.trays]
        return tray

    def at(self, order: int) -> Pixels:
        """Its pixels, uint8 (S, S, 3)."""
        pixels: Pixels = self.tray_of(order)[order % self.rows]
        return pixels

    def open_for_workers(self) -> int:
        """Another descriptor of the memory, for processes that are to map it. The caller closes it."""
        # Of its own, where that can be had: a worker that outlives this process must not hold its lock.
        return os.open(self.memory.path, os.O_RDWR) if self.memory.name else os.dup(self.memory.descriptor)

    def close(self) -> None:
        """Let go of the memory. Safe to call twice."""
        self.memory.close()

    def __enter__(self) -> PixelRing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _SharedRing(PixelRing):
    """A ring that a client's server reads in place, as long as it is open."""

    transfer = "shared memory"

    def __init__(self, client: Client, rows: int, trays: int) -> None:
        super().__init__(client.card.image.size, rows, trays, named=True)
        self._client = client
        try:
            self.taken = client.share(self.memory)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        if self.memory.descriptor >= 0 and self.taken:
            self._client.unshare(self.memory)
        super().close()


def open_ring(client: Client, max_bytes: int) -> PixelRing:
    """A ring for a client's batches, of at most `max_bytes`; of two pictures if that is less.

    A tray holds a full batch, or less where two of those are more than `max_bytes`. It lies where the server can
    read it if the client may share memory and the server takes it; else its pixels go over the wire.

    Raises:
        ServerError: the client must share memory, and that cannot be.
    """
    size, picture_bytes = client.card.image.size, pixel_bytes(client.card)
    rows = max(1, min(client.max_batch_size, max_bytes // (_FEWEST * picture_bytes)))
    if rows < client.max_batch_size:
        _LOG.warning(
            "the ring has room for batches of %d pictures instead of %d; make it larger to keep the server busy",
            rows,
            client.max_batch_size,
        )
    tray_bytes = rows * picture_bytes
    trays = max(_FEWEST, min(client.in_flight + _AHEAD, max_bytes // tray_bytes))
    in_process = client.address.startswith(_IN_PROCESS)
    if not in_process and client.shared_memory != "never":
        shared = _shared_ring(client, rows, trays)
        if shared is not None:
            return shared
    try:
        ring = PixelRing(size, rows, trays)
    except OSError as exc:
        raise ClipdexError(
            f"there is no memory for {trays * tray_bytes >> 20} MiB of decoded pictures: {exc.strerror}"
        ) from exc
    if in_process:
        ring.transfer = "in process"
    return ring


def _shared_ring(client: Client, rows: int, trays: int) -> PixelRing | None:
    """With as many trays as there is room for: a container's /dev/shm may have 64 MB, the server's included."""
    refusal: OSError | None = None
    with suppress(OSError):  # there is none: told below
        room = int(free_bytes() * _OUR_SHARE) // (rows * pixel_bytes(client.card))
        trays = max(_FEWEST, min(trays, room))
    for fewer in range(trays, _FEWEST - 1, -1):
        try:
            ring = _SharedRing(client, rows, fewer)
        except OSError as exc:
            refusal = exc
            continue
        if ring.taken:
            return ring
        ring.close()
        return None
    assert refusal is not None
    if client.shared_memory == "always":
        raise ServerError(
            f"there is no room for shared memory in {DIRECTORY}: {refusal.strerror}; make it larger "
            "(a container's: --shm-size), lower the ring's size, or do without"
        ) from refusal
    _LOG.info("pixels go over the wire: there is no room in %s: %s", DIRECTORY, refusal.strerror)
    return None
