"""What the server's queue delay costs a lone picture, and what it buys many threads that each send one.

    .venv-dev/bin/python benchmarks/queue_delay.py [REPOSITORY MODEL] [--delays 0,100,200,500,2000] [--rounds 7]

One Triton for each delay, and the model in this process beside them, asked in turn: medians of the rounds.
Figures: docs/performance.md.
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

import clipdex
from clipdex_server import LocalTriton

ROOT = Path(__file__).resolve().parent.parent
LONE, THREADS, MANY = 40, 16, 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", type=Path, default=ROOT / "model_repository")
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--delays", default="0,100,200,500,2000", help="microseconds")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    repository, name = options.repository, options.model
    with ExitStack() as stack:
        clients = {
            f"{delay} µs": stack.enter_context(clipdex.connect(served(stack, repository, name, delay), model=name))
            for delay in map(int, options.delays.split(","))
        }
        clients["in process"] = stack.enter_context(clipdex.connect(f"inproc:{repository}", model=name))
        side = clients["in process"].card.image.size
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        alone: dict[str, list[float]] = {key: [] for key in clients}
        together: dict[str, list[float]] = {key: [] for key in clients}
        for _ in range(options.rounds):
            for key, client in clients.items():
                alone[key].append(statistics.median(timed(client, pixels) for _ in range(LONE)))
                start = time.perf_counter()
                list(pool.map(lambda _, client=client: client.embed_pixels(pixels), range(MANY)))
                together[key].append(MANY / (time.perf_counter() - start))
    base = statistics.median(alone["in process"])
    print(f"| queue delay | one picture, p50 | added | {THREADS} threads, pictures/s |\n|---|---|---|---|")
    for key in clients:
        p50 = statistics.median(alone[key])
        rate = statistics.median(together[key])
        print(f"| {key} | {1e3 * p50:.2f} ms | {1e3 * (p50 - base):.2f} ms | {rate:.0f} |")


def served(stack: ExitStack, repository: Path, name: str, delay_us: int) -> str:
    """The address of a Triton of its own, whose image model waits that long."""
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "repository"
    copy.mkdir()
    for part in ("image", "text", "assets"):
        shutil.copytree(repository / f"{name}_{part}", copy / f"{name}_{part}")
    config = copy / f"{name}_image" / "config.pbtxt"
    stated = re.sub(r"(max_queue_delay_microseconds:) \d+", rf"\1 {delay_us}", config.read_text())
    config.write_text(stated)
    return stack.enter_context(LocalTriton(copy, stop_timeout_s=0)).address


def timed(client: clipdex.Client, pixels: np.ndarray) -> float:
    start = time.perf_counter()
    client.embed_pixels(pixels)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
