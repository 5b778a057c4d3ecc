"""What the server's queue delay costs a lone picture, and what it buys many threads that each send one.

    .venv-dev/bin/python benchmarks/queue_delay.py [REPOSITORY MODEL] [--delays 0,100,500,2000] [--rounds 7]

One Triton for each delay, and the model in this process beside them, asked in turn. "Added" is the median of the
differences to the model in this process (`inproc:`), each taken within a second.
Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from random_clip import edited
from rounds import where

import clipdex
from clipdex_server import LocalTriton

ROOT = Path(__file__).resolve().parent.parent
LONE, THREADS, MANY = 10, 16, 160
IN_PROCESS = "in process"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", type=Path, default=ROOT / "model_repository")
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--delays", default="0,100,500,2000", help="microseconds")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    repository, name = options.repository, options.model
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients = {}
        for delay in map(int, options.delays.split(",")):
            copy = edited(repository, scratch / str(delay), delay_us=delay)
            server = stack.enter_context(LocalTriton(copy, stop_timeout_s=0))
            clients[f"{delay} µs"] = stack.enter_context(clipdex.connect(server.address, model=name))
        clients[IN_PROCESS] = stack.enter_context(clipdex.connect(f"inproc:{repository}", model=name))
        side = clients[IN_PROCESS].card.image.size
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        file = next((repository / f"{name}_image").glob("*/model.onnx"))
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        ask = {key: partial(client.embed_pixels, pixels) for key, client in clients.items()}
        ask["onnxruntime alone"] = partial(session.run, ["embedding"], {"pixels": pixels})
        waited: dict[str, list[float]] = {key: [] for key in ask}
        together: dict[str, list[float]] = {key: [] for key in clients}
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        for _ in range(options.rounds):
            # A shared machine's speed drifts: all are asked within the same second, over and over.
            for _ in range(LONE):
                for key in random.sample(list(ask), len(ask)):
                    ask[key]()
                    waited[key].append(statistics.median(timed(ask[key]) for _ in range(3)))
            for key, client in clients.items():
                start = time.perf_counter()
                list(pool.map(lambda _, client=client: client.embed_pixels(pixels), range(MANY)))
                together[key].append(MANY / (time.perf_counter() - start))
    print(f"{name}; {where()}\n")
    print(f"| queue delay | one picture, p50 | added | {THREADS} threads, pictures/s |\n|---|---|---|---|")
    for key in ask:
        p50 = statistics.median(waited[key])
        added = statistics.median(a - b for a, b in zip(waited[key], waited[IN_PROCESS], strict=True))
        rate = f"{statistics.median(together[key]):.0f}" if key in together else ""
        print(f"| {key} | {1e3 * p50:.2f} ms | {1e3 * added:.2f} ms | {rate} |")


def timed(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
