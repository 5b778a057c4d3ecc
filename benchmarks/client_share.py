"""The client's own share of a picture: what a run does in its own process, beside decoding and encoding.

    .venv-dev/bin/python benchmarks/client_share.py [--pictures N] [--transfer wire|shared] [--again] [--parts]

Draws N files, whose content no one reads: the workers decode nothing and answer at once, and a server in a process
of its own answers without computing. So a run's own process does all its real work (scan, look-ups, messages to
and from the workers, placing, requests, appending, commits, the look for what is gone), and its processor time
divided by N is its share of a picture. Workers and server are processes of their own and not counted; on a machine
with fewer cores than processes they slow the clock, and not the processor time. --again indexes the same files
once more, into the same index, where nothing has changed. Last, what appending and committing alone take, in the
commits of 16,384 rows that a run makes. Figures: docs/performance.md, docs/scaling.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import clipdex
from clipdex.apps.bench.machine import this_machine
from clipdex.apps.bench.measure_feed import touch_pictures
from clipdex.apps.bench.stub_worker import stub_decoder
from clipdex.client.client import SharedMemoryUse
from clipdex.index import IndexWriter
from clipdex.pipeline import decode, index_one, run
from clipdex.sources import open_source
from clipdex.wire.rated_server import Rate, rated_server

COMMIT_ROWS, DIM = 16_384, 512


def alone(directory: Path, commits: int = 3) -> tuple[float, float]:
    """Append and commit rows, without a run -> processor time a row of each: medians, in seconds."""
    vectors = np.random.default_rng(0).standard_normal((COMMIT_ROWS, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    appending, committing = [], []
    with clipdex.IndexWriter.open_or_create(directory, clipdex.Manifest("f" * 64, "drawn", DIM)) as writer:
        for number in range(commits):
            first = number * COMMIT_ROWS
            pictures = [
                clipdex.Picture(b"/a/%d.jpg" % i, 10_000, i, i.to_bytes(16, "big"), 640, 480, None)
                for i in range(first, first + COMMIT_ROWS)
            ]
            began = time.process_time()
            for start in range(0, COMMIT_ROWS, 64):
                writer.append(pictures[start : start + 64], vectors[start : start + 64])
            appended = time.process_time()
            writer.commit()
            committing.append((time.process_time() - appended) / COMMIT_ROWS)
            appending.append((appended - began) / COMMIT_ROWS)
    return statistics.median(appending), statistics.median(committing)


def watched() -> dict[str, float]:
    """Note the processor time of a run's parts from now on -> seconds by part, each of its own thread."""
    used: dict[str, float] = {}

    def watch(owner: object, name: str, part: str) -> None:
        act = getattr(owner, name)

        def timed(*args, **options):
            began = time.thread_time()
            try:
                return act(*args, **options)
            finally:
                used[part] = used.get(part, 0.0) + time.thread_time() - began

        setattr(owner, name, timed)

    watch(decode.DecodePool, "_feed", "scan, look-ups, messages to workers")
    watch(decode.DecodePool, "_receive", "answers of workers")
    watch(run.Run, "_place", "place")
    watch(run.Run, "_submit", "submit (gRPC)")
    watch(IndexWriter, "append", "append")
    watch(IndexWriter, "commit", "commit")
    watch(run.Run, "embed_all", "the joining thread, with the four before")
    watch(index_one, "remove_departed", "the look for what is gone")
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="of the model's pictures, in pixels")
    parser.add_argument("--transfer", choices=["wire", "shared"], default="shared")
    parser.add_argument("--again", action="store_true", help="also a second run, over unchanged files")
    parser.add_argument("--parts", action="store_true", help="also the processor time of each part, in its thread")
    asked = parser.parse_args()
    used = watched() if asked.parts else {}
    how: SharedMemoryUse = "always" if asked.transfer == "shared" else "never"
    shares: list[float] = []
    clocks: list[float] = []
    stages: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory, rated_server(Rate(image_size=asked.size)) as address:
        folder = Path(directory) / "pictures"
        touch_pictures(folder, asked.pictures)
        with clipdex.connect(address, shared_memory=how, cache_dir=directory) as client:
            for number in range(asked.rounds):
                index = Path(directory) / f"{number}.clipdex"
                for _ in range(2 if asked.again else 1):
                    used.clear()
                    cpu, clock = time.process_time(), time.monotonic()
                    report = index_one.index_one(
                        client, open_source(folder), index, workers=asked.workers, decoder=stub_decoder()
                    )
                    share = (time.process_time() - cpu) / asked.pictures
                    assert report.discovered == asked.pictures
                    assert not report.failed
                    if report.indexed:
                        shares.append(share)
                        clocks.append((time.monotonic() - clock) / asked.pictures)
                        for stage, seconds in report.stage_seconds.items():
                            stages.setdefault(stage, []).append(seconds / asked.pictures)
                        for part, seconds in used.items():
                            parts.setdefault(part, []).append(seconds / asked.pictures)
                    else:
                        print(f"unchanged: {share * 1e6:.1f} µs of processor time a picture")
        appending, committing = alone(Path(directory) / "alone.clipdex")
    machine = this_machine()
    print(
        f"{asked.pictures:,} pictures by {report.transfer}, {asked.rounds} rounds, {machine.cores} cores of ",
        end="",
    )
    print(f"{machine.cpu}, load {os.getloadavg()[0]:.1f}, {machine.date}")
    told = ", ".join(f"{share * 1e6:.1f}" for share in shares)
    print(f"processor time of the client's process: {statistics.median(shares) * 1e6:.1f} µs a picture ({told})")
    print(f"by the clock: {statistics.median(clocks) * 1e6:.1f} µs a picture")
    print(
        f"alone: appending {appending * 1e6:.1f} µs, committing {committing * 1e6:.1f} µs of processor time a row"
    )
    for part, each in parts.items():
        print(f"  {part:<44} {statistics.median(each) * 1e6:6.1f} µs of processor time")
    for stage, each in stages.items():
        print(f"  {stage:<12} {statistics.median(each) * 1e6:7.1f} µs by the clock")


if __name__ == "__main__":
    main()
