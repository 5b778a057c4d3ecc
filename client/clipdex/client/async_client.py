"""The asyncio client: the methods of the blocking client, awaited.

    async with clipdex.aio.connect("localhost:8001") as clip:
        query = await clip.embed_texts(["a cat sleeping on a couch"])    # float32 (1, D)

Decoding and resizing run in its own threads, requests and their retries in the client's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from clipdex.base.arrays import Pixels, Vectors
from clipdex.base.cpus import usable_cpus
from clipdex.client.async_twin import AsyncTwin
from clipdex.client.classification import DEFAULT_TEMPLATES, classify_steps
from clipdex.client.client import DEFAULT_ADDRESS, Client
from clipdex.client.client import connect as connect_blocking
from clipdex.client.embedding import image_steps, pixel_steps, text_steps
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource
from clipdex.model.picture_rules import DecodeUse, PictureRules

__all__ = ["AsyncClient", "connect"]


def connect(address: str | Sequence[str] = DEFAULT_ADDRESS, **settings: Any) -> AsyncClient:
    """Make a client that connects when its `async with` begins; takes the arguments of `clipdex.connect`."""
    return AsyncClient(partial(connect_blocking, address, **settings))


class AsyncClient(AsyncTwin[Client]):
    """A `clipdex.Client` whose methods are awaited. Use it in an `async with`.

    Any number of tasks may share it. Cancelling a task withdraws its requests.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        """connect: makes the client, in a thread, when the `async with` begins."""
        super().__init__(
            connect,
            ThreadPoolExecutor(max(2, usable_cpus()), thread_name_prefix="clipdex-aio"),
            closed="this client is closed: make another with clipdex.aio.connect",
            unopened="the client is not connected: use  async with clipdex.aio.connect(...) as clip",
        )

    @property
    def client(self) -> Client:
        """The underlying blocking client; its other methods and attributes return at once or almost so."""
        return self._opened()

    def __repr__(self) -> str:
        if self._closed:
            return "<clipdex.aio.AsyncClient, closed>"
        over = "not connected" if self._blocking is None else f"over {self._blocking!r}"
        return f"<clipdex.aio.AsyncClient {over}>"

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.client.card

    async def embed_images(
        self, images: Iterable[ImageSource], *, icc: IccUse = "off", decode: DecodeUse = "exact"
    ) -> Embeddings:
        """See `Client.embed_images`."""
        return await self._drive(image_steps(self.client, images, PictureRules.of(icc, decode)))

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
        decode: DecodeUse = "exact",
    ) -> Vectors:
        """See `Client.classify`."""
        return await self._drive(
            classify_steps(self.client, images, labels, templates, PictureRules.of(icc, decode))
        )
