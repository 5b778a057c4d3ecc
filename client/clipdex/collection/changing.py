"""Adding, removing and changing items, as steps that a thread or asyncio drives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import (
    AddFailed,
    ClipdexError,
    FingerprintMismatch,
    ImageError,
    InvalidArgument,
    RequestRefused,
)
from clipdex.base.item_paths import item_path
from clipdex.base.records import NO_METADATA, Picture
from clipdex.client.steps import Steps
from clipdex.collection.core import Core
from clipdex.collection.decoding import InWorkers, thumbnail_here
from clipdex.collection.describing import Described
from clipdex.collection.item import Item, content_hash, decoded, given_vector, item_picture, metadata_of, naming
from clipdex.index.writer import IndexWriter
from clipdex.model.images import file_bytes
from clipdex.pipeline.decode_service import DecodedPicture

__all__ = ["add_steps", "commit_steps", "is_held", "remove_steps", "update_metadata_steps"]

_COMMITTING = 4_096  # items of one call that wait for a commit

_OF_ONE_ITEM = (ImageError, InvalidArgument, RequestRefused)


def add_steps(core: Core, items: Item | Iterable[Item], *, flush: bool = True) -> Steps[int]:
    """Take the steps of `add`."""
    core.commits()
    if not isinstance(items, Item) and (isinstance(items, (str, bytes)) or not isinstance(items, Iterable)):
        raise InvalidArgument(f"items is {items!r:.60}; expected a clipdex.Item or several")
    failed: dict[str, ClipdexError] = {}
    decoding: deque[tuple[Item, InWorkers[DecodedPicture] | _Ready]] = deque()
    describing: deque[tuple[Item, _Ready]] = deque()
    embedding: deque[tuple[Item, _Ready, _Make]] = deque()
    committing: deque[tuple[str, Future[Any]]] = deque()
    most = 1 if core.client is None else core.client.max_batch_size * core.client.in_flight
    done = 0

    def settled(leave_decoding: int, leave_embedding: int, leave_committing: int) -> Steps[int]:
        count = 0
        while len(decoding) > leave_decoding:
            item, ready = decoding.popleft()
            try:
                if isinstance(ready, InWorkers):
                    ready = yield from _decoded(core, item, ready)
                describing.append((item, ready))
            except _OF_ONE_ITEM as exc:
                failed[item.id] = exc
        while len(describing) > leave_decoding:
            item, ready = describing.popleft()
            embedding.append((item, ready, (yield from _kept(ready.features, ready.picture))))
        while len(embedding) > leave_embedding:
            item, ready, keep = embedding.popleft()
            try:
                vector = (yield ready.vector) if isinstance(ready.vector, Future) else ready.vector
                change = _adding(core, ready, vector, keep)
                committing.append((item.id, core.put(ready.picture.path, change, flush)))
            except _OF_ONE_ITEM as exc:
                failed[item.id] = exc
        while len(committing) > leave_committing:
            item_id, future = committing.popleft()
            try:
                yield future
                count += 1
            except _OF_ONE_ITEM as exc:
                failed[item_id] = exc
        return count

    try:
        for item in [items] if isinstance(items, Item) else items:
            if not isinstance(item, Item):
                raise InvalidArgument(f"an item is {item!r:.60}; expected a clipdex.Item")
            try:
                decoding.append((item, _prepared(core, item)))
            except _OF_ONE_ITEM as exc:
                failed[item.id] = exc
            done += yield from settled(2 * core.decoding.workers, most, _COMMITTING)
        done += yield from settled(0, 0, 0)
    finally:
        for _, ready in decoding:
            if isinstance(ready, InWorkers):
                ready.cancel()
        for _, ready in describing:
            ready.cancel()
        for _, ready, _ in embedding:
            ready.cancel()
    if failed and isinstance(items, Item):
        raise failed[items.id]
    if failed:
        first, error = next(iter(failed.items()))
        others = f", and {len(failed) - 1:,} more" if len(failed) > 1 else ""
        why = str(error).removeprefix(f"the item {first!r}: ")
        raise AddFailed(f"the item {first!r}{others} could not be added ({done:,} were): {why}", failed, done)
    return done


_Make = Callable[[IndexWriter], None]


@dataclass(frozen=True)
class _Ready:
    """A picture's record, its vector or a future of it, its thumbnail, and its local features, if it gets any."""

    picture: Picture
    vector: Future[Any] | Array
    jpeg: bytes | None = None
    features: Described | None = None

    def cancel(self) -> None:
        """Withdraw what nobody waits for any more."""
        if isinstance(self.vector, Future):
            self.vector.cancel()
        if self.features is not None:
            self.features.cancel()


def _prepared(core: Core, item: Item) -> InWorkers[DecodedPicture] | _Ready:
    """Decode an item, or give it to a worker."""
    if item.vector is not None:
        made_by = getattr(item.vector, "fingerprint", None)
        if made_by is not None and made_by != core.fingerprint:
            raise FingerprintMismatch(
                f"the vector of the item {item.id!r} is from another model ({made_by[:12]}) than "
                f"{core.directory} ({core.fingerprint[:12]}): embed it with the index's model"
            )
        return _Ready(*given_vector(item, core.index.manifest.embedding_dim))
    batcher = core.model()
    assert core.client is not None and item.image is not None
    with naming(item):
        waiting = core.decoding.in_workers(item.image, thumbnail=True)
    if waiting is not None:
        return waiting
    found, source = decoded(item, core.client.card.image, core.rules, exif=core.decoding.exif)
    jpeg = thumbnail_here(source) if core.decoding.thumbnails else None
    features = core.describing.start(source, found, None)
    return _Ready(item_picture(item, found), batcher.pixels(found.pixels), jpeg, features)


def is_held(core: Core, item: Item) -> bool:
    """Return whether the collection has an item with the same id, file content and metadata."""
    if not isinstance(item, Item):
        raise InvalidArgument(f"an item is {item!r:.60}; expected a clipdex.Item")
    path = item_path(item.id)
    with core.reading() as index:
        known = index.known(path)
        if known is None or known.row is None or known.row >= len(index.vectors):
            return False
        stored = index.picture(known.row)
    if (stored.metadata or NO_METADATA) != metadata_of(item.metadata) or item.image is None:
        return False
    try:
        data = file_bytes(item.image)
    except ImageError:
        return False
    if data is None or content_hash(data) != stored.content_hash:
        return False
    return core.read_only or core.describing.recipe(stored.content_hash) is None


def _decoded(core: Core, item: Item, waiting: InWorkers[DecodedPicture]) -> Steps[_Ready]:
    """Wait for a worker to decode an item."""
    try:
        with naming(item):
            try:
                found = cast(DecodedPicture, (yield cast("Future[Array]", waiting.done)))
            except ImageError as exc:
                raise waiting.error(exc)[0] from exc
        jpeg = None
        if waiting.thumbnail is not None:
            with suppress(ImageError):
                jpeg = cast(bytes, (yield cast("Future[Array]", waiting.thumbnail)))
        assert item.image is not None
        features = core.describing.start(item.image, found, waiting)
    except BaseException:
        waiting.cancel()
        raise
    return _Ready(item_picture(item, found), core.model().pixels(found.pixels), jpeg, features)


def _kept(features: Described | None, picture: Picture) -> Steps[_Make]:
    """Wait for the features of a picture -> what keeps them."""
    found = None if features is None else (yield from features.steps())

    def keep(writer: IndexWriter) -> None:
        if features is not None and found is not None:
            writer.keep_features(picture.content_hash, features.recipe, found)

    return keep


def _adding(core: Core, ready: _Ready, vector: Array, keep: _Make) -> _Make:
    picture = ready.picture

    def make(writer: IndexWriter) -> None:
        if ready.jpeg is not None:
            writer.keep_thumbnail(picture.content_hash, ready.jpeg)
        keep(writer)
        if core.client is not None:
            writer.manifest = writer.manifest.noting(core.client.card, writer.directory)
        known = writer.known(picture.path)
        if known is not None and known.content_hash == picture.content_hash:
            writer.touch(picture)  # the same picture again: only its metadata, Exif and time may be new
        else:
            writer.append([picture], np.asarray(vector)[None])

    return make


def remove_steps(core: Core, ids: str | Iterable[str], *, flush: bool = True) -> Steps[int]:
    """Take the steps of `remove`."""
    core.commits()
    if not isinstance(ids, (str, Iterable)):
        raise InvalidArgument(f"ids is {ids!r:.60}; expected an id, or a list of them")
    paths = [item_path(each) for each in ([ids] if isinstance(ids, str) else ids)]
    count = 0
    waiting: deque[Future[Any]] = deque()
    for path in dict.fromkeys(paths):

        def make(writer: IndexWriter, path: bytes = path) -> bool:
            there = writer.has(path)
            if there:
                writer.remove(path)
            return there

        waiting.append(core.put(path, make, flush))
        if len(waiting) >= _COMMITTING:
            count += bool((yield waiting.popleft()))
    while waiting:
        count += bool((yield waiting.popleft()))
    return count


def update_metadata_steps(
    core: Core, item_id: str, metadata: Mapping[str, Any] | None, *, flush: bool = True
) -> Steps[None]:
    """Take the steps of `update_metadata`."""
    core.commits()
    path, text = item_path(item_id), metadata_of(metadata)

    def make(writer: IndexWriter) -> None:
        known = writer.known(path)
        if known is None or known.row is None:
            raise core.not_found(item_id)
        writer.annotate(path, text)

    yield core.put(path, make, flush)


def commit_steps(core: Core) -> Steps[None]:
    """Take the steps of `commit`."""
    yield core.put(None, lambda writer: None, True)
