"""The client's own share of a picture: what a run does in its own process, beside decoding and encoding.

    .venv-dev/bin/python benchmarks/client_share.py [--pictures N] [--transfer wire|shared] [--again] [--parts]
    .venv-dev/bin/python benchmarks/client_share.py --beside CHECKOUT [--rounds 7] [--again]

Draws N files, whose content no one reads: the workers decode nothing and answer at once, and a server in a process
of its own answers without computing. So a run's own process does all its real work (scan, look-ups, messages to
and from the workers, placing, requests, appending, commits, the look for what is gone), and its processor time
divided by N is its share of a picture. Workers and server are processes of their own and not counted; on a machine
with fewer cores than processes they slow the clock, and not the processor time. --again indexes the same files
once more, into the same index, where nothing has changed. Last, what appending and committing alone take, in the
commits of 16,384 rows that a run makes. --beside: this checkout's client and another's take turns, each in a
process of its own; on a busy machine the ratios count. Figures: docs/performance.md, docs/scaling.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class Runs:
    """Runs over the same files. folder: has the files, and a new index for each first run."""

    def __init__(self, client: clipdex.Client, folder: Path, workers: int) -> None:
        self.report: clipdex.RunReport
        self._client, self._folder, self._workers = client, folder, workers
        self._first_runs = 0

    def first(self, pictures: int) -> float:
        """Index so many files anew -> processor time of this process for each, in seconds."""
        files = self._folder / f"{pictures}"
        if not files.exists():
            touch_pictures(files, pictures)
        self._first_runs += 1
        return self._run(pictures, indexed=pictures)

    def again(self, pictures: int) -> float:
        """Index the same files once more, into the same index -> as `first`."""
        return self._run(pictures, indexed=0)

    def _run(self, pictures: int, *, indexed: int) -> float:
        source, index = open_source(self._folder / f"{pictures}"), self._folder / f"{self._first_runs}.clipdex"
        began = time.process_time()
        self.report = index_one.index_one(
            self._client, source, index, workers=self._workers, decoder=stub_decoder()
        )
        took = time.process_time() - began
        assert (self.report.discovered, self.report.indexed, self.report.failed) == (pictures, indexed, 0)
        return took / pictures


@contextmanager
def connected(size: int, transfer: str, workers: int) -> Iterator[Runs]:
    """Start a server in a process of its own, and connect to it."""
    how: SharedMemoryUse = "always" if transfer == "shared" else "never"
    with (
        tempfile.TemporaryDirectory() as directory,
        rated_server(Rate(image_size=size)) as address,
        clipdex.connect(address, shared_memory=how, cache_dir=directory) as client,
    ):
        yield Runs(client, Path(directory), workers)


def serve(asked: argparse.Namespace) -> None:
    """Answer each line with the microseconds of a first run, and of another over the same files."""
    with connected(asked.size, asked.transfer, asked.workers) as runs:
        runs.first(1000)  # what is imported and opened once belongs to no picture
        print(clipdex.__file__, flush=True)
        for _ in sys.stdin:
            first = runs.first(asked.pictures)
            again = runs.again(asked.pictures) if asked.again else 0.0
            print(f"{first * 1e6} {again * 1e6}", flush=True)


def compare(asked: argparse.Namespace) -> None:
    """Let the two checkouts take turns, and print the medians and the medians of the ratios."""
    sides = {"before": asked.beside.resolve(), "after": Path(__file__).resolve().parent.parent}
    servers = {}
    for side, checkout in sides.items():
        servers[side] = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--serve"],
            env=os.environ | {"PYTHONPATH": str(checkout / "client")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        used = answer(servers[side])
        assert Path(used).is_relative_to(checkout), used
    took: dict[str, list[list[float]]] = {side: [] for side in sides}
    for number in range(asked.rounds):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            print("once", file=servers[side].stdin, flush=True)
            took[side].append([float(each) for each in answer(servers[side]).split()])
    for server in servers.values():
        server.communicate()
    machine = this_machine()
    print(f"{asked.pictures:,} pictures, {machine.cores} cores of ", end="")
    print(f"{machine.cpu}, load {os.getloadavg()[0]:.1f}, {machine.date}")
    for i, what in enumerate(["first run", "nothing has changed"][: 1 + asked.again]):
        before, after = ([each[i] for each in took[side]] for side in ("before", "after"))
        ratios = [new / old for old, new in zip(before, after, strict=True)]
        medians = " -> ".join(f"{statistics.median(each):.1f}" for each in (before, after))
        print(f"{what}: {medians} µs of processor time a picture")
        for side, each in (("before", before), ("after", after)):
            print(f"  {side:<7}", " ".join(f"{took:6.1f}" for took in each))
        print(f"  after / before {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


def answer(server: subprocess.Popen) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="of the model's pictures, in pixels")
    parser.add_argument("--transfer", choices=["wire", "shared"], default="shared")
    parser.add_argument("--again", action="store_true", help="also a second run, over unchanged files")
    parser.add_argument("--parts", action="store_true", help="also the processor time of each part, in its thread")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="compare with its client, in turns")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked)
    elif asked.beside:
        compare(asked)
    else:
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """Measure this checkout alone, and print what its runs say of themselves."""
    used = watched() if asked.parts else {}
    shares: list[float] = []
    clocks: list[float] = []
    stages: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {}
    with connected(asked.size, asked.transfer, asked.workers) as runs:
        for _ in range(asked.rounds):
            used.clear()
            shares.append(runs.first(asked.pictures))
            clocks.append(runs.report.seconds / asked.pictures)
            for stage, seconds in runs.report.stage_seconds.items():
                stages.setdefault(stage, []).append(seconds / asked.pictures)
            for part, seconds in used.items():
                parts.setdefault(part, []).append(seconds / asked.pictures)
            if asked.again:
                print(f"unchanged: {runs.again(asked.pictures) * 1e6:.1f} µs of processor time a picture")
    with tempfile.TemporaryDirectory() as directory:
        appending, committing = alone(Path(directory) / "alone.clipdex")
    machine = this_machine()
    print(
        f"{asked.pictures:,} pictures by {runs.report.transfer}, {asked.rounds} rounds, {machine.cores} cores of ",
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
