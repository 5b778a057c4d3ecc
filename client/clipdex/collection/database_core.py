"""The parts of a collection that stands on a vector database: its connection instead of an index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from clipdex.base.errors import Closed, InvalidArgument, ItemNotFound
from clipdex.base.item_paths import item_path
from clipdex.client.client import Client, connect
from clipdex.collection.commits import Commits
from clipdex.collection.core import Core
from clipdex.collection.decoding import Decoding
from clipdex.collection.matching import Matching
from clipdex.collection.open_collection import check_connection
from clipdex.collection.scanning import Scans, Wanted
from clipdex.sinks.payloads import point_id
from clipdex.sinks.sink import Sink
from clipdex.sinks.stored import PointId, Stored

__all__ = ["DatabaseCore", "open_on_database"]


class DatabaseCore(Core):
    """A connection to a vector database, and an optional client. Nothing can be written."""

    def __init__(self, stored: Stored, client: Client | None, own_client: bool, decoding: Decoding) -> None:
        self.stored = stored
        self.place = stored.place
        self.fingerprint = stored.manifest.fingerprint
        self.rules = stored.manifest.rules
        self.decoding = decoding
        self._commits = self._matching = None
        self._share(client, own_client)
        self.scans = _Queries(self.reading)

    def commits(self) -> Commits:
        """Raise InvalidArgument: it is read-only."""
        self.require_open()
        raise InvalidArgument(
            f"this Collection of {self.place} is read-only: change the index that it was pushed from, and run  "
            "clipdex push  again"
        )

    def matching(self) -> Matching:
        """Raise InvalidArgument: local features are not pushed."""
        self.require_open()
        raise InvalidArgument(f"{self.place} has no local features: open the index itself for that")

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Give the block the collection in the database, a `Stored`, whose model is still the same."""
        self.require_open()
        with self._gate.shared():
            self.require_open()
            self.stored.look_up()
            yield self.stored

    def row(self, index: Any, item: Any) -> Any:
        """Find the `PointId` of an item, by its id, or of another picture, by its path. Raises ItemNotFound."""
        if isinstance(item, PointId):
            return item
        if isinstance(item, bool) or not isinstance(item, (str, int, np.integer, os.PathLike)):
            raise InvalidArgument(f"the item is {item!r:.60}; expected an id, or the path of a picture")
        meant = PointId(point_id(item_path(item))) if isinstance(item, str) else item
        try:
            return index.row(meant)
        except InvalidArgument as exc:
            raise self.not_found(item) if isinstance(item, str) else ItemNotFound(str(exc)) from exc

    def _close_pictures(self) -> None:
        self.stored.close()


class _Queries(Scans):
    """Asks the database in a thread, one query after the other."""

    def __init__(self, reading: Callable[[], Any]) -> None:
        self._opened = reading
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clipdex-query")

    def start(self, wanted: Wanted) -> Any:
        """Queue a search -> a future of its hits."""
        try:
            self._thread.submit(self._ask, wanted)
        except RuntimeError as exc:
            raise Closed("this Collection is closed: open it again with Collection.open") from exc
        return wanted.done

    def _ask(self, wanted: Wanted) -> None:
        if not wanted.begins():
            return
        try:
            with self._opened() as stored:
                vector, excluded = wanted.vector(stored)
                options: dict[str, Any] = {"where": wanted.where, "params": wanted.params}
                options |= {"exclude": excluded, "grouping": wanted.grouping} | wanted.options
                hits = stored.search(vector, **options)
        except BaseException as exc:
            wanted.done.set_exception(exc)
        else:
            wanted.done.set_result(hits)

    def close(self) -> None:
        """Wait for the searches under way, and end the thread."""
        self._thread.shutdown()


def open_on_database(
    sink: Callable[[], Sink],
    server: Any,
    model: str | None,
    client: Client | None,
    decode_workers: int,
    settings: dict[str, Any],
) -> DatabaseCore:
    """Open a collection on a vector database; if it raises, nothing stays open. sink: connects.

    Raises:
        SinkError: nothing answers there, or there is no such collection.
        FingerprintMismatch: it has vectors of another model than the client's.
        InvalidArgument, ServerError: as `Collection.open`.
    """
    check_connection(server, model, client, settings, decode_workers)
    opened = sink()
    own = client is None and server is not None
    try:
        stored = Stored(opened)
        if own:
            client = connect(server, model=model or stored.manifest.model, **settings)
        if client is not None:
            stored.require(client.card)
        spec = None if client is None else client.card.image
        decoding = Decoding(spec, stored.manifest.rules, decode_workers, False, False)
        return DatabaseCore(stored, client, own, decoding)
    except BaseException:
        opened.close()
        if own and client is not None:
            client.close()
        raise
