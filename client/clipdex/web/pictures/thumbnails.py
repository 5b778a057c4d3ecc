"""Thumbnails of an index's pictures: from the cache, from the index, or drawn by worker processes."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import TYPE_CHECKING

from clipdex.base.errors import ClipdexError, ImageError, ItemNotFound
from clipdex.base.item_paths import id_of_text
from clipdex.base.limits import Limits
from clipdex.collection.item import StoredItem
from clipdex.model.assets import default_cache_dir
from clipdex.pipeline.thumbnail_service import CHANGED, ThumbnailService
from clipdex.pipeline.worker_service import Given
from clipdex.sources.opening import member_bytes
from clipdex.web.pictures.cache import ThumbnailCache
from clipdex.web.settings import WebSettings

if TYPE_CHECKING:  # it holds a Thumbnails
    from clipdex.web.served import HeldCollection

__all__ = ["Side", "Thumbnails"]


class Side(IntEnum):
    """The sides that thumbnails may have, so that few are cached of each picture."""

    SMALL = 160
    MEDIUM = 320
    LARGE = 640
    WHOLE = 1280


_MOST_BYTES = 2 << 20  # of a JPEG
_THREADS = 8
_IDLE_S = 300.0  # a worker takes half a second to start, which whoever looks at pictures should not wait for
_MEMBERS = 2  # pictures inside tars and tables that are in memory at once

# Reasons for which there is nothing to draw, and not a picture that cannot be drawn.
_GONE = ("vanished", "broken_link", "not_a_file", "unreadable", CHANGED)


class Thumbnails:
    """Draws thumbnails, and keeps them in a cache. One that several ask for at once is drawn once. Close it."""

    def __init__(self, settings: WebSettings, limits: Limits | None = None) -> None:
        directory = settings.thumbnail_cache or default_cache_dir() / "thumbnails"
        self._cache = ThumbnailCache(directory, settings.thumbnail_cache_bytes)
        workers = max(1, settings.decode_workers)
        self._drawing = ThumbnailService(workers=workers, limits=limits, waiting=1024, idle_s=_IDLE_S)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="clipdex-thumbnails")
        self._members = asyncio.Semaphore(_MEMBERS)
        self._under_way: dict[tuple[bytes, int], asyncio.Task[bytes]] = {}

    def warm(self) -> None:
        """Start the workers that do not run yet, and do not wait for them: thumbnails will be asked for soon."""
        self._drawing.warm()

    async def of(self, held: HeldCollection, item: StoredItem, side: int) -> bytes:
        """Return the thumbnail of a picture: a JPEG, upright, in sRGB, at most `side` pixels wide and high.

        Raises:
            ItemNotFound: its file is gone or has changed since it was indexed, or it has none.
            ImageError: it cannot be drawn.
            ServerBusy: too many pictures wait to be drawn.
        """
        key = (item.content_hash, side)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._made(held, item, side))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)  # others may wait for it, too

    def _ended(self, key: tuple[bytes, int], task: asyncio.Task[bytes]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # all who waited may be gone

    async def _made(self, held: HeldCollection, item: StoredItem, side: int) -> bytes:
        loop = asyncio.get_running_loop()
        if id_of_text(item.path) is not None and item.id is not None:
            return await self._kept(held, item)
        found = await loop.run_in_executor(self._threads, self._cache.get, item.content_hash, side)
        if found is not None:
            return found
        try:
            jpeg = await self._drawn(item, side)
        except ImageError as exc:
            raise _explained(held, item, exc) from exc
        await loop.run_in_executor(self._threads, self._cache.put, item.content_hash, side, jpeg)
        return jpeg

    async def _kept(self, held: HeldCollection, item: StoredItem) -> bytes:
        assert item.id is not None
        found = await held.collection.thumbnail(item.row)
        if found is None:
            raise ItemNotFound(
                f"{held.name} has no thumbnail of the item {item.id!r}: it was added as a vector, or before "
                "thumbnails were kept"
            )
        return found

    async def _drawn(self, item: StoredItem, side: int) -> bytes:
        raw = os.fsencode(item.path)
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(self._threads, os.path.lexists, raw):
            drawing = self._drawing.draw(Given(path=raw), side, _MOST_BYTES, item.content_hash)
            return await asyncio.wrap_future(drawing)
        async with self._members:
            data = await loop.run_in_executor(self._threads, member_bytes, item.path)
            if data is None:
                raise ImageError("there is no such file", reason="vanished")
            drawing = self._drawing.draw(Given(data), side, _MOST_BYTES, item.content_hash)
            return await asyncio.wrap_future(drawing)

    def close(self) -> None:
        """End the workers."""
        self._drawing.close()
        self._threads.shutdown()


def _explained(held: HeldCollection, item: StoredItem, exc: ImageError) -> ClipdexError:
    if exc.reason in _GONE:
        what = "has changed since it was indexed" if exc.reason == CHANGED else f"cannot be read ({exc.reason})"
        return ItemNotFound(f"the file of row {item.row} of {held.name} {what}: index its folder again")
    return ImageError(f"the picture of row {item.row} of {held.name} cannot be drawn: {exc}", reason=exc.reason)
