"""The collection: a client and an index in one object, for a service to hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from clipdex.base.arguments import PathLike, is_number
from clipdex.base.arrays import Array
from clipdex.base.errors import Closed, InvalidArgument
from clipdex.base.one_process import OfOneProcess
from clipdex.client.classification import DEFAULT_TEMPLATES
from clipdex.client.client import Client
from clipdex.client.steps import run
from clipdex.collection.changing import add_steps, commit_steps, is_held, remove_steps, update_metadata_steps
from clipdex.collection.core import Core, Key
from clipdex.collection.database_core import DatabaseCore, open_on_database
from clipdex.collection.database_pictures import DatabasePictures
from clipdex.collection.inference import (
    LabelScore,
    classify_steps,
    embed_image_steps,
    embed_texts_steps,
)
from clipdex.collection.item import Commit, Item
from clipdex.collection.matching import match_steps
from clipdex.collection.open_collection import Lock, open_parts
from clipdex.collection.searching import search_steps
from clipdex.collection.stored_pictures import StoredPictures
from clipdex.features.matching import DEFAULT_MIN_INLIERS, DEFAULT_TOP_K, Match
from clipdex.index.hits import Hits
from clipdex.index.where import FILTER_TIMEOUT_S
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource
from clipdex.model.picture_rules import DecodeUse
from clipdex.search.grouping import Grouping
from clipdex.search.mixture import Query
from clipdex.sinks.urls import names_collection, open_sink

__all__ = ["Collection"]


class Collection(StoredPictures, OfOneProcess):
    """Pictures that are added and removed by the caller's own ids, and searched. Open one with `open`.

    Safe to share between threads; a context manager. Several processes may read one collection; one writes to it.
    Every search or other read sees all that was committed, by any process, when it began.

    directory: the index's, which one on a vector database has not; it may hold the pictures of folders as well:
        `clipdex index` leaves items alone.
    """

    def __init__(self, core: Core) -> None:
        """core: the open parts, as `open` makes them."""
        self._core = core
        if not isinstance(core, DatabaseCore):
            self.directory = core.directory

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
        decode: DecodeUse | None = None,
        lock: Lock = "held",
        decode_workers: int = 0,
        thumbnails: bool = False,
        local_features: bool | None = None,
        exif: bool = True,
        filter_timeout_s: float = FILTER_TIMEOUT_S,
        **settings: Any,
    ) -> Collection:
        """Open a collection; create its index if it does not exist.

        Args:
            index: the path of an index, `X.clipdex`; or the URL of a vector database's collection that `clipdex
                push` filled, `qdrant://HOST/COLLECTION` and so on, which can be read only (docs/collection.md).
            server: the address of a server, as for `clipdex.connect`. Without a server or client, only vectors can
                be added and searched for.
            model: the model's name (default the index's).
            client: a client to use instead of a server; it stays open when the collection is closed.
            read_only: only search, while another process may write.
            dtype, icc, decode: for a new index, as for `clipdex.index_pictures`.
            lock: "held": no other process can write while the collection is open. "per_commit": the index is
                locked while there is something to write; while another process writes, adding raises IndexLocked.
            decode_workers: processes that decode pictures given as paths, bytes and open files, with the limits of
                a run: one that crashes its decoder, or takes too long, fails alone. They start when needed. 0
                decodes in this process.
            thumbnails: keep a small JPEG of each item that is added, for `thumbnail`.
            local_features: make local features of each picture that is added, by which `match` finds it: True also
                where the index has none yet, of the default kind; None where it has features and OpenCV is
                installed; False never.
            exif: keep what the files of added pictures say of them: date, camera, place and so on (`Exif`).
            filter_timeout_s: seconds that SQLite may take to evaluate one `where`.
            settings: the other arguments of `clipdex.connect`.

        Raises:
            IndexNotFound: there is no index, and none can be created: `read_only`, or no model is given.
            IndexLocked: another process is writing.
            FingerprintMismatch: the index holds another model's vectors.
            MissingExtra: `local_features` is True, and OpenCV is not installed.
            InvalidArgument: arguments contradict each other, or the index was created with another `icc` or
                `decode`.
            ServerError, IndexFault: as the client and the index raise them.
            SinkError: the vector database cannot be reached, or has no such collection.
        """
        if isinstance(index, str) and names_collection(index):
            core = open_on_database(lambda: open_sink(index), server, model, client, decode_workers, settings)
            return _OnDatabase(core)
        parts = open_parts(
            index=index,
            server=server,
            model=model,
            client=client,
            read_only=read_only,
            dtype=dtype,
            icc=icc,
            decode=decode,
            lock=lock,
            decode_workers=decode_workers,
            thumbnails=thumbnails,
            local_features=local_features,
            exif=exif,
            filter_timeout_s=filter_timeout_s,
            settings=settings,
        )
        return cls(Core(parts, read_only))

    def __repr__(self) -> str:
        state = "closed" if self._core.closed.is_set() else "read-only" if self._core.read_only else "open"
        return f"<clipdex.Collection {str(self._core.place)!r}: {state}>"

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
    ) -> Hits:
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
            ServerBusy: too many pictures wait to be decoded already.
            ServerError: the server did not answer.
        """
        return run(
            search_steps(
                self._core,
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

    def similar(self, item: Key, top_k: int | None = None, **options: Any) -> Hits:
        """Find the pictures nearest to a picture of the collection, which is left out; options as for `search`.

        Raises:
            ItemNotFound: there is no such item.
        """
        return self.search(item=item, top_k=top_k, **options)

    def match(
        self,
        image: ImageSource,
        top_k: int = DEFAULT_TOP_K,
        *,
        min_inliers: int = DEFAULT_MIN_INLIERS,
        parts: bool = False,
        within: str | None = None,
        where: str | Sequence[int] | Array | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> list[Match]:
        """Find this very picture, by local features: what a crop, a screenshot or a photo of a print shows.

        The answer is empty if there are none: unlike a search, a match is a statement. It needs no server, but an
        index whose pictures have features: `clipdex features build` makes them (docs/local-matching.md). It sees
        all pictures and features that were committed when it began, by any process.

        Args:
            image: a picture, as for `search`; with `decode_workers`, they find its features.
            top_k: the most pictures to return.
            min_inliers: the fewest points that must agree. Fewer find smaller crops, and more that is not there.
            parts: also pictures that have only a part in common with it, such as an icon or a heading.
            within: only among the 1,000 pictures that best match this text; this needs a server.
            where, params: only pictures that meet a condition, or these rows, as for `search`.

        Raises:
            NoLocalFeatures: the index has none.
            MissingExtra: OpenCV is not installed.
            InvalidArgument: a number is out of range, or as `search`.
            ImageError: the picture cannot be decoded.
            ServerBusy: too many pictures wait to be decoded or matched already.
            IndexFault: the features cannot be read.
        """
        return run(
            match_steps(
                self._core,
                image,
                top_k,
                min_inliers=min_inliers,
                parts=parts,
                within=within,
                where=where,
                params=params,
            )
        )

    # Adding and removing

    def add(self, items: Item | Iterable[Item], *, flush: bool = True) -> int:
        """Add items, or replace those of the same id -> their number.

        They are durable, and found by searches, when this returns. Concurrent adds, from any threads, share
        requests and commits.

        Args:
            items: one, or a list or generator of them. Of two with the same id, the later stays.
            flush: False returns once they are embedded; `commit`, or five seconds, makes them durable.

        Raises:
            ImageError, RequestRefused, InvalidArgument: the one item given cannot be added.
            AddFailed: some items of a list cannot be added; it has the reason of each, and the others were added.
            ServerError, IndexFault: the server or the disk failed. Items before that may have been added; adding
                them again replaces them.
        """
        return run(add_steps(self._core, items, flush=flush))

    def remove(self, ids: str | Iterable[str], *, flush: bool = True) -> int:
        """Remove items -> the number removed. Unknown ids are no error. Durable when this returns, if `flush`."""
        return run(remove_steps(self._core, ids, flush=flush))

    def update_metadata(self, item_id: str, metadata: Mapping[str, Any] | None, *, flush: bool = True) -> None:
        """Replace the metadata of an item. Durable when this returns, if `flush`.

        Raises:
            ItemNotFound: there is no such item.
            InvalidArgument: it is not a dict of what JSON can say.
        """
        run(update_metadata_steps(self._core, item_id, metadata, flush=flush))

    def commit(self) -> None:
        """Make all changes with flush=False durable.

        Raises:
            IndexWriteError: some were lost because the disk failed.
        """
        run(commit_steps(self._core))

    # Asking whether an item is there, and the model

    def holds(self, item: Item) -> bool:
        """Return whether there is this very item: the same id, content and metadata.

        The picture's file is read, but neither decoded nor embedded; so it is quick to tell what need not be added
        again. False for a picture that is not a file, as it has to be decoded.
        """
        return is_held(self._core, item)

    def embed_texts(self, texts: Iterable[str]) -> Embeddings:
        """Embed N texts, as `Client.embed_texts` -> float32 (N, D) of norm 1."""
        return run(embed_texts_steps(self._core, texts))

    def embed_image(self, image: ImageSource) -> Embeddings:
        """Embed a picture, by its colour profile if the index's pictures are -> float32 (D,) of norm 1."""
        return run(embed_image_steps(self._core, image))

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text that are embedded: without padding, with the end token."""
        return self._core.reader_of_texts().token_counts(texts)

    def require_server(self, timeout_s: float = 5.0) -> None:
        """Ask whether the server has the model ready.

        Raises:
            ServerError, ModelNotFound: it does not answer, or does not have it.
        """
        self._core.reader_of_texts().require_ready(timeout_s)

    def classify(
        self,
        labels: Iterable[str],
        *,
        image: ImageSource | None = None,
        item: Key | None = None,
        templates: Iterable[str] = DEFAULT_TEMPLATES,
    ) -> list[LabelScore]:
        """Classify a picture by labels, zero-shot -> the labels, the most probable first.

        Args:
            image, item: a picture, or one of the collection, as for `search`.
            labels, templates: as for `Client.classify`.

        Raises:
            ItemNotFound: there is no such item.
            InvalidArgument: not exactly one of image and item is given; or as `Client.classify`.
        """
        return run(classify_steps(self._core, labels, templates, image=image, item=item))

    def lost(self, texts: Sequence[str]) -> list[str]:
        """Return the part of each text beyond the model's context, which is not embedded; "" if all of it fits.

        Raises:
            InvalidArgument: the collection has no model.
        """
        return self._core.reader_of_texts().lost(texts)

    def watch(self, *, poll_s: float = 0.1, timeout_s: float | None = None) -> Generator[Commit, None, None]:
        """Iterate over commits from now on, by this and other processes; several in quick succession count as one.

        It ends when the collection is closed, or after `timeout_s` without a commit.

        Args:
            poll_s: seconds between two checks, each of which takes microseconds.
        """
        return self._watching(self.watcher(poll_s), poll_s, timeout_s)

    def _watching(
        self, changed: Callable[[], Commit | None], poll_s: float, timeout_s: float | None
    ) -> Generator[Commit, None, None]:
        quiet_since = time.monotonic()
        while not self._core.closed.wait(poll_s):
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
        """Make a function that returns the state if there was a commit since its last call, else None.

        poll_s: how often it will be called.
        """
        if not is_number(poll_s) or not 0 < poll_s < float("inf"):
            raise InvalidArgument(f"poll_s is {poll_s!r}; expected a positive, finite number of seconds")
        with self._core.reading() as index:
            seen = [(index.generation, index.version)]

        def changed() -> Commit | None:
            with self._core.reading() as index:
                now = (index.generation, index.version)
                if now == seen[0]:
                    return None
                renumbered = now[0] is not seen[0][0]
                seen[0] = now
                return Commit(len(index), len(index.vectors), renumbered)

        return changed

    # Closing

    def close(self) -> None:
        """Commit what is staged; close all files, and the client if the collection made it. Safe to call twice.

        Raises:
            IndexWriteError: changes made with flush=False were lost.
        """
        self._core.close()

    def __enter__(self) -> Collection:
        self._core.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _OnDatabase(DatabasePictures, Collection):
    """A collection whose pictures are in a vector database."""

    _core: DatabaseCore
