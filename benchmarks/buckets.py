"""Indexing from a bucket against the same pictures on this machine, in turns: what a request's time costs.

.venv-dev/bin/python benchmarks/buckets.py [--pictures 5000] [--ms 20] [--fetches 64] [--rounds 3]

The bucket is tests/s3_server.py in a process of its own, which waits before each answer: a stand-in for S3 that
takes CPU time from the decoders, on the same machine. The model is the fake server, which answers at once: the
rate is the decoders'.
"""

import argparse
import io
import multiprocessing
import os
import statistics
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from s3_server import BUCKET, S3Server

import clipdex
from clipdex.sources.opening import open_source
from clipdex.wire import FakeTransport


def draw(folder: Path, count: int, side: int) -> None:
    """Draw smooth pictures of a photograph's size and detail, as JPEG."""
    random = np.random.default_rng(1)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        (folder / f"{number:06}.jpg").write_bytes(buffer.getvalue())


def serve(folder: str, ms: float, pipe: Connection) -> None:
    with S3Server(latency_s=ms / 1000) as server:
        for path in sorted(Path(folder).iterdir()):
            server.put(f"in/{path.name}", path.read_bytes())
        pipe.send(server.environment)
        pipe.recv()


def rate(source: str | Path, fetches: int, expected: int) -> float:
    """Index into a new index -> pictures per second, from the first decoded."""
    with tempfile.TemporaryDirectory() as name, clipdex.Client(FakeTransport(image_size=224)) as client:
        report = clipdex.index_pictures(client, open_source(source, fetches=fetches), Path(name) / "x.clipdex")
    assert (report.indexed, report.failed) == (expected, 0), report
    return report.images_per_s


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--side", type=int, default=480, help="height of a picture")
    parser.add_argument("--ms", type=float, default=20.0, help="before each answer of the bucket")
    parser.add_argument("--fetches", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, asked.pictures, asked.side)
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(name, asked.ms, there))
        server.start()
        try:
            os.environ.update(here.recv())
            rates: dict[str, list[float]] = {}
            for _ in range(asked.rounds):
                rates.setdefault("local", []).append(rate(folder, 1, asked.pictures))
                for fetches in asked.fetches:
                    found = rate(f"s3://{BUCKET}/in", fetches, asked.pictures)
                    rates.setdefault(f"bucket, {fetches} at a time", []).append(found)
        finally:
            here.send(None)
            server.join()
    local = statistics.median(rates["local"])
    for what, all_of in rates.items():
        middle = statistics.median(all_of)
        each = ", ".join(f"{one:,.0f}" for one in all_of)
        print(f"{what}: {middle:,.0f} pictures/s, {middle / local:.2f} of local  ({each})")
