"""The client: pictures and texts in, unit vectors out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

import numpy as np

from clipdex.arrays import Array, Pixels, Vectors
from clipdex.assets import SHA256_PARAMETER, Assets, cached_assets, default_cache_dir
from clipdex.card import ModelCard, check_model_name
from clipdex.errors import InvalidArgument, ModelNotFound, ServerFault
from clipdex.images import ImageSource, open_image, to_pixels
from clipdex.tokenizer import Tokenizer
from clipdex.wire import ServerInfo, Transport, open_transport

__all__ = ["DEFAULT_ADDRESS", "Client", "connect", "served_models"]

DEFAULT_ADDRESS = "localhost:8001"

_PARTS = ("assets", "image", "text")
_WHOLE = np.iinfo(np.int64).max


def connect(
    address: str = DEFAULT_ADDRESS,
    *,
    model: str | None = None,
    timeout_s: float = 60.0,
    cache_dir: Path | None = None,
) -> Client:
    """Connect to a model.

    Args:
        address: `HOST:PORT` or `dns:///NAME:PORT` of a Triton server's gRPC port, or `inproc:DIR` to run the
            models of that repository in this process.
        model: the model's name; may be left out where the server holds just one.
        timeout_s: how long any one request may take, in seconds.
        cache_dir: where tokenizers and cards are kept; see `clipdex.assets.default_cache_dir`.

    Raises:
        ServerUnreachable: nobody answers there.
        ModelNotFound: the server holds no such model, or several and none was named.
        InvalidArgument: the address has another form.
    """
    transport = open_transport(address)
    try:
        return Client(transport, model=model, timeout_s=timeout_s, cache_dir=cache_dir)
    except BaseException:
        transport.close()
        raise


def served_models(triton_models: Iterable[str]) -> list[str]:
    """The clipdex models among Triton's: those whose image, text and assets parts are all there."""
    present = set(triton_models)
    names = {name.removesuffix("_assets") for name in present if name.endswith("_assets")}
    return sorted(name for name in names if all(f"{name}_{part}" in present for part in _PARTS))


class Client:
    """A connection to one model. Safe to share between threads; close it, or use it in a `with`.

    card: the model's card.
    server: who answers, and its version.
    max_batch_size: the pictures one request may carry.
    in_flight: the requests that keep the server busy: two batches for each of its instances.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        model: str | None = None,
        timeout_s: float = 60.0,
        cache_dir: Path | None = None,
    ) -> None:
        if not timeout_s > 0:
            raise InvalidArgument(f"timeout_s is {timeout_s}; expected a positive number of seconds")
        self._transport = transport
        self._timeout_s = timeout_s
        self.server: ServerInfo = transport.server(timeout_s)
        self._name = self._choose(model)
        assets = self._fetch_assets(cache_dir or default_cache_dir())
        self.card: ModelCard = assets.card
        self._tokenizer = Tokenizer(assets.tokenizer_json, assets.card.text)
        image = transport.config(f"{self._name}_image", timeout_s)
        text = transport.config(f"{self._name}_text", timeout_s)
        self.max_batch_size: int = max(1, image.max_batch_size)
        self.in_flight: int = 2 * image.instance_count
        self._max_texts = max(1, text.max_batch_size)

    @property
    def address(self) -> str:
        """Where the model is served."""
        return self._transport.address

    def embed_images(self, images: Sequence[ImageSource]) -> Vectors:
        """N pictures (paths, file bytes, Pillow images, uint8 arrays) -> float32 (N, D) of norm 1.

        Raises:
            ImageError: one of them cannot be decoded; the message names it.
            ServerError: the server did not answer.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
            raise InvalidArgument("images is a list; for one picture give a list of one: [picture]")
        spec = self.card.image

        def batches() -> Iterator[Pixels]:
            batch: list[Pixels] = []
            for image in images:
                batch.append(to_pixels(open_image(image, fill=spec.fill), spec))
                if len(batch) == self.max_batch_size:
                    yield np.stack(batch)
                    batch = []
            if batch:
                yield np.stack(batch)

        return self._gather(self.submit_pixels(pixels) for pixels in batches())

    def embed_pixels(self, pixels: Pixels) -> Vectors:
        """uint8 (N, S, S, 3), resized and cropped as the card says -> float32 (N, D) of norm 1."""
        step = self.max_batch_size
        return self._gather(self.submit_pixels(pixels[i : i + step]) for i in range(0, len(pixels), step))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """N texts -> float32 (N, D) of norm 1. A text longer than the model's context is cut."""
        ids = self._tokenizer(texts)
        step = self._max_texts
        return self._gather(
            self._submit("text", {"token_ids": ids[i : i + step]}) for i in range(0, len(ids), step)
        )

    def submit_pixels(self, pixels: Pixels) -> Future[Array]:
        """Send one batch, uint8 (B, S, S, 3) with B <= max_batch_size; the future holds float32 (B, D).

        Check what it holds with `checked`, and keep no more than `in_flight` waiting.
        """
        size = self.card.image.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise InvalidArgument(
                f"{self._name} takes pixels of dtype uint8 and shape (N, {size}, {size}, 3); "
                f"these are {pixels.dtype} {pixels.shape}"
            )
        return self._submit("image", {"pixels": pixels})

    def checked(self, vectors: Array) -> Vectors:
        """Vectors as a server sent them, float32 (B, D), or ServerFault if they are no embeddings."""
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self.card.embedding_dim:
            raise ServerFault(
                f"{self._name} at {self.address} answered {vectors.dtype} {vectors.shape}; "
                f"its card promises float32 (N, {self.card.embedding_dim})"
            )
        norms = np.linalg.norm(vectors, axis=1)
        if not np.all(np.abs(norms - 1.0) < 1e-2):  # catches NaN too
            raise ServerFault(
                f"{self._name} at {self.address} answered vectors that are not of norm 1: the model is broken"
            )
        return vectors

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _choose(self, model: str | None) -> str:
        served = served_models(self._transport.models(self._timeout_s))
        if model is not None:
            check_model_name(model)
            if model in served:
                return model
            there = f"it has {', '.join(served)}" if served else "it has none that clipdex exported"
            raise ModelNotFound(f"{self.address} has no model {model!r}; {there}")
        if len(served) == 1:
            return served[0]
        if not served:
            raise ModelNotFound(
                f"{self.address} serves no model that clipdex exported (NAME_image, NAME_text, NAME_assets)"
            )
        raise ModelNotFound(f"{self.address} has several models, name one of them: {', '.join(served)}")

    def _fetch_assets(self, cache_dir: Path) -> Assets:
        model = f"{self._name}_assets"
        config = self._transport.config(model, self._timeout_s)

        def fetch() -> bytes:
            span = {"start": np.zeros(1, np.int64), "end": np.full(1, _WHOLE, np.int64)}
            return self._transport.submit(model, span, "bytes", self._timeout_s).result().tobytes()

        return cached_assets(config.parameters.get(SHA256_PARAMETER), fetch, cache_dir)

    def _submit(self, part: str, inputs: dict[str, Array]) -> Future[Array]:
        return self._transport.submit(f"{self._name}_{part}", inputs, "embedding", self._timeout_s)

    def _gather(self, requests: Iterator[Future[Array]]) -> Vectors:
        """Keep `in_flight` requests waiting, and put their answers one below the other."""
        parts: list[Vectors] = []
        waiting: deque[Future[Array]] = deque()
        for request in requests:
            waiting.append(request)
            if len(waiting) >= self.in_flight:
                parts.append(self.checked(waiting.popleft().result()))
        parts.extend(self.checked(request.result()) for request in waiting)
        if not parts:
            return np.empty((0, self.card.embedding_dim), dtype=np.float32)
        return np.concatenate(parts)
