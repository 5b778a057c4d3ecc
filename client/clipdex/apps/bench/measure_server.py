"""Benchmark of a server: throughput and latency by part, way of transfer, batch size and concurrency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from clipdex.apps.bench.load import Latency, Load, Window, run_load
from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument, ServerError
from clipdex.client.client import Client
from clipdex.wire import SharedMemory
from clipdex.wire.transport import ModelStatistics

__all__ = [
    "Part",
    "Point",
    "Served",
    "ServerSettings",
    "Transfer",
    "measure_point",
    "measure_server",
    "shared_copy",
]

Part = Literal["image", "text"]
Transfer = Literal["wire", "shared"]

# Consecutive requests carry different rows, so that no cache of the server answers instead of the model.
_DISTINCT = 8


@dataclass(frozen=True)
class ServerSettings:
    """The settings to measure, all combined. batches: rows per request. concurrencies: requests in flight."""

    parts: Sequence[Part] = ("image",)
    transfers: Sequence[Transfer] = ("wire",)
    batches: Sequence[int] = (1, 8, 64)
    concurrencies: Sequence[int] = (1, 2, 4)
    window: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        for name in ("parts", "transfers", "batches", "concurrencies"):
            if not getattr(self, name):
                raise InvalidArgument(f"there is nothing to measure: {name} is empty")
        for what, numbers in (("batch", self.batches), ("concurrency", self.concurrencies)):
            for number in numbers:
                if number < 1:
                    raise InvalidArgument(f"a {what} of {number} cannot be measured; expected at least 1")

    @property
    def points(self) -> int:
        """The number of combinations."""
        return len(self.parts) * len(self.transfers) * len(self.batches) * len(self.concurrencies)


@dataclass(frozen=True)
class Served:
    """The server's own counters for a measurement.

    mean_batch: rows in an executed batch. queue_ms, compute_ms: a request's mean time in the queue, and in the
        model, copies included.
    """

    mean_batch: float
    queue_ms: float
    compute_ms: float

    @classmethod
    def of(cls, counted: ModelStatistics) -> Served | None:
        """Average the counters; None if the server does not count."""
        if counted.requests < 1:
            return None
        each = 1e-6 / counted.requests
        return cls(counted.mean_batch, counted.queue_ns * each, counted.compute_ns * each)


@dataclass(frozen=True)
class Point:
    """The measurement of one combination. rows_per_s: pictures or texts per second."""

    part: Part
    transfer: Transfer
    batch: int
    concurrency: int
    rows_per_s: float
    seconds: float
    requests: int
    latency: Latency
    served: Served | None


def measure_server(client: Client, settings: ServerSettings) -> Iterator[Point]:
    """Measure one combination after the other.

    Raises:
        InvalidArgument: a batch is larger than the server accepts.
        ServerError: the server failed, or does not accept the shared memory asked for.
    """
    for part in settings.parts:
        most = _most_rows(client, part)
        too_large = [batch for batch in settings.batches if batch > most]
        if too_large:
            raise InvalidArgument(
                f"a batch of {too_large[0]} is more than the {most} rows that {client.card.name}_{part} "
                "accepts per request"
            )
    for part in settings.parts:
        rows = max(settings.batches) + _DISTINCT - 1
        for transfer in settings.transfers:
            with _payload(client, part, transfer, rows) as payload:
                for batch in settings.batches:
                    for concurrency in settings.concurrencies:
                        yield measure_point(client, part, transfer, payload, batch, concurrency, settings.window)


def measure_point(
    client: Client,
    part: Part,
    transfer: Transfer,
    payload: Array,
    batch: int,
    concurrency: int,
    window: Window,
) -> Point:
    """Measure one combination. payload: rows to send, at least `batch`; requests take different ones in turn."""
    send = client.submit_pixels if part == "image" else client.submit_tokens
    starts = len(payload) - batch + 1
    counted: list[ModelStatistics] = []

    def count() -> None:
        counted.append(client.statistics(part))

    load: Load = run_load(
        lambda n: send(payload[n % starts : n % starts + batch]),
        concurrency,
        window,
        checked=lambda answer: client.checked(answer, batch),
        opened=count,
        closed=count,
    )
    before, after = counted
    return Point(
        part=part,
        transfer=transfer,
        batch=batch,
        concurrency=concurrency,
        rows_per_s=load.requests_per_s * batch,
        seconds=load.seconds,
        requests=load.requests,
        latency=load.latency,
        served=Served.of(after.since(before)),
    )


def _most_rows(client: Client, part: Part) -> int:
    return client.max_batch_size if part == "image" else client.max_texts


@contextmanager
def _payload(client: Client, part: Part, transfer: Transfer, rows: int) -> Iterator[Array]:
    """Yield noise for the image part, uint8 (rows, S, S, 3), or sentences' tokens for text, int32 (rows, L)."""
    if part == "image":
        size = client.card.image.size
        drawn: Array = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    else:
        drawn = client.tokenize([f"a photo of {n} red cats on a couch" for n in range(rows)])
    if transfer == "wire":
        yield drawn
        return
    with shared_copy(client, drawn) as copy:
        yield copy


@contextmanager
def shared_copy(client: Client, array: Array) -> Iterator[Array]:
    """Yield a copy of the array in memory that the server reads in place.

    Raises:
        ServerError: the server does not, or this machine has no room in /dev/shm.
    """
    try:
        memory = SharedMemory(array.nbytes, named=True)
    except OSError as exc:
        raise ServerError(
            f"there is no room for {array.nbytes >> 20} MiB in /dev/shm ({exc.strerror}): "
            "measure smaller batches, or over the wire only"
        ) from exc
    with memory:
        if not client.share(memory):
            raise ServerError(
                f"the server at {client.address} accepts no shared memory from here: measure over the wire only"
            )
        try:
            copy = memory.array.view(array.dtype).reshape(array.shape)
            copy[:] = array
            yield copy
        finally:
            client.unshare(memory)
