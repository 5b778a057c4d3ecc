"""Benchmark of the feeding of a GPU, without one: how many pictures a second this machine decodes and hands over.

The server is a process that answers at a given rate and computes nothing (`wire/rated_server.py`). The ceiling is
measured with workers that decode nothing, so that only the client's own process limits it; decoding is measured
with real ones.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from clipdex.apps.bench.machine import cores
from clipdex.apps.bench.measure_index import FirstOf, decode_core_s, draw_photos
from clipdex.apps.bench.measure_server import Transfer
from clipdex.apps.bench.stub_worker import stub_decoder
from clipdex.base.errors import InvalidArgument, SourceError
from clipdex.client.client import Client, SharedMemoryUse, connect
from clipdex.pipeline.decode import DECODER
from clipdex.pipeline.index_one import index_one
from clipdex.pipeline.report import Progress
from clipdex.sources import Source, open_source
from clipdex.wire.rated_server import Rate, rated_server

__all__ = [
    "Ceiling",
    "Decoding",
    "FeedSettings",
    "decoded_pictures",
    "draw_copies",
    "measure_ceiling",
    "measure_decoding",
    "touch_pictures",
]

_PER_FOLDER = 1000
_DRAWN = 4  # different pictures of each size; the others are copies with other bytes behind the picture

_USE: dict[Transfer, SharedMemoryUse] = {"wire": "never", "shared": "always"}

Size = tuple[int, int]


@dataclass(frozen=True)
class FeedSettings:
    """What is measured.

    rate: what the server answers, and how fast. transfers: how pixels go to it, for the ceiling.
    ceiling_pictures: of each run without decoding. pictures: of each run with. workers: decoding processes of
        both; one for each core if not given.
    """

    rate: Rate = field(default_factory=Rate)
    transfers: Sequence[Transfer] = ("shared", "wire")
    ceiling_pictures: int = 20_000
    pictures: int = 256
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("ceiling_pictures", "pictures"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True)
class Ceiling:
    """A run that decodes nothing: the most that one client process hands over.

    bytes_per_s: of pixels. client_core_s: processor time of the client's process for each picture: its inverse is
        about the most that one process can do, however many cores there are. client_cores: how many it kept busy.
    """

    transfer: Transfer
    pictures: int
    seconds: float
    pictures_per_s: float
    requests_per_s: float
    bytes_per_s: float
    client_core_s: float
    client_cores: float


@dataclass(frozen=True)
class Decoding:
    """A run with real decoding, of pictures of one size or of a source.

    size: width and height of drawn pictures; None for a source. decode_core_s: core time to read, decode and
        resize one, measured alone. client_core_s: as in Ceiling. cores: those that this process may use; the rate
        is what they give, with the server beside.
    """

    size: Size | None
    pictures: int
    seconds: float
    pictures_per_s: float
    decode_core_s: float
    client_core_s: float
    cores: int

    def cores_for(self, pictures_per_s: float) -> float:
        """Return the cores that decode so many pictures a second and hand them over."""
        return pictures_per_s * (self.decode_core_s + self.client_core_s)


def measure_ceiling(
    settings: FeedSettings, progress: Callable[[Progress], None] | None = None
) -> Iterator[Ceiling]:
    """Measure one way of transfer after the other.

    Raises:
        ClipdexError: the server does not start, or accepts no shared memory.
    """
    with tempfile.TemporaryDirectory(prefix="clipdex-bench-") as directory:
        folder = Path(directory) / "pictures"
        touch_pictures(folder, settings.ceiling_pictures)
        for transfer in settings.transfers:
            with _client(settings.rate, transfer, directory) as client:
                ran = _run(client, open_source(folder), settings.workers, stub_decoder(), progress)
                requests = client.statistics("image").requests
            yield Ceiling(
                transfer=transfer,
                pictures=ran.pictures,
                seconds=ran.seconds,
                pictures_per_s=ran.pictures / ran.seconds,
                requests_per_s=requests / ran.seconds,
                bytes_per_s=ran.pictures * settings.rate.image_size**2 * 3 / ran.seconds,
                client_core_s=ran.core_s / ran.pictures,
                client_cores=ran.core_s / ran.whole_s,
            )


def measure_decoding(
    settings: FeedSettings,
    source: Source,
    ceiling: Ceiling,
    size: Size | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Decoding:
    """Measure a run over the first pictures of a source, with the transfer of a ceiling.

    Raises:
        SourceError: none of them can be decoded.
        ClipdexError: as `measure_ceiling`.
    """
    first = FirstOf(source, settings.pictures)
    with (
        tempfile.TemporaryDirectory(prefix="clipdex-bench-") as directory,
        _client(settings.rate, ceiling.transfer, directory) as client,
    ):
        each = decode_core_s(client.card.image, first)
        ran = _run(client, first, settings.workers, DECODER, progress)
    return Decoding(
        size=size,
        pictures=ran.pictures,
        seconds=ran.seconds,
        pictures_per_s=ran.pictures / ran.seconds,
        decode_core_s=each,
        client_core_s=ceiling.client_core_s,
        cores=cores(),
    )


def touch_pictures(folder: Path, count: int) -> None:
    """Make empty files with the names of pictures, in folders of a thousand."""
    for first in range(0, count, _PER_FOLDER):
        below = folder / f"{first // _PER_FOLDER:06}"
        below.mkdir(parents=True)
        for number in range(first, min(count, first + _PER_FOLDER)):
            (below / f"picture_{number:08}.jpg").touch()


@contextmanager
def decoded_pictures(size: Size, count: int) -> Iterator[Source]:
    """Draw `count` JPEGs of a size into a temporary folder, in which no two files have the same content."""
    with tempfile.TemporaryDirectory(prefix="clipdex-bench-") as directory:
        draw_copies(Path(directory), size, count)
        yield open_source(Path(directory))


def draw_copies(folder: Path, size: Size, count: int) -> None:
    """Draw a few JPEGs of a size, and copies that differ in a number behind the picture, `count` in all."""
    drawn = draw_photos(folder, min(count, _DRAWN), size=size)
    for number, path in enumerate(islice(cycle(drawn), count - len(drawn))):
        copy = folder / f"copy_{number:06}.jpg"
        shutil.copyfile(path, copy)
        with copy.open("ab") as file:
            file.write(number.to_bytes(8, "little"))


@dataclass(frozen=True)
class _Ran:
    """A run: its pictures, seconds from the first decoded to the last commit, the whole run's, processor time."""

    pictures: int
    seconds: float
    whole_s: float
    core_s: float


def _run(
    client: Client,
    source: Source,
    workers: int | None,
    decoder: Sequence[str],
    progress: Callable[[Progress], None] | None,
) -> _Ran:
    with tempfile.TemporaryDirectory(prefix="clipdex-bench-") as directory:
        core, began = time.process_time(), time.monotonic()
        index = Path(directory) / "x.clipdex"
        report = index_one(client, source, index, workers=workers, decoder=decoder, progress=progress)
        core_s, whole_s = time.process_time() - core, time.monotonic() - began
    if not report.indexed:
        raise SourceError("none of the pictures could be decoded, so there is nothing to measure")
    return _Ran(report.indexed, report.indexed / report.images_per_s, whole_s, core_s)


@contextmanager
def _client(rate: Rate, transfer: Transfer, cache: str) -> Iterator[Client]:
    """Start a server and connect to it. cache: a folder for its tokenizer, so that the user's has none of it."""
    with (
        rated_server(rate) as address,
        connect(address, shared_memory=_USE[transfer], cache_dir=Path(cache) / "cache") as client,
    ):
        yield client
