"""Benchmark of an indexing run: where its time goes, and how close it is to decoding and encoding alone."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from clipdex.apps.bench.load import Window
from clipdex.apps.bench.machine import cores
from clipdex.apps.bench.measure_server import Transfer, measure_point, shared_copy
from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument, ServerError, SourceError
from clipdex.base.limits import Limits
from clipdex.base.records import Failure
from clipdex.client.client import Client
from clipdex.model.card import ImageSpec
from clipdex.model.picture_rules import EXACT, DecodeUse, PictureRules
from clipdex.pipeline.decode_worker import NO_HASH, SLOT, decode_file
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.pipeline.report import Progress
from clipdex.sources import Source
from clipdex.sources.scan import FoundFile
from clipdex.wire import RequestTiming

__all__ = [
    "SIZE",
    "Bound",
    "FirstOf",
    "IndexRun",
    "RequestLog",
    "decode_core_s",
    "draw_photo",
    "draw_photos",
    "limiting_stage",
    "measure_index",
]

_SAMPLE = 64
_WARMUP_S = 0.5
_LOOK_AHEAD = 4096

# Stages that are the joining thread's own work.
_JOINING = ("place", "submit", "append", "commit")


class RequestLog:
    """The total time of a client's image requests, for `connect(on_request=...)`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def __call__(self, timing: RequestTiming) -> None:
        """Count a finished request; for one that was retried, its last attempt."""
        if timing.model.endswith("_image"):
            with self._lock:
                self.seconds += timing.attempt_seconds


class FirstOf:
    """A source of the first `count` pictures of another; it reports none as gone."""

    def __init__(self, source: Source, count: int) -> None:
        if count < 1:
            raise InvalidArgument(f"{count} pictures cannot be indexed; expected at least 1")
        self._source = source
        self._count = count

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files in the order of the source."""
        return islice(self._source.files(on_failure), self._count)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return no path."""
        return []

    def nothing_found(self) -> SourceError:
        """Return the error of the source."""
        return self._source.nothing_found()


@dataclass(frozen=True)
class Bound:
    """The upper bound on the images per second of this machine and server.

    decode_core_s: core time to read, decode and resize one picture, with nothing else to do.
    encode_s: server time per picture in full batches, with nothing else to do, before and after the run.
    cores: the cores of this machine.
    kind: "sum": decoding and encoding share the cores, so their times add up; "slower": each has its own
        machine, so the slower one decides.
    """

    decode_core_s: float
    encode_s: float
    cores: int
    kind: Literal["sum", "slower"]

    @property
    def images_per_s(self) -> float:
        """The bound that the run is compared with."""
        decode_s = self.decode_core_s / self.cores
        return 1.0 / (decode_s + self.encode_s if self.kind == "sum" else max(decode_s, self.encode_s))


@dataclass(frozen=True)
class IndexRun:
    """One measured run.

    stage_seconds: busy time by stage. From the run: `scan`; `decode` and `resize`, all workers together;
        `wait_decode` and `wait_embed`, when the joining thread was idle; its own `place`, `submit`, `append`,
        `commit`. From the server's counters: `queue` and `compute`. `wire`: the rest of the requests' latency as
        the client saw it.
    limited_by, limited_share: the stage that was busy for the largest share of the run, and that share. Below
        about a half, no single stage limited it: stages waited for each other, or other programs used the machine.
    mean_batch: rows in an executed batch; 0 if the server does not count.
    """

    pictures: int
    failed: int
    seconds: float
    images_per_s: float
    transfer: str
    workers: int
    stage_seconds: Mapping[str, float]
    limited_by: str
    limited_share: float
    mean_batch: float
    bound: Bound

    @property
    def share_of_bound(self) -> float:
        """images_per_s divided by the bound's."""
        return self.images_per_s / self.bound.images_per_s


def measure_index(
    client: Client,
    source: Source,
    *,
    kind: Literal["sum", "slower"],
    workers: int | None = None,
    encode_seconds: float = 5.0,
    requests: RequestLog | None = None,
    decode: DecodeUse = "exact",
    progress: Callable[[Progress], None] | None = None,
) -> IndexRun:
    """Index a source into a temporary index, which is thrown away, and measure the bound in the same call.

    Args:
        kind: the `Bound.kind`.
        workers: decoding processes; one per core if not given.
        encode_seconds: seconds to measure encoding alone, half before the run and half after it.
        requests: the log given to the client as `on_request`; without it, there is no stage `wire`.
        decode: how large JPEGs are decoded, in the run and in its bound.
        progress: as `index_pictures` calls it.

    Raises:
        SourceError: the source holds no picture, or none of its first ones can be decoded.
        ServerError: as the client raises it.
    """
    half = Window(encode_seconds / 2, requests=2, warmup_seconds=_WARMUP_S)
    encode_before = _encode_s(client, half)
    counted, timed = client.statistics("image"), requests.seconds if requests else 0.0
    with tempfile.TemporaryDirectory(prefix="clipdex-bench-") as directory:
        index = Path(directory) / "x.clipdex"
        report = index_pictures(client, source, index, workers=workers, decode=decode, progress=progress)
    served = client.statistics("image").since(counted)
    latency = requests.seconds - timed if requests else None
    encode_after = _encode_s(client, half)
    if not report.indexed:
        raise SourceError("none of the pictures could be decoded, so there is nothing to measure")
    bound = Bound(
        decode_core_s=decode_core_s(client.card.image, source, PictureRules(decode=decode)),
        encode_s=(encode_before + encode_after) / 2,
        cores=cores(),
        kind=kind,
    )
    seconds = dict(report.stage_seconds)
    if served.requests:
        seconds |= {"queue": served.queue_ns / 1e9, "compute": served.compute_ns / 1e9}
        if latency is not None:
            seconds["wire"] = max(0.0, latency - seconds["queue"] - seconds["compute"])
    run_s = report.indexed / report.images_per_s
    used = workers or cores()
    stage, share = limiting_stage(seconds, run_s, workers=used, in_flight=client.in_flight)
    return IndexRun(
        pictures=report.indexed,
        failed=report.failed,
        seconds=run_s,
        images_per_s=report.images_per_s,
        transfer=report.transfer,
        workers=used,
        stage_seconds=seconds,
        limited_by=stage,
        limited_share=share,
        mean_batch=served.mean_batch,
        bound=bound,
    )


def limiting_stage(
    stage_seconds: Mapping[str, float], seconds: float, *, workers: int, in_flight: int
) -> tuple[str, float]:
    """Return the stage that was busy for the largest share of a run, and that share.

    Parallel work is divided by what does it: decoding and resizing by the workers, computing by the model's
    instances, the wire by the requests in flight, of which there are two for each instance. Waiting is not work.
    """

    def busy(*stages: str) -> float:
        return sum(stage_seconds.get(stage, 0.0) for stage in stages) / seconds

    shares = {
        "scan": busy("scan"),
        "decode + resize": busy("decode", "resize") / workers,
        "compute": busy("compute") / max(1, in_flight // 2),
        "wire": busy("wire") / in_flight,
        " + ".join(_JOINING): busy(*_JOINING),
    }
    return max(shares.items(), key=lambda item: item[1])


def _encode_s(client: Client, window: Window) -> float:
    """Measure the seconds per picture when the server has only full batches of noise to do."""
    size, rows = client.card.image.size, client.max_batch_size
    noise: Array = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    with ExitStack() as stack:
        transfer: Transfer = "wire"
        try:
            noise = stack.enter_context(shared_copy(client, noise))
            transfer = "shared"
        except ServerError:
            if client.shared_memory == "always":
                raise
        return 1.0 / measure_point(client, "image", transfer, noise, rows, client.in_flight, window).rows_per_s


def decode_core_s(spec: ImageSpec, source: Source, rules: PictureRules = EXACT) -> float:
    """Measure the core time to read, decode and resize one picture, on an evenly spread sample."""
    slot = np.empty((1, spec.size, spec.size, 3), dtype=np.uint8)
    files = list(islice(source.files(lambda _: None), _LOOK_AHEAD))
    chosen = files[:: max(1, len(files) // _SAMPLE)]
    requests = [SLOT.pack(0, NO_HASH) + file.request() for file in chosen]
    for request in requests[:2]:  # Pillow loads its decoders on first use
        decode_file(request, slot, spec, Limits(), rules=rules)
    began = time.process_time()
    good = sum(decode_file(request, slot, spec, Limits(), rules=rules)[0] == 0 for request in requests)
    spent = time.process_time() - began
    if not good:
        raise SourceError("none of the first pictures can be decoded, so there is nothing to compare with")
    return spent / good


SIZE = (640, 480)
_QUALITY = 85


def draw_photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Draw an RGB picture: soft light, shapes, and grain, so that its JPEG has about 100 KB, as a photograph's."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        wide, tall = rng.integers(20, 160, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.integers(2) else draw.rectangle
        shape((int(x), int(y), int(x + wide), int(y + tall)), fill=colour)
    grain = rng.normal(0.0, 9.0, (size[1], size[0], 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def draw_photos(folder: Path, count: int, *, first: int = 0, size: tuple[int, int] = SIZE) -> list[Path]:
    """Draw `count` different JPEGs as folder/photo_N.jpg -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo_{seed:06d}.jpg" for seed in range(first, first + count)]
    for seed, path in enumerate(paths, first):
        draw_photo(seed, size).save(path, quality=_QUALITY)
    return paths
