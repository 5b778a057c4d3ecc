"""Through Triton: full batches over gRPC and by shared memory, and JPEG files to a committed index."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipdex.apps.bench.load import Window
from clipdex.apps.bench.measure_index import IndexRun, measure_index
from clipdex.apps.bench.measure_server import ServerSettings, measure_server
from clipdex.client.client import Client, connect
from clipdex.sources import open_source
from clipdex_server import LocalTriton
from clipdex_server.triton_binary import find_triton

__all__ = ["backend", "full_batches", "indexed", "serving"]


def backend() -> str:
    """Which ONNX Runtime backend serves: the C++ one of a Triton on PATH, or this project's in Python."""
    return "C++ backend" if find_triton().python_backend is None else "Python-based backend"


@contextmanager
def serving(repository: Path) -> Iterator[Client]:
    """A Triton of its own, and a client of it. Building engines takes minutes."""
    with (
        LocalTriton(repository, stop_timeout_s=0, startup_timeout_s=1800) as server,
        connect(server.address) as client,
    ):
        yield client


def full_batches(client: Client, transfer: str, *, batch: int, seconds: float, repeats: int) -> tuple[float, str]:
    """Images a second with as many full batches in flight as keep the server busy -> that, and a word on it."""
    settings = ServerSettings(
        transfers=(transfer,),  # type: ignore[arg-type]
        batches=(batch,),
        concurrencies=(client.in_flight,),
        window=Window(seconds),
    )
    points = [point for _ in range(repeats) for point in measure_server(client, settings)]
    last = points[-1]
    waited = "" if last.served is None else f", {last.served.compute_ms:.1f} ms a batch in the model"
    return (
        statistics.median(point.rows_per_s for point in points),
        f"{last.concurrency} in flight, p50 {last.latency.p50_ms:.1f} ms{waited}",
    )


def indexed(client: Client, pictures: Path) -> tuple[float, str]:
    """Images a second from JPEG files to a committed index -> that, and a word on it."""
    run: IndexRun = measure_index(client, open_source(pictures), kind="slower")
    return (
        run.images_per_s,
        f"{run.workers} decoding workers, {run.transfer}, limited by {run.limited_by}; "
        f"{100 * run.share_of_bound:.0f} % of the slower of decoding and encoding",
    )
