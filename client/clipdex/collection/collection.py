"""A client and an index joined: the object that a service holds."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from clipdex.base.arguments import PathLike, is_number
from clipdex.base.arrays import Array, Vectors
from clipdex.base.errors import (
    AddFailed,
    ClipdexError,
    Closed,
    FingerprintMismatch,
    ImageError,
    InvalidArgument,
    ItemNotFound,
    RequestRefused,
)
from clipdex.base.items import id_of_path, item_path
from clipdex.base.records import Picture
from clipdex.client.batching import Batcher
from clipdex.client.client import Client
from clipdex.client.steps import Steps, run
from clipdex.collection.commits import Change, Commits
from clipdex.collection.gate import Gate
from clipdex.collection.item import (
    Commit,
    Item,
    StoredItem,
    decoded,
    given_vector,
    metadata_of,
    stored_item,
)
from clipdex.collection.opening import Lock, Opened, open_parts
from clipdex.index.hits import Hit
from clipdex.index.reader import Index
from clipdex.index.writer import IndexWriter
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource
from clipdex.search.grouping import Grouping
from clipdex.search.mixture import Query

__all__ = ["Collection", "Key"]

# An item's id; a path or a row of a picture of a folder.
Key: TypeAlias = "str | int | os.PathLike[str]"

_PAGE = 1_000  # pictures read at once
_COMMITTING = 4_096  # items of one call that wait for a commit

_OF_ONE_ITEM = (ImageError, InvalidArgument, RequestRefused)


class Collection:
    """Pictures found by text and picture, added and removed by ids of the caller's. Open it with `open`.

    Safe to share between threads; a context manager. Several processes may read one collection; one writes to it.
    A search, or any other reading, sees all that was committed when it began, by whatever process.

    directory: of the index, which may hold the pictures of folders as well: `clipdex index` leaves items alone.
    """

    def __init__(self, parts: Opened) -> None:
        self._index: Index = parts.index
        self._client: Client | None = parts.client
        self._own_client = parts.own_client
        self.directory = parts.index.directory
        self._fingerprint = parts.index.manifest.fingerprint
        self._icc: IccUse = parts.index.manifest.icc
        self._gate = Gate()
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self._batcher = None if parts.client is None else Batcher(parts.client)
        self._commits: Commits | None = None

    @classmethod
    def open(
        cls,
        index: PathLike,
        *,
        server: str | Sequence[str] | None = None,
        model: str | None = None,
        client: Client | None = None,
        read_only: bool = False,
        dtype: str = "float16",
        icc: IccUse | None = None,
        lock: Lock = "held",
        **settings: Any,
    ) -> Collection:
        """Open a collection; create its index if it does not exist.

        Args:
            index: the path of an index, `X.clipdex`.
            server: the address of a server, as for `clipdex.connect`. Without a server or a client, vectors can be
                added and searched for, texts and pictures cannot.
            model: the model's name; that of the index if not given.
            client: instead of a server, a client, which stays open when the collection is closed.
            read_only: to search while another process writes.
            dtype, icc: for a new index, as for `clipdex.index_pictures`.
            lock: "held": no other process can write while the collection is open. "per_commit": the index is
                locked while there is something to write; while another process writes, adding raises IndexLocked.
            settings: the other arguments of `clipdex.connect`.

        Raises:
            IndexNotFound: there is no index, and `read_only`, or no model that a new one could be of.
            IndexLocked: another process is writing.
            FingerprintMismatch: the index holds another model's vectors.
            InvalidArgument: arguments contradict each other, or the index was created with another `icc`.
            ServerError, IndexFault: as the client and the index raise them.
        """
        parts = open_parts(index, server, model, client, read_only, dtype, icc, lock, settings)
        made = cls(parts)
        if not read_only:
            made._commits = Commits(str(made.directory), parts.write, parts.writer)
        return made

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else "read-only" if self._commits is None else "open"
        return f"<clipdex.Collection {os.fspath(self.directory)!r}: {state}>"

    # Searching

    def search(
        self,
        text: str | Query | None = None,
        *,
        image: ImageSource | None = None,
        item: Key | None = None,
        vector: Array | None = None,
        top_k: int | None = None,
        offset: int = 0,
        min_score: float | None = None,
        where: str | Sequence[int] | Array | None = None,
        params: Mapping[str, Any] | None = None,
        group: bool | Grouping = False,
    ) -> list[Hit]:
        """Find the pictures nearest to a text, a picture, a picture of the collection, a mixture or a vector.

        Args:
            text: what the pictures should show, or a `Query`, whose `like` parts may be `id:ID`.
            image: a picture, as `embed_images` takes it.
            item: the id of an item, or the path or row of another picture of the index; it is left out.
            vector: float32 (D,) of norm 1.
            top_k, offset, min_score, where, params: as for `Index.search`.
            group: whether near-duplicates are one hit, or how they are recognised.

        Raises:
            ItemNotFound: there is no such item.
            InvalidArgument: there is not exactly one of text, image, item and vector; or as `Index.search`.
            ImageError: the picture cannot be decoded.
            ServerError: the server did not answer.
        """
        return run(
            self.search_steps(
                text,
                image=image,
                item=item,
                vector=vector,
                top_k=top_k,
                offset=offset,
                min_score=min_score,
                where=where,
                params=params,
                group=group,
            )
        )

    def search_steps(
        self,
        text: str | Query | None = None,
        *,
        image: ImageSource | None = None,
        item: Key | None = None,
        vector: Array | None = None,
        group: bool | Grouping = False,
        **options: Any,
    ) -> Steps[list[Hit]]:
        """The steps of `search`."""
        self._require_open()
        given = [value for value in (text, image, item, vector) if value is not None]
        if len(given) != 1:
            raise InvalidArgument(
                f"a search is for one of text, image, item and vector; {len(given) or 'none'} of them "
                f"{'were' if given else 'was'} given"
            )
        if not isinstance(group, (bool, Grouping)):
            raise InvalidArgument(f"group is {group!r:.60}; expected True, False or clipdex.Grouping(...)")
        options["grouping"] = Grouping() if group is True else group or None
        if vector is not None:
            with self._reading() as index:
                return index.search(_one(vector), **options)[0]
        if item is not None:
            with self._reading() as index:
                row = self._row(index, item)
                return index.search(index.vector(row), exclude=[row], **options)[0]
        if image is not None:
            query = Query().plus(image=image)
        elif isinstance(text, Query):
            query = text
        elif isinstance(text, str):
            query = Query().plus(text=text)
        else:
            raise InvalidArgument(f"the query is {text!r:.60}; expected a text or a clipdex.Query")
        texts, images = yield from self._embedded(query)
        with self._reading() as index:
            liked = query.liked_rows(index)
            return index.search(query.mixed(texts, images, index), exclude=liked, **options)[0]

    def _embedded(self, query: Query) -> Steps[tuple[Array | None, Array | None]]:
        """Embed the texts and pictures of a query -> float32 (n, D) each, or None."""
        waiting: list[Future[Any]] = []
        try:
            if query.texts or query.images:
                waiting += map(self._model().text, query.texts)
                waiting += [self._model().image(image, icc=self._icc) for image in query.images]
            found = []
            for future in waiting:
                found.append((yield future))
        finally:
            for future in waiting:
                future.cancel()
        texts, images = found[: len(query.texts)], found[len(query.texts) :]
        return (np.stack(texts) if texts else None), (np.stack(images) if images else None)

    def similar(self, item: Key, top_k: int | None = None, **options: Any) -> list[Hit]:
        """Find the pictures nearest to one of the collection, without itself; options as for `search`.

        Raises:
            ItemNotFound: there is no such item.
        """
        return self.search(item=item, top_k=top_k, **options)

    # Adding and removing

    def add(self, items: Item | Iterable[Item], *, flush: bool = True) -> int:
        """Add items, or replace those of the same id -> their number.

        They are durable, and found by searches, when this returns. Adds at the same time, of any threads, share
        requests and commits.

        Args:
            items: one, or a list or generator of them. Of two with the same id in it, the later stays.
            flush: False returns once they are embedded; `commit`, or five seconds, makes them durable.

        Raises:
            ImageError, RequestRefused, InvalidArgument: the one item given cannot be added.
            AddFailed: of a list, these items cannot be added, each for a reason of its own; the others were.
            ServerError, IndexFault: the server or the disk failed. Items before that may have been added; adding
                them again replaces them.
        """
        return run(self.add_steps(items, flush=flush))

    def add_steps(self, items: Item | Iterable[Item], *, flush: bool = True) -> Steps[int]:
        """The steps of `add`."""
        self._writes()
        if not isinstance(items, Item) and (isinstance(items, (str, bytes)) or not isinstance(items, Iterable)):
            raise InvalidArgument(f"items is {items!r:.60}; expected a clipdex.Item or several")
        failed: dict[str, ClipdexError] = {}
        embedding: deque[tuple[Item, Picture, Future[Any] | Array]] = deque()
        committing: deque[tuple[str, Future[Any]]] = deque()
        most = 1 if self._client is None else self._client.max_batch_size * self._client.in_flight
        done = 0

        def settled(leave_embedding: int, leave_committing: int) -> Steps[int]:
            count = 0
            while len(embedding) > leave_embedding:
                item, picture, vector = embedding.popleft()
                try:
                    if isinstance(vector, Future):
                        vector = yield vector
                    committing.append((item.id, self._put(picture.path, self._adding(picture, vector), flush)))
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
                    embedding.append((item, *self._prepared(item)))
                except _OF_ONE_ITEM as exc:
                    failed[item.id] = exc
                done += yield from settled(most, _COMMITTING)
            done += yield from settled(0, 0)
        finally:
            for _, _, future in embedding:
                if isinstance(future, Future):
                    future.cancel()
        if failed and isinstance(items, Item):
            raise failed[items.id]
        if failed:
            first, error = next(iter(failed.items()))
            others = f", and {len(failed) - 1:,} more" if len(failed) > 1 else ""
            why = str(error).removeprefix(f"the item {first!r}: ")
            raise AddFailed(f"the item {first!r}{others} could not be added ({done:,} were): {why}", failed, done)
        return done

    def _prepared(self, item: Item) -> tuple[Picture, Future[Any] | Array]:
        """Decode an item -> (its record, its vector or a future of it)."""
        if item.vector is not None:
            made_by = getattr(item.vector, "fingerprint", None)
            if made_by is not None and made_by != self._fingerprint:
                raise FingerprintMismatch(
                    f"the vector of the item {item.id!r} is from another model ({made_by[:12]}) than "
                    f"{self.directory} ({self._fingerprint[:12]}): embed it with that of the index"
                )
            return given_vector(item, self._index.manifest.embedding_dim)
        batcher = self._model()
        assert self._client is not None
        picture, pixels = decoded(item, self._client.card.image, self._icc)
        return picture, batcher.pixels(pixels)

    def _adding(self, picture: Picture, vector: Array) -> Callable[[IndexWriter], None]:
        def make(writer: IndexWriter) -> None:
            if self._client is not None:
                writer.manifest = writer.manifest.noting(self._client.card, writer.directory)
            known = writer.known(picture.path)
            if known is not None and known.content_hash == picture.content_hash:
                writer.touch(picture)  # the same picture again: only its metadata and time may be new
            else:
                writer.append([picture], np.asarray(vector)[None])

        return make

    def remove(self, ids: str | Iterable[str], *, flush: bool = True) -> int:
        """Remove items -> how many there were. Ids of none are no error. Durable when this returns, if `flush`."""
        return run(self.remove_steps(ids, flush=flush))

    def remove_steps(self, ids: str | Iterable[str], *, flush: bool = True) -> Steps[int]:
        """The steps of `remove`."""
        self._writes()
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

            waiting.append(self._put(path, make, flush))
            if len(waiting) >= _COMMITTING:
                count += bool((yield waiting.popleft()))
        while waiting:
            count += bool((yield waiting.popleft()))
        return count

    def update_metadata(self, item_id: str, metadata: Mapping[str, Any] | None, *, flush: bool = True) -> None:
        """Replace the metadata of an item. Durable when this returns, if `flush`.

        Raises:
            ItemNotFound: there is no such item.
            InvalidArgument: it is not a dict of what JSON can say.
        """
        run(self.update_metadata_steps(item_id, metadata, flush=flush))

    def update_metadata_steps(
        self, item_id: str, metadata: Mapping[str, Any] | None, *, flush: bool = True
    ) -> Steps[None]:
        """The steps of `update_metadata`."""
        self._writes()
        path, text = item_path(item_id), metadata_of(metadata)

        def make(writer: IndexWriter) -> None:
            known = writer.known(path)
            if known is None or known.row is None:
                raise self._not_found(item_id)
            writer.annotate(path, text)

        yield self._put(path, make, flush)

    def commit(self) -> None:
        """Make all that was done with flush=False durable.

        Raises:
            IndexWriteError: some of it was lost, as the disk failed.
        """
        run(self.commit_steps())

    def commit_steps(self) -> Steps[None]:
        """The steps of `commit`."""
        yield self._put(None, lambda writer: None, True)

    # Looking

    def get(self, item: Key) -> StoredItem | None:
        """Read an item by its id, or another picture by its path or row; None if there is none."""
        with self._reading() as index:
            try:
                row = self._row(index, item)
            except ItemNotFound:
                return None
            return stored_item(row, index.picture(row), self.directory)

    def vector(self, item: Key) -> Vectors:
        """Read the vector of a picture: float32 (D,). Raises ItemNotFound if there is no such picture."""
        with self._reading() as index:
            return index.vector(self._row(index, item))

    def __contains__(self, item: object) -> bool:
        return isinstance(item, (str, int, os.PathLike)) and self.get(item) is not None

    def __len__(self) -> int:
        """The number of pictures: items, and those of folders."""
        with self._reading() as index:
            return len(index)

    def ids(self) -> Iterator[str]:
        """Iterate over the ids of all items, in the order of their rows."""
        return (found for path in self.paths() if (found := id_of_path(path)) is not None)

    def __iter__(self) -> Iterator[StoredItem]:
        """Iterate over all pictures as of now, in the order of their rows, without those removed meanwhile."""
        paths = self.paths()
        for start in range(0, len(paths), _PAGE):
            yield from self.page(paths[start : start + _PAGE])

    def paths(self) -> list[bytes]:
        """List the paths of all pictures in the index, by row."""
        with self._reading() as index:
            return [path for _, path in index.live_paths()]

    def page(self, paths: Sequence[bytes]) -> list[StoredItem]:
        """Read the pictures of these paths of the index that are still there."""
        with self._reading() as index:
            known = [found for path in paths if (found := index.known(path)) is not None]
            rows = [found.row for found in known if found.row is not None and found.row < len(index.vectors)]
            pictures = index.pictures(rows)
            return [stored_item(row, pictures[row], self.directory) for row in rows]

    def state(self) -> Commit:
        """Count what the collection holds now."""
        with self._reading() as index:
            return Commit(len(index), len(index.vectors))

    def watch(self, *, poll_s: float = 0.1, timeout_s: float | None = None) -> Generator[Commit, None, None]:
        """Iterate over commits from now on, of this and other processes; several in quick succession are one.

        It ends when the collection is closed, or after `timeout_s` without a commit.

        Args:
            poll_s: seconds between two looks, each of which takes microseconds.
        """
        return self._watching(self.watcher(poll_s), poll_s, timeout_s)

    def _watching(
        self, changed: Callable[[], Commit | None], poll_s: float, timeout_s: float | None
    ) -> Generator[Commit, None, None]:
        quiet_since = time.monotonic()
        while not self._closed.wait(poll_s):
            try:
                commit = changed()
            except Closed:
                return
            if commit is not None:
                yield commit
                quiet_since = time.monotonic()
            elif timeout_s is not None and time.monotonic() - quiet_since >= timeout_s:
                return

    def watcher(self, poll_s: float) -> Callable[[], Commit | None]:
        """Make a function that returns what the collection holds if there was a commit since its last call.

        poll_s: how often it will be called.
        """
        if not is_number(poll_s) or not poll_s > 0:
            raise InvalidArgument(f"poll_s is {poll_s!r}; expected a positive number of seconds")
        with self._reading() as index:
            seen = [(index.generation, index.version)]

        def changed() -> Commit | None:
            with self._reading() as index:
                now = (index.generation, index.version)
                if now == seen[0]:
                    return None
                renumbered = now[0] is not seen[0][0]
                seen[0] = now
                return Commit(len(index), len(index.vectors), renumbered)

        return changed

    # Closing

    def close(self) -> None:
        """Commit what waits, close all files, and the client if it is the collection's own. Safe to call twice.

        Raises:
            IndexWriteError: items that were added with flush=False are lost.
        """
        with self._closing:
            if self._closed.is_set():
                return
            self._closed.set()
            lost = None if self._commits is None else self._commits.close()
            if self._batcher is not None:
                self._batcher.close()
            with self._gate.alone():
                self._index.close()
            if self._own_client and self._client is not None:
                self._client.close()
        if lost is not None:
            raise lost

    def __enter__(self) -> Collection:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise Closed(f"this Collection of {self.directory} is closed: open it again with Collection.open")

    def _writes(self) -> Commits:
        self._require_open()
        if self._commits is None:
            raise InvalidArgument(f"this Collection of {self.directory} was opened with read_only=True")
        return self._commits

    def _put(self, path: bytes | None, make: Callable[[IndexWriter], Any], flush: bool) -> Future[Any]:
        return self._writes().put(Change(path, make, flush))

    def _model(self) -> Batcher:
        if self._batcher is None:
            raise InvalidArgument(
                f"this Collection of {self.directory} has no model, so that it takes vectors only: give server= "
                "or client= to Collection.open"
            )
        return self._batcher

    @contextmanager
    def _reading(self) -> Iterator[Index]:
        """Have the index as of now; it does not change within the block."""
        with self._gate.shared():
            self._require_open()
            if self._index.is_current():
                yield self._same_model()
                return
        with self._gate.alone():
            self._require_open()
            self._index.refresh()
        with self._gate.shared():
            self._require_open()
            yield self._same_model()

    def _same_model(self) -> Index:
        found = self._index.manifest
        if (found.fingerprint, found.icc) != (self._fingerprint, self._icc):
            raise FingerprintMismatch(
                f"{self.directory} was replaced by an index of {found.model} ({found.fingerprint[:12]}), but this "
                f"Collection was opened for the model {self._fingerprint[:12]}: open it again"
            )
        return self._index

    def _row(self, index: Index, item: Key) -> int:
        """Find the row of an item, or of another picture. Raises ItemNotFound."""
        if isinstance(item, str):
            known = index.known(item_path(item))
            if known is None or known.row is None or known.row >= len(index.vectors):
                raise self._not_found(item)
            return known.row
        if isinstance(item, bool) or not isinstance(item, (int, np.integer, os.PathLike)):
            raise InvalidArgument(f"the item is {item!r:.60}; expected an id, or the path or row of a picture")
        try:
            return index.row(item)
        except InvalidArgument as exc:
            raise ItemNotFound(str(exc)) from exc

    def _not_found(self, item_id: str) -> ItemNotFound:
        return ItemNotFound(f"{self.directory} has no item {item_id!r}")


def _one(vector: Array) -> Array:
    if np.ndim(vector) != 1 and np.shape(vector)[:1] != (1,):
        raise InvalidArgument(f"the vector has shape {np.shape(vector)}; expected (D,): a search is for one")
    return vector
