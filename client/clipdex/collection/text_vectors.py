"""The vectors of the texts that were searched for last: the next page of a search needs no inference."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from functools import partial

from clipdex.client.batching import Batcher
from clipdex.client.client import Client
from clipdex.model.embeddings import Embeddings

__all__ = ["TextVectors"]

_KEPT = 256
_LONGEST = 1_000  # characters


class TextVectors:
    """Embeds texts by a client's model, each once as long as it is among the last. Safe between threads."""

    def __init__(self, client: Client, batcher: Batcher) -> None:
        self._client, self._batcher = client, batcher
        self._kept: OrderedDict[str, Embeddings] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, text: str) -> Future[Embeddings]:
        """Return a future of a text's vector, float32 (D,) of norm 1; it is not to be written to."""
        with self._lock:
            found = self._kept.get(text)
            if found is not None:
                self._kept.move_to_end(text)
        if found is not None:
            known: Future[Embeddings] = Future()
            known.set_result(found)
            return known
        waiting = self._batcher.text(text)
        # A text that is cut warns each time that it is used.
        if len(text) <= _LONGEST and not self._client.lost([text])[0]:
            waiting.add_done_callback(partial(self._keep, text))
        return waiting

    def _keep(self, text: str, done: Future[Embeddings]) -> None:
        if not done.cancelled() and done.exception() is None:
            with self._lock:
                self._kept[text] = done.result()
                self._kept.move_to_end(text)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
