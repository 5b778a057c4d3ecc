"""Ring buffer of decoded pictures: trays of slots in memory that workers write and a local server reads.

    tray 0: | slot | slot | … |     one request is the first n slots of a tray
    tray 1: | slot | slot | … |     a tray is used again, in turn, when its rows are in the index

Pixels have no other room, so the ring bounds what is decoded ahead and what is in flight.
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

# Trays in addition to those in flight: one being filled, and the next ones being decoded.
_AHEAD = 4
_FEWEST = 2
_OUR_SHARE = 0.75  # of what is free in /dev/shm

# Transports with no server: arrays are never copied there.
_IN_PROCESS = ("inproc:", "fake:")


class PixelRing:
    """A ring with room for `trays` × `rows` pictures. Close it, or use it in a `with`.

    pixels: uint8 (trays, rows, S, S, 3).
    transfer: how they go to the server: "shared memory", "wire", or "in process" if there is no server.
    """

    transfer = "wire"

    def __init__(self, size: int, rows: int, trays: int, *, named: bool = False) -> None:
        """size: S. named: a server on this machine is to map it. Raises OSError if there is no room for it."""
        self.rows = rows
        self.memory = SharedMemory(trays * rows * size * size * 3, named=named)
        self.pixels: Pixels = self.memory.array.reshape(trays, rows, size, size, 3)
        self._one_by_one: Pixels = self.pixels.reshape(-1, size, size, 3)

    @property
    def trays(self) -> int:
        """The number of trays."""
        return len(self.pixels)

    @property
    def slots(self) -> int:
        """The number of slots in all trays."""
        return len(self._one_by_one)

    def slot_of(self, order: int) -> int:
        """Return the slot of the n-th file's picture, counted from the first tray's first slot."""
        return order % len(self._one_by_one)

    def tray_of(self, order: int) -> Pixels:
        """Return the n-th file's tray, uint8 (rows, S, S, 3)."""
        tray: Pixels = self.pixels[order // self.rows % self.trays]
        return tray

    def at(self, order: int) -> Pixels:
        """Return the n-th file's pixels, uint8 (S, S, 3)."""
        pixels: Pixels = self._one_by_one[order % len(self._one_by_one)]
        return pixels

    def open_for_workers(self) -> int:
        """Return another descriptor of the memory, for processes that map it. The caller closes it."""
        # Opened anew if possible: a worker that outlives this process must not hold its lock.
        return os.open(self.memory.path, os.O_RDWR) if self.memory.name else os.dup(self.memory.descriptor)

    def close(self) -> None:
        """Release the memory. Safe to call twice."""
        self.memory.close()

    def __enter__(self) -> PixelRing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _SharedRing(PixelRing):
    """A ring that a client's server reads in place while it is open."""

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
    """Create a ring for a client's batches, of at most `max_bytes` but at least two pictures.

    A tray holds a full batch, or less if two of those exceed `max_bytes`. The server reads the ring in place if
    the client may share memory and the server accepts it; else its pixels go over the wire.

    Raises:
        ServerError: the client must share memory, but cannot.
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
            f"there is not enough memory for {trays * tray_bytes >> 20} MiB of decoded pictures: {exc.strerror}"
        ) from exc
    if in_process:
        ring.transfer = "in process"
    return ring


def _shared_ring(client: Client, rows: int, trays: int) -> PixelRing | None:
    """Create a shared ring of as many trays as fit: a container's /dev/shm may have only 64 MB."""
    refusal: OSError | None = None
    with suppress(OSError):  # no /dev/shm: reported below
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
            "(in a container: --shm-size), make the ring smaller, or do not require shared memory"
        ) from refusal
    _LOG.info("pixels go over the wire: there is no room in %s: %s", DIRECTORY, refusal.strerror)
    return None
