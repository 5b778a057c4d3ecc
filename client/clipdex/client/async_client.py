"""The asyncio client: the methods of the blocking client, awaited.

    async with clipdex.aio.connect("localhost:8001") as clip:
        query = await clip.embed_texts(["a cat sleeping on a couch"])    # float32 (1, D)

Decoding and resizing run in its own threads, requests and their retries in the client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from clipdex.base.arrays import Pixels, Vectors
from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import ClipdexError, Closed
from clipdex.client.classification import DEFAULT_TEMPLATES, classify_steps
from clipdex.client.client import DEFAULT_ADDRESS, Client
from clipdex.client.client import connect as connect_blocking
from clipdex.client.driving import drive
from clipdex.client.embedding import image_steps, pixel_steps, text_steps
from clipdex.client.steps import Steps
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource

__all__ = ["AsyncClient", "connect"]

_T = TypeVar("_T")


def connect(address: str | Sequence[str] = DEFAULT_ADDRESS, **settings: Any) -> AsyncClient:
    """Make a client that connects when its `async with` begins; takes the arguments of `clipdex.connect`."""
    return AsyncClient(partial(connect_blocking, address, **settings))


class AsyncClient:
    """A `clipdex.Client` whose methods are awaited. Use it in an `async with`.

    Any number of tasks may share it. Cancelling a task withdraws its requests.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        """connect: makes the client, in a thread, when the `async with` begins."""
        self._connect = connect
        self._client: Client | None = None
        self._closed = False
        self._threads = ThreadPoolExecutor(max(2, usable_cpus()), thread_name_prefix="clipdex-aio")

    async def __aenter__(self) -> AsyncClient:
        self._require_open()
        made = self._threads.submit(self._connect)
        try:
            self._client = await asyncio.wrap_future(made)
        except BaseException:
            self._closed = True
            made.add_done_callback(_close_unwanted)  # its thread cannot be cancelled, and may still connect
            self._threads.shutdown(wait=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._in_thread(self.client.close)
        finally:
            self._closed = True
            self._threads.shutdown(wait=False)

    @property
    def client(self) -> Client:
        """The underlying blocking client; its other methods and attributes return at once or almost so."""
        self._require_open()
        if self._client is None:
            raise ClipdexError("the client is not connected: use  async with clipdex.aio.connect(...) as clip")
        return self._client

    def __repr__(self) -> str:
        if self._closed:
            return "<clipdex.aio.AsyncClient, closed>"
        return f"<clipdex.aio.AsyncClient {'not connected' if self._client is None else f'over {self._client!r}'}>"

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("this client is closed: make another with clipdex.aio.connect")

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.client.card

    async def embed_images(self, images: Iterable[ImageSource], *, icc: IccUse = "off") -> Embeddings:
        """See `Client.embed_images`."""
        return await self._drive(image_steps(self.client, images, icc=icc))

    async def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """See `Client.embed_pixels`."""
        return await self._drive(pixel_steps(self.client, pixels))

    async def embed_texts(self, texts: Iterable[str]) -> Embeddings:
        """See `Client.embed_texts`."""
        return await self._drive(await self._in_thread(partial(text_steps, self.client, texts)))

    async def classify(
        self,
        images: Iterable[ImageSource],
        labels: Iterable[str],
        *,
        templates: Iterable[str] = DEFAULT_TEMPLATES,
        icc: IccUse = "off",
    ) -> Vectors:
        """See `Client.classify`."""
        return await self._drive(classify_steps(self.client, images, labels, templates, icc=icc))

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        self._require_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _drive(self, steps: Steps[_T]) -> _T:
        return await drive(steps, self._threads, self._require_open)  # another task may leave the `async with`


def _close_unwanted(made: Future[Client]) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().close()
