"""What it costs and buys that onnxruntime's threads spin while they wait, in the Python-based backend.

    .venv-dev/bin/python benchmarks/spinning.py [--shape vit_b_32] [--pictures 96] [--rounds 5] [--only WORD]

One Triton for each way to wait, and the model in this process beside them, in turn: one picture at a time, full
batches, image batches while another thread sends one text after the other, and JPEG files to a committed index
with the decode workers on the same cores. Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from random_clip import edited, random_clip
from rounds import Sample, alternate, where

import clipdex
from clipdex.apps.bench.measure_index import draw_photos
from clipdex_server import LocalTriton

BATCH, LONE = 32, 20
# What onnxruntime's session options are called; see the backend's _WAITING.
WAYS: Mapping[str, Mapping[str, str]] = {
    "no spinning": {"session.intra_op.allow_spinning": "0"},
    "spinning, as onnxruntime does": {
        "session.force_spinning_stop": "0",
        "session.intra_op.spin_duration_us": "-1",
    },
    "within a run": {"session.force_spinning_stop": "1", "session.intra_op.spin_duration_us": "-1"},
    "within a run, 1 ms at most": {},
}
IN_PROCESS = "in process"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="what has this word in its title: picture, texts, JPEG")
    options = parser.parse_args()
    _, repository = random_clip(options.shape)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        draw_photos(scratch / "photos", options.pictures)
        clients = {}
        for number, (way, parameters) in enumerate(WAYS.items()):
            copy = edited(repository, scratch / str(number), max_batch_size=BATCH, parameters=parameters)
            server = stack.enter_context(LocalTriton(copy, stop_timeout_s=0))
            clients[way] = stack.enter_context(clipdex.connect(server.address))
        clients[IN_PROCESS] = stack.enter_context(clipdex.connect(f"inproc:{repository}"))
        print(f"{options.shape}, batches of {BATCH}; {where()}\n")
        for what, side, ways in (
            ("one picture, ms (p50)", lone, [*WAYS, IN_PROCESS]),
            ("full batches, images/s", full, [*WAYS, IN_PROCESS]),
            ("full batches beside texts, images/s", beside_texts, list(WAYS)),
            ("JPEG files to an index, images/s", partial(indexed, scratch), list(WAYS)),
        ):
            if options.only in what:
                compare(what, side, {way: clients[way] for way in ways}, options.rounds)


def compare(
    what: str, side: Callable[[clipdex.Client], Sample], clients: Mapping[str, clipdex.Client], rounds: int
) -> None:
    found = alternate({way: partial(side, client) for way, client in clients.items()}, rounds=rounds)
    first = next(iter(clients))
    print(f"| {what} | | ÷ {first} |\n|---|---|---|")
    for way in clients:
        rate = found.rate(way)
        shown = f"{1e3 / rate:.1f}" if side is lone else f"{rate:.1f}"
        print(f"| {way} | {shown} | {found.ratio(way, first)} |")
    print(f"\n{found.remark()}\n", flush=True)


def lone(client: clipdex.Client) -> Sample:
    """One over the median latency."""
    pixels = noise(client, 1)
    seconds = []
    for _ in range(LONE):
        began = time.perf_counter()
        client.embed_pixels(pixels)
        seconds.append(time.perf_counter() - began)
    return Sample(1 / statistics.median(seconds), LONE)


def full(client: clipdex.Client) -> Sample:
    pixels = noise(client, 3 * BATCH)
    began = time.perf_counter()
    client.embed_pixels(pixels)
    return Sample(len(pixels) / (time.perf_counter() - began), len(pixels))


def beside_texts(client: clipdex.Client) -> Sample:
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            client.embed_texts(["a photo of a cat"])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return full(client)
    finally:
        over.set()
        asking.join()


def indexed(scratch: Path, client: clipdex.Client) -> Sample:
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        began = time.perf_counter()
        report = clipdex.index_pictures(client, scratch / "photos", Path(directory) / "it.clipdex")
        return Sample(report.indexed / (time.perf_counter() - began), report.indexed)


def noise(client: clipdex.Client, count: int) -> np.ndarray:
    side = client.card.image.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


if __name__ == "__main__":
    main()
