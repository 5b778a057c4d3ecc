"""Batching on the client's side: single pictures or texts from many threads, sent together.

    with clipdex.connect() as clip, clipdex.Batcher(clip) as batcher:
        vector = batcher.text("a cat on a couch").result()    # float32 (D,)

Seldom needed: servers batch single requests themselves. It pays where requests are slow to travel, or metered.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from clipdex.base.arguments import is_count, is_number
from clipdex.base.arrays import Array, Pixels
from clipdex.base.errors import ClipdexError, Closed, InvalidArgument, RequestRefused
from clipdex.client.client import Client
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource, model_pixels
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.wire.servers.timer import Timer

__all__ = ["Batcher"]


@dataclass
class _Queue:
    """Items waiting to fill a batch."""

    submit: Callable[[Array], Future[Array]]
    most: int
    items: list[tuple[Array, Future[Embeddings]]] = field(default_factory=list)

    def take(self) -> list[tuple[Array, Future[Embeddings]]]:
        """Empty the queue -> its items."""
        items, self.items = self.items, []
        return items


class Batcher:
    """Collects single items for up to `max_wait_s`, or until a batch is full. Safe to share between threads.

    It does not work in a forked child.

    max_batch_size: the most items in one request; None for the model's own limit.
    max_wait_s: seconds that the first item of a batch waits for others.
    """

    def __init__(self, client: Client, *, max_batch_size: int | None = None, max_wait_s: float = 0.002) -> None:
        if not isinstance(client, Client):
            raise InvalidArgument(f"client is {client!r:.60}; expected a Client: make one with clipdex.connect")
        if max_batch_size is not None and not is_count(max_batch_size, 1):
            raise InvalidArgument(f"max_batch_size is {max_batch_size!r}; expected a whole number, at least 1")
        if not is_number(max_wait_s) or not max_wait_s > 0:
            raise InvalidArgument(f"max_wait_s is {max_wait_s!r}; expected a positive number of seconds")
        self._client = client
        self._max_wait_s = max_wait_s
        asked = max_batch_size or client.max_batch_size + client.max_texts
        self._images = _Queue(client.submit_pixels, min(asked, client.max_batch_size))
        self._texts = _Queue(client.submit_tokens, min(asked, client.max_texts))
        self._timer = Timer("clipdex-batcher")
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    def image(self, image: ImageSource, *, icc: IccUse = "off", decode: DecodeUse = "exact") -> Future[Embeddings]:
        """Decode a picture at once, and queue it -> a future of its vector, float32 (D,) of norm 1.

        icc, decode: as for `Client.embed_images`.

        Raises:
            ImageError: the picture cannot be decoded.
        """
        rules = PictureRules.of(icc, decode)
        return self._add(self._images, model_pixels(image, self._client.card.image, rules))

    def pixels(self, pixels: Pixels) -> Future[Embeddings]:
        """Queue a picture resized and cropped as the card says, uint8 (S, S, 3) -> a future of its vector.

        Raises:
            InvalidArgument: the array has another dtype or shape.
        """
        self._client.require_pixels(np.asarray(pixels)[None])
        return self._add(self._images, pixels)

    def text(self, text: str) -> Future[Embeddings]:
        """Queue a text -> a future of its vector, float32 (D,) of norm 1."""
        return self._add(self._texts, self._client.tokenize([text])[0])

    def close(self) -> None:
        """Send the waiting items, and accept no more. Safe to call twice."""
        if self._pid != os.getpid():
            return  # the waiting items are the parent's
        self._closed = True
        self._timer.close()  # runs pending calls at once

    def __repr__(self) -> str:
        return f"<clipdex.Batcher over {self._client!r}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Batcher:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("this batcher is closed: make another")

    def _add(self, queue: _Queue, row: Array) -> Future[Embeddings]:
        self._require_open()
        if self._pid != os.getpid():  # the sending thread did not survive the fork, and the lock may be held
            raise ClipdexError(
                f"this batcher was made in process {self._pid}, and this is a child that was forked from it: "
                "connect in the child, and make one there"
            )
        answer: Future[Embeddings] = Future()
        with self._lock:
            queue.items.append((row, answer))
            first = len(queue.items) == 1
            batch = queue.take() if len(queue.items) >= queue.most else []
        if batch:
            self._send(queue, batch)
        elif first:
            self._timer.after(self._max_wait_s, lambda: self._flush(queue, answer))
        return answer

    def _flush(self, queue: _Queue, first: Future[Embeddings]) -> None:
        """Send the batch that `first` began, unless it has already gone out full."""
        with self._lock:
            batch = queue.take() if queue.items and queue.items[0][1] is first else []
        if batch:
            self._send(queue, batch)

    def _send(self, queue: _Queue, batch: list[tuple[Array, Future[Embeddings]]]) -> None:
        # Items that were cancelled while they waited are left out; the others can no longer be cancelled.
        items = [
            (row, answer) for row, answer in batch if answer.running() or answer.set_running_or_notify_cancel()
        ]
        if not items:
            return

        def done(request: Future[Array]) -> None:
            try:
                vectors = self._client.checked(request.result(), len(items))
            except RequestRefused as exc:
                if len(items) == 1:
                    items[0][1].set_exception(exc)
                for item in items if len(items) > 1 else ():
                    self._send(queue, [item])  # one bad item must not fail the others
            except Exception as exc:
                for _, answer in items:
                    answer.set_exception(exc)
            else:
                for (_, answer), vector in zip(items, vectors, strict=True):
                    answer.set_result(Embeddings.of(vector, self._client.card.fingerprint))

        try:
            request = queue.submit(np.stack([row for row, _ in items]))
        except Exception as exc:
            for _, answer in items:
                answer.set_exception(exc)
        else:
            request.add_done_callback(done)
