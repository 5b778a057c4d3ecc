"""The parts of an open collection, and the rules by which threads share them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from clipdex.base.errors import ClipdexError, Closed, FingerprintMismatch, InvalidArgument, ItemNotFound
from clipdex.base.item_paths import item_path
from clipdex.client.batching import Batcher
from clipdex.client.client import Client
from clipdex.collection.commits import Change, Commits
from clipdex.collection.describing import Describing
from clipdex.collection.matching import Matching
from clipdex.collection.open_collection import Opened
from clipdex.collection.scanning import Scans
from clipdex.collection.shared_lock import Gate
from clipdex.collection.text_vectors import TextVectors
from clipdex.index.reader import Index
from clipdex.index.writer import IndexWriter
from clipdex.model.embeddings import Embeddings
from clipdex.model.picture_rules import PictureRules

__all__ = ["Core", "Key"]

# An item's id; a path or a row of a picture of a folder.
Key: TypeAlias = "str | int | os.PathLike[str]"


class Core:
    """An index, an optional client, and a thread that writes unless the collection is read-only.

    index: except for its manifest, use it within `reading` only. scans: answers searches of it. place: how to name
    the collection.
    """

    place: object

    def __init__(self, parts: Opened, read_only: bool) -> None:
        self.index: Index = parts.index
        self.place = self.directory = parts.index.directory
        self.fingerprint = parts.index.manifest.fingerprint
        self.rules: PictureRules = parts.index.manifest.rules
        self._share(parts.client, parts.own_client)
        self.scans = Scans(self.reading, self.still)
        self._matching: Matching | None = Matching(self.reading, self._same_model)
        self.decoding = parts.decoding
        self.describing = Describing(self.directory, parts.decoding, parts.local_features)
        self._commits = None if read_only else Commits(str(self.directory), parts.write, parts.writer)

    def _share(self, client: Client | None, own_client: bool) -> None:
        """Prepare what threads share. own_client: the client is closed with the collection."""
        self.client = client
        self.closed = threading.Event()
        self._own_client = own_client
        self._gate = Gate()
        self._closing = threading.Lock()
        self._pid = os.getpid()
        self._batcher = None if client is None else Batcher(client)
        self._texts = None if self._batcher is None or client is None else TextVectors(client, self._batcher)

    @property
    def read_only(self) -> bool:
        """True if nothing can be added or removed."""
        return self._commits is None

    def close(self) -> None:
        """Commit what is staged, and close everything. Raises IndexWriteError if something was lost."""
        if self._pid != os.getpid():
            return  # a forked child: all of it is the parent's
        with self._closing:
            if self.closed.is_set():
                return
            self.closed.set()
            lost = None if self._commits is None else self._commits.close()
            self.decoding.close()
            if self._batcher is not None:
                self._batcher.close()
            self.scans.close()
            if self._matching is not None:
                self._matching.close()
            with self._gate.alone():
                self._close_pictures()
            if self._own_client and self.client is not None:
                self.client.close()
        if lost is not None:
            raise lost

    def _close_pictures(self) -> None:
        self.index.close()

    def require_open(self) -> None:
        """Raise Closed if the collection is closed, ClipdexError in a forked child."""
        if self._pid != os.getpid():
            raise ClipdexError(
                f"this Collection of {self.place} was opened in process {self._pid}, and this is a child that "
                "was forked from it: open another in the child"
            )
        if self.closed.is_set():
            raise Closed(f"this Collection of {self.place} is closed: open it again with Collection.open")

    def commits(self) -> Commits:
        """Return the thread that writes. Raises InvalidArgument if the collection is read-only."""
        self.require_open()
        if self._commits is None:
            raise InvalidArgument(f"this Collection of {self.directory} was opened with read_only=True")
        return self._commits

    def put(self, path: bytes | None, make: Callable[[IndexWriter], Any], flush: bool) -> Future[Any]:
        """Queue a change, as `Change` has it -> a future of its result."""
        return self.commits().put(Change(path, make, flush))

    def model(self) -> Batcher:
        """Return the batcher for texts and pictures. Raises InvalidArgument if the collection has no client."""
        if self._batcher is None:
            raise InvalidArgument(
                f"this Collection of {self.place} has no model and takes vectors only: give server= "
                "or client= to Collection.open"
            )
        return self._batcher

    def matching(self) -> Matching:
        """Return what matches by local features."""
        assert self._matching is not None
        return self._matching

    def text(self, text: str) -> Future[Embeddings]:
        """Embed a text, unless it is among those searched for last -> a future of its vector, float32 (D,)."""
        self.model()
        assert self._texts is not None
        return self._texts.of(text)

    def reader_of_texts(self) -> Client:
        """Return the client, which tokenizes texts. Raises InvalidArgument if the collection has none."""
        self.model()
        assert self.client is not None
        return self.client

    @contextmanager
    def reading(self) -> Iterator[Index]:
        """Give the block the current index, which does not change within it."""
        self.require_open()  # first: in a forked child nobody opens the gate any more
        with self._gate.shared():
            self.require_open()
            if self.index.is_open and self.index.is_current():
                yield self._same_model(self.index)
                return
        with self._gate.alone():
            self.require_open()
            if self.index.is_open:
                self.index.refresh()
            else:  # a refresh found another index at its path
                self.index = Index.open(self.directory, filter_timeout_s=self.index.filter_timeout_s)
        with self._gate.shared():
            self.require_open()
            yield self._same_model(self.index)

    @contextmanager
    def still(self, generation: object) -> Iterator[Index | None]:
        """Give the block the index, current or not, if its rows have the numbers of this generation; else None.

        A search that has begun may use it while the collection is being closed, which waits for it.
        """
        with self._gate.shared():
            yield self.index if self.index.is_open and self.index.generation is generation else None

    def _same_model(self, index: Index) -> Index:
        found = index.manifest
        if (found.fingerprint, found.rules) != (self.fingerprint, self.rules):
            raise FingerprintMismatch(
                f"{self.directory} was replaced by an index of {found.model} ({found.fingerprint[:12]}), but this "
                f"Collection was opened for the model {self.fingerprint[:12]}: open it again"
            )
        return index

    def row(self, index: Index, item: Key) -> int:
        """Find the row of an item, or of another picture. Raises ItemNotFound."""
        if isinstance(item, str):
            known = index.known(item_path(item))
            if known is None or known.row is None or known.row >= len(index.vectors):
                raise self.not_found(item)
            return known.row
        if isinstance(item, bool) or not isinstance(item, (int, np.integer, os.PathLike)):
            raise InvalidArgument(f"the item is {item!r:.60}; expected an id, or the path or row of a picture")
        try:
            return index.row(item)
        except InvalidArgument as exc:
            raise ItemNotFound(str(exc)) from exc

    def not_found(self, item_id: str) -> ItemNotFound:
        """Return the error for an id that no item has."""
        return ItemNotFound(f"{self.place} has no item {item_id!r}")
