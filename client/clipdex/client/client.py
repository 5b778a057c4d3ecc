"""The client: pictures and texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from os import PathLike
from types import TracebackType
from typing import Literal, get_args

import numpy as np

from clipdex.base.arguments import is_number
from clipdex.base.arrays import Array, Pixels, Vectors
from clipdex.base.errors import Closed, InvalidArgument, ModelNotFound, ServerError, ServerFault
from clipdex.base.one_process import OfOneProcess
from clipdex.client.classification import DEFAULT_TEMPLATES, classify_steps
from clipdex.client.discovery import discover, served_models
from clipdex.client.embedding import image_steps, pixel_steps, text_steps
from clipdex.client.request_size import requests_in_flight, rows_of_pixels, rows_of_texts
from clipdex.client.steps import run
from clipdex.model.assets import as_cache_dir
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.model.formats.icc import IccUse
from clipdex.model.images import ImageSource
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.model.texts import warn_of_cut
from clipdex.model.tokenizer import Tokenizer
from clipdex.wire import (
    Credentials,
    ModelStatistics,
    RequestHook,
    RetryPolicy,
    ServerInfo,
    SharedMemory,
    Transport,
    open_transport,
)
from clipdex.wire.address import may_share_memory

__all__ = ["DEFAULT_ADDRESS", "Client", "SharedMemoryUse", "connect", "served_models"]

SharedMemoryUse = Literal["auto", "always", "never"]

DEFAULT_ADDRESS = "localhost:8001"


def connect(
    address: str | Sequence[str] = DEFAULT_ADDRESS,
    *,
    model: str | None = None,
    timeout_s: float = 60.0,
    wait_s: float = 0.0,
    credentials: Credentials | None = None,
    retry: RetryPolicy | None = None,
    shared_memory: SharedMemoryUse = "auto",
    on_request: RequestHook | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> Client:
    """Connect to a model on one or more Triton servers, or in this process.

    Args:
        address: `HOST:PORT`, `dns:///NAME:PORT` or `unix:PATH` of a Triton server's gRPC port; several of them,
            in a list or with commas, for servers that hold the same model; or `inproc:DIR` to run the models of
            that repository in this process.
        model: the model's name; optional if the server holds just one.
        timeout_s: seconds that one request may take, all its attempts together.
        wait_s: seconds to wait for a server that is not up yet, or has not loaded the model.
        credentials: TLS, a token, headers.
        retry: how failed requests are retried; the defaults of `RetryPolicy` if not given.
        shared_memory: whether a bulk run passes pictures in shared memory: "auto" if the server runs on this
            machine and supports it, "always" (an error if it does not), or "never".
        on_request: called after each finished request, in the client's thread or the caller's: it must be quick.
        cache_dir: where tokenizers and cards are kept; see `clipdex.model.assets.default_cache_dir`.

    Raises:
        ServerUnreachable: nothing answers there. Of several servers, one that answers is enough.
        ModelNotFound: the server does not hold that model, or holds several and none was named.
        FingerprintMismatch: two of the servers hold different models of that name.
        InvalidArgument: the address is malformed, or a token would be sent to it unencrypted.
    """
    transport = open_transport(address, credentials=credentials, retry=retry, on_request=on_request)
    try:
        return Client(
            transport,
            model=model,
            timeout_s=timeout_s,
            wait_s=wait_s,
            cache_dir=cache_dir,
            shared_memory=shared_memory,
        )
    except BaseException:
        transport.close()
        raise


class Client(OfOneProcess):
    """A connection to one model. Safe to share between threads; close it, or use it in a `with`.

    It does not work in a forked child: connect again there.

    card: the model's card.
    server: the server's name and version.
    max_batch_size, max_texts: the most pictures, or texts, in one request, as the server and memory allow.
    in_flight: the requests that keep the servers busy: two batches for each of their instances, 1 GiB at most.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        model: str | None = None,
        timeout_s: float = 60.0,
        wait_s: float = 0.0,
        cache_dir: str | PathLike[str] | None = None,
        shared_memory: SharedMemoryUse = "auto",
    ) -> None:
        _check_timeout(timeout_s)
        if not is_number(wait_s) or not wait_s >= 0:
            raise InvalidArgument(f"wait_s is {wait_s!r}; expected 0 or more seconds")
        if not isinstance(model, (str, type(None))):
            raise InvalidArgument(f"model is {model!r}; expected the name of a model, a string")
        if shared_memory not in get_args(SharedMemoryUse):
            raise InvalidArgument(f"shared_memory is {shared_memory!r}; expected auto, always or never")
        if not hasattr(transport, "submit"):
            raise InvalidArgument(f"transport is {transport!r:.60}; clipdex.connect makes a Client for an address")
        self.shared_memory: SharedMemoryUse = shared_memory
        self._transport = transport
        self._closed = False
        self._timeout_s = timeout_s
        found = discover(transport, model, timeout_s=timeout_s, wait_s=wait_s, cache_dir=as_cache_dir(cache_dir))
        self._name = found.name
        self.server: ServerInfo = found.server
        self.card: ModelCard = found.assets.card
        self._tokenizer = Tokenizer(found.assets.tokenizer_json, self.card.text)
        self.max_batch_size: int = rows_of_pixels(self.card, found.image.max_batch_size)
        self.max_texts: int = rows_of_texts(self.card, found.text.max_batch_size)
        self.in_flight: int = requests_in_flight(self.card, found.image.instance_count, self.max_batch_size)

    @property
    def address(self) -> str:
        """The address at which the model is served."""
        return self._transport.address

    def embed_images(
        self, images: Iterable[ImageSource], *, icc: IccUse = "off", decode: DecodeUse = "exact"
    ) -> Embeddings:
        """Embed N pictures -> float32 (N, D) of norm 1.

        images: a list or generator of paths, file bytes, open files, Pillow images or uint8 arrays, or one uint8
            array (N, H, W, 3). They are opened batch by batch.
        icc: "srgb" converts them by their colour profiles, for an index made that way (`Index.manifest.icc`).
        decode: "fast" decodes large JPEGs at a reduced size, for an index made that way (`Index.manifest.decode`).

        Raises:
            ImageError: one of them cannot be decoded; the message names it.
            InvalidArgument: `images` is a single picture, or contains something that is not a picture.
            RequestRefused: the server refuses one of them; the message says which.
            ServerError: the server did not answer.
        """
        return run(image_steps(self, images, PictureRules.of(icc, decode), wait=True))

    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """Embed uint8 (N, S, S, 3), resized and cropped as the card says -> float32 (N, D) of norm 1.

        Raises:
            InvalidArgument: the array has another dtype or shape.
            ServerError: the server did not answer.
        """
        return run(pixel_steps(self, pixels, wait=True))

    def embed_texts(self, texts: Iterable[str]) -> Embeddings:
        """Embed N texts -> float32 (N, D) of norm 1. Texts that are too long are cut, with a TextCut warning."""
        return run(text_steps(self, texts, wait=True))

    def classify(
        self,
        images: Iterable[ImageSource],
        labels: Iterable[str],
        *,
        templates: Iterable[str] = DEFAULT_TEMPLATES,
        icc: IccUse = "off",
        decode: DecodeUse = "exact",
    ) -> Vectors:
        """Classify N pictures by K labels, zero-shot -> float32 (N, K): the probability of each label.

        Each label's vector is the mean over the templates, with "{}" replaced by the label. A softmax makes each
        picture's probabilities sum to 1; a sigmoid (SigLIP: `card.scoring`) judges each label on its own.
        icc, decode: as for `embed_images`.

        Raises:
            InvalidArgument: there are too few labels, one is empty or repeated, or a template has no "{}".
        """
        rules = PictureRules.of(icc, decode)
        return run(classify_steps(self, images, labels, templates, rules, wait=True))

    def submit_pixels(
        self, pixels: Pixels, timeout_s: float | None = None, *, wait: bool = False
    ) -> Future[Array]:
        """Send one batch, uint8 (B, S, S, 3) with B <= max_batch_size -> a future of float32 (B, D).

        Check the result with `checked`, and keep at most `in_flight` requests pending. The pixels must not change
        until the future is done; `cancel` withdraws the request, which then ends with `Cancelled`.
        timeout_s: overrides the client's timeout. wait: the caller will block on the answer at once, so the
        request may be answered within this call.
        """
        self.require_pixels(pixels)
        return self._submit("image", {"pixels": _not_empty(pixels, "pixels")}, timeout_s, wait)

    def require_pixels(self, pixels: Pixels) -> None:
        """Raise InvalidArgument unless the array has the dtype and shape that `embed_pixels` takes."""
        size = self.card.image.size
        _require_array(pixels, np.uint8, (size, size, 3), f"{self._name} takes pixels")

    def tokenize(self, texts: Iterable[str]) -> Array:
        """Tokenize N texts for `submit_tokens` -> int32 (N, L)."""
        ids, lost = self._tokenizer.encode(texts)
        warn_of_cut(lost, self.card.text.context_length)
        return ids

    def lost(self, texts: Iterable[str]) -> list[str]:
        """Return the part of each text beyond the model's context, which is not embedded; "" if all of it fits."""
        return self._tokenizer.encode(texts)[1]

    def token_counts(self, texts: Iterable[str]) -> list[int]:
        """Count the tokens of each text that are embedded: without padding, with the end token."""
        return self._tokenizer.counts(texts)

    def submit_tokens(self, ids: Array, *, wait: bool = False) -> Future[Array]:
        """Send one batch of tokenized texts, int32 (B, L) with B <= max_texts, as `submit_pixels` does."""
        _require_array(ids, np.int32, (self.card.text.context_length,), f"{self._name} takes token ids")
        return self._submit("text", {"token_ids": _not_empty(ids, "token ids")}, wait=wait)

    def share(self, memory: SharedMemory) -> bool:
        """Register shared memory, so that `submit_pixels` refers to pixels in it rather than sending them.

        -> whether the server accepted it.

        Raises:
            ServerError: shared_memory is "always", and the server did not accept it.
        """
        self.require_open()
        if self.shared_memory == "never":
            return False
        if self.shared_memory == "auto" and not may_share_memory(self.address):
            return False
        shared = self._transport.share(memory, self._timeout_s)
        if self.shared_memory == "always" and not shared:
            raise ServerError(
                f"the server at {self.address} does not accept shared memory: run it on this machine, as this "
                "user, with the same /dev/shm and --allow-client-shm=true, or do without (shared_memory='auto')"
            )
        return shared

    def unshare(self, memory: SharedMemory) -> None:
        """Unregister shared memory from the server, before the memory is closed. Never fails."""
        self._transport.unshare(memory)

    def checked(self, vectors: Array, rows: int) -> Vectors:
        """Check a server's answer for a batch of `rows` -> float32 (rows, D) of norm 1.

        Raises:
            ServerFault: the answer is not that many embeddings.
        """
        expected = (rows, self.card.embedding_dim)
        if vectors.dtype != np.float32 or vectors.shape != expected:
            raise ServerFault(
                f"{self._name} at {self.address} answered {vectors.dtype} {vectors.shape} for {rows} items; "
                f"its card says float32 {expected}"
            )
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # without an array of squares
        if not np.all(np.abs(norms - 1.0) < 1e-2):  # catches NaN too
            raise ServerFault(
                f"{self._name} at {self.address} answered vectors that are not of norm 1: the model is broken"
            )
        return vectors

    def statistics(self, part: Literal["image", "text"]) -> ModelStatistics:
        """Return the server's request counts for one part of the model; zeros if it keeps none."""
        self.require_open()
        return self._transport.statistics(f"{self._name}_{part}", self._timeout_s)

    def require_ready(self, timeout_s: float) -> None:
        """Ask whether the server has the model ready.

        Raises:
            ModelNotFound: it does not.
            ServerError: it does not answer.
        """
        self.require_open()
        ready = self._transport.models(_check_timeout(timeout_s))
        for part in ("image", "text"):
            if f"{self._name}_{part}" not in ready:
                raise ModelNotFound(f"the server at {self.address} does not have {self._name}_{part} ready")

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._closed = True
        self._transport.close()

    def __repr__(self) -> str:
        return f"<clipdex.Client of {self._name!r} at {self.address}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Client:
        self.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def require_open(self) -> None:
        """Raise Closed if the client was closed."""
        if self._closed:
            raise Closed(f"this client of {self.address} is closed: connect again")

    def _submit(
        self, part: str, inputs: dict[str, Array], timeout_s: float | None = None, wait: bool = False
    ) -> Future[Array]:
        self.require_open()
        timeout_s = self._timeout_s if timeout_s is None else _check_timeout(timeout_s)
        return self._transport.submit(f"{self._name}_{part}", inputs, "embedding", timeout_s, wait=wait)


def _require_array(given: object, dtype: type, shape: tuple[int, ...], takes: str) -> None:
    """Raise InvalidArgument unless `given` is an array (N, *shape) of this dtype."""
    if not isinstance(given, np.ndarray) or given.dtype != dtype or given.ndim == 0 or given.shape[1:] != shape:
        expected = f"an array of dtype {np.dtype(dtype)} and shape ({', '.join(map(str, ('N', *shape)))})"
        if isinstance(given, np.ndarray):
            raise InvalidArgument(f"{takes} as {expected}; this one is {given.dtype} {given.shape}")
        raise InvalidArgument(f"{takes} as {expected}, not {type(given).__name__}")


def _not_empty(batch: Array, what: str) -> Array:
    if len(batch) == 0:
        raise InvalidArgument(f"the batch of {what} is empty; expected at least one row")
    return batch


def _check_timeout(timeout_s: float) -> float:
    if not is_number(timeout_s) or not timeout_s > 0:
        raise InvalidArgument(f"timeout_s is {timeout_s!r}; expected a positive number of seconds")
    return timeout_s
