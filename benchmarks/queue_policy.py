"""What a queue policy costs: lone requests that Triton's batcher forgets for half a second.

    .venv-dev/bin/python benchmarks/queue_policy.py [--rounds 5] [--requests 2500]

Two Tritons serve the demo model: one as exported, one with a `default_queue_policy` that bounds its queue. One
thread sends single pictures, each right after the last answer; then 16 threads do. In turn, medians of the rounds;
stalls are counted over all. Figures: docs/performance.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rounds import where

import clipdex
from clipdex_server import LocalTriton

ROOT = Path(__file__).resolve().parent.parent
POLICY = "  default_queue_policy { max_queue_size: 256 }\n"
STALL_S, THREADS = 0.3, 16


def served(stack: ExitStack, policy: str) -> clipdex.Client:
    """A client of a Triton of its own, whose image model has that policy."""
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "repository"
    shutil.copytree(ROOT / "model_repository", copy)
    config = copy / "demo_image" / "config.pbtxt"
    text = re.sub(r"  default_queue_policy \{.*?\n  \}\n", "", config.read_text(), flags=re.S)
    config.write_text(re.sub(r"(max_queue_delay_microseconds: \d+\n)", rf"\g<1>{policy}", text))
    return stack.enter_context(clipdex.connect(stack.enter_context(LocalTriton(copy)).address))


def timed(client: clipdex.Client, pixels: np.ndarray) -> float:
    began = time.perf_counter()
    client.embed_pixels(pixels)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2500, help="a round and side")
    options = parser.parse_args()
    with ExitStack() as stack:
        clients = {"no queue policy": served(stack, ""), "max_queue_size: 256": served(stack, POLICY)}
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        side = next(iter(clients.values())).card.image.size
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        alone: dict[str, list[float]] = {name: [] for name in clients}
        rates: dict[str, list[float]] = {name: [] for name in clients}
        batches: dict[str, list[float]] = {name: [] for name in clients}
        for _ in range(options.rounds):
            for name, client in clients.items():
                alone[name] += [timed(client, pixels) for _ in range(options.requests)]
                before, began = client.statistics("image"), time.perf_counter()
                list(pool.map(lambda _, client=client: timed(client, pixels), range(options.requests)))
                rates[name].append(options.requests / (time.perf_counter() - began))
                batches[name].append(client.statistics("image").since(before).mean_batch)
    print(f"{where()}\n")
    print(f"| | one thread: p50 | p99.9 | longer than {STALL_S} s | {THREADS} threads | mean batch |")
    print("|---|---|---|---|---|---|")
    for name, seconds in alone.items():
        p50, p999 = 1e3 * np.percentile(seconds, (50, 99.9))
        stalls = sum(each > STALL_S for each in seconds)
        print(
            f"| {name} | {p50:.2f} ms | {p999:.0f} ms | {stalls} of {len(seconds):,} "
            f"| {statistics.median(rates[name]):.0f} images/s | {statistics.median(batches[name]):.1f} |"
        )


if __name__ == "__main__":
    main()
