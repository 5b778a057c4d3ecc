"""The asyncio collection: the methods of the blocking one, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from clipdex.base.arguments import PathLike
from clipdex.base.arrays import Vectors
from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import Closed
from clipdex.base.records import Failure
from clipdex.client.async_twin import AsyncTwin
from clipdex.client.classification import DEFAULT_TEMPLATES
from clipdex.collection.changing import add_steps, commit_steps, remove_steps, update_metadata_steps
from clipdex.collection.collection import Collection as BlockingCollection
from clipdex.collection.core import Core, Key
from clipdex.collection.inference import (
    LabelScore,
    classify_steps,
    embed_image_steps,
    embed_texts_steps,
)
from clipdex.collection.item import Commit, Item, StoredItem
from clipdex.collection.matching import match_steps
from clipdex.collection.searching import started_steps
from clipdex.features.matching import DEFAULT_MIN_INLIERS, DEFAULT_TOP_K, Match
from clipdex.index.hits import Hits
from clipdex.index.info import IndexInfo
from clipdex.model.embeddings import Embeddings
from clipdex.model.images import ImageSource
from clipdex.search.mixture import Query

__all__ = ["Collection"]

_PAGE = 1_000


class Collection(AsyncTwin[BlockingCollection]):
    """A `clipdex.Collection` whose methods are awaited: `async with clipdex.aio.Collection.open(...) as pictures`.

    Any number of tasks may share it. A task cancelled while it waits for a commit may have added its items.
    """

    def __init__(self, opened: Callable[[], BlockingCollection]) -> None:
        """opened: opens the collection, in a thread, when the `async with` begins."""
        super().__init__(
            opened,
            ThreadPoolExecutor(max(4, 2 * usable_cpus()), thread_name_prefix="clipdex-collection"),
            closed="this collection is closed: make another with clipdex.aio.Collection.open",
            unopened="the collection is not open: use  async with clipdex.aio.Collection.open(...) as pictures",
        )

    @classmethod
    def open(cls, index: PathLike, **settings: Any) -> Collection:
        """Make a collection that opens when its `async with` begins; takes what `clipdex.Collection.open` does."""
        return cls(partial(BlockingCollection.open, index, **settings))

    async def close(self) -> None:
        """See `clipdex.Collection.close`."""
        if not self._closed:
            await self._end()

    @property
    def collection(self) -> BlockingCollection:
        """The underlying blocking collection."""
        return self._opened()

    @property
    def _core(self) -> Core:
        return self.collection._core

    def __repr__(self) -> str:
        if self._closed:
            return "<clipdex.aio.Collection, closed>"
        if self._blocking is None:
            return "<clipdex.aio.Collection not open>"
        return f"<clipdex.aio.Collection over {self._blocking!r}>"

    async def search(self, text: str | Query | None = None, **options: Any) -> Hits:
        """See `clipdex.Collection.search`."""
        withdrawn = threading.Event()
        try:
            # Whoever scans tells the event loop: resuming the steps would cost another change of threads.
            return await asyncio.wrap_future(
                await self._drive(started_steps(self._core, text, withdrawn=withdrawn, **options))
            )
        finally:
            withdrawn.set()

    async def similar(self, item: Key, top_k: int | None = None, **options: Any) -> Hits:
        """See `clipdex.Collection.similar`."""
        return await self.search(item=item, top_k=top_k, **options)

    async def match(
        self,
        image: ImageSource,
        top_k: int = DEFAULT_TOP_K,
        *,
        min_inliers: int = DEFAULT_MIN_INLIERS,
        **options: Any,
    ) -> list[Match]:
        """See `clipdex.Collection.match`."""
        return await self._drive(match_steps(self._core, image, top_k, min_inliers=min_inliers, **options))

    async def add(self, items: Item | Iterable[Item], *, flush: bool = True) -> int:
        """See `clipdex.Collection.add`."""
        return await self._drive(add_steps(self._core, items, flush=flush))

    async def remove(self, ids: str | Iterable[str], *, flush: bool = True) -> int:
        """See `clipdex.Collection.remove`."""
        return await self._drive(remove_steps(self._core, ids, flush=flush))

    async def update_metadata(
        self, item_id: str, metadata: Mapping[str, Any] | None, *, flush: bool = True
    ) -> None:
        """See `clipdex.Collection.update_metadata`."""
        await self._drive(update_metadata_steps(self._core, item_id, metadata, flush=flush))

    async def commit(self) -> None:
        """See `clipdex.Collection.commit`."""
        await self._drive(commit_steps(self._core))

    async def get(self, item: Key) -> StoredItem | None:
        """See `clipdex.Collection.get`."""
        return await self._in_thread(partial(self.collection.get, item))

    async def vector(self, item: Key) -> Vectors:
        """See `clipdex.Collection.vector`."""
        return await self._in_thread(partial(self.collection.vector, item))

    async def holds(self, item: Item) -> bool:
        """See `clipdex.Collection.holds`."""
        return await self._in_thread(partial(self.collection.holds, item))

    async def after(self, row: int, limit: int) -> list[StoredItem]:
        """See `clipdex.Collection.after`."""
        return await self._in_thread(partial(self.collection.after, row, limit))

    async def at(self, rows: Sequence[int]) -> dict[int, StoredItem]:
        """See `clipdex.Collection.at`."""
        return await self._in_thread(partial(self.collection.at, rows))

    async def failures(self, limit: int, offset: int = 0) -> list[Failure]:
        """See `clipdex.Collection.failures`."""
        return await self._in_thread(partial(self.collection.failures, limit, offset))

    async def moment(self) -> tuple[object, int]:
        """See `clipdex.Collection.moment`."""
        return await self._in_thread(self.collection.moment)

    async def embed_texts(self, texts: Iterable[str]) -> Embeddings:
        """See `clipdex.Collection.embed_texts`."""
        return await self._drive(embed_texts_steps(self._core, texts))

    async def embed_image(self, image: ImageSource) -> Embeddings:
        """See `clipdex.Collection.embed_image`."""
        return await self._drive(embed_image_steps(self._core, image))

    async def token_counts(self, texts: Sequence[str]) -> list[int]:
        """See `clipdex.Collection.token_counts`."""
        return await self._in_thread(partial(self.collection.token_counts, texts))

    async def require_server(self, timeout_s: float = 5.0) -> None:
        """See `clipdex.Collection.require_server`."""
        await self._in_thread(partial(self.collection.require_server, timeout_s))

    async def classify(
        self,
        labels: Iterable[str],
        *,
        image: ImageSource | None = None,
        item: Key | None = None,
        templates: Iterable[str] = DEFAULT_TEMPLATES,
    ) -> list[LabelScore]:
        """See `clipdex.Collection.classify`."""
        return await self._drive(classify_steps(self._core, labels, templates, image=image, item=item))

    async def lost(self, texts: Sequence[str]) -> list[str]:
        """See `clipdex.Collection.lost`."""
        return await self._in_thread(partial(self.collection.lost, texts))

    async def features_state(self) -> object:
        """See `clipdex.Collection.features_state`."""
        return await self._in_thread(self.collection.features_state)

    async def has_local_features(self) -> bool:
        """See `clipdex.Collection.has_local_features`."""
        return await self._in_thread(self.collection.has_local_features)

    async def info(self) -> IndexInfo:
        """See `clipdex.Collection.info`."""
        return await self._in_thread(self.collection.info)

    async def thumbnail(self, item: Key) -> bytes | None:
        """See `clipdex.Collection.thumbnail`."""
        return await self._in_thread(partial(self.collection.thumbnail, item))

    async def contains(self, item: Key) -> bool:
        """Return whether there is such a picture; `in` cannot be awaited."""
        return await self.get(item) is not None

    async def count(self) -> int:
        """Return the number of pictures; `len` cannot be awaited."""
        return await self._in_thread(partial(len, self.collection))

    async def ids(self) -> AsyncIterator[str]:
        """See `clipdex.Collection.ids`."""
        for each in await self._in_thread(self.collection.ids):
            yield each

    async def __aiter__(self) -> AsyncIterator[StoredItem]:
        """See `clipdex.Collection.__iter__`."""
        paths = await self._in_thread(self.collection.paths)
        for start in range(0, len(paths), _PAGE):
            for each in await self._in_thread(partial(self.collection.page, paths[start : start + _PAGE])):
                yield each

    async def watch(self, *, poll_s: float = 0.1, timeout_s: float | None = None) -> AsyncIterator[Commit]:
        """See `clipdex.Collection.watch`."""
        changed = await self._in_thread(partial(self.collection.watcher, poll_s))
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        while not self._closed:
            await asyncio.sleep(poll_s)
            try:
                commit = await self._in_thread(changed)
            except Closed:
                return
            if commit is not None:
                yield commit
                quiet_since = loop.time()
            elif timeout_s is not None and loop.time() - quiet_since >= timeout_s:
                return
