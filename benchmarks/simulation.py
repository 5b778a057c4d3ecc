"""What limits a run on a machine with a GPU, and how it scales: a simulation, not a measurement.

    .venv-dev/bin/python benchmarks/simulation.py [--pictures N] [--plot FILE] [--check]

A discrete event simulation of `clipdex index`: decoders, the ring and its trays, the client's own work, requests
in flight, the server, the commits. No picture is decoded and no GPU computes. Taken from the code: the ring's
trays, the requests in flight, when rows are committed. Measured: core time to decode a picture, the client's
processor time for it, the time of a commit. Computed: what a GPU encodes, at a share of its peak that others have
published. Drawn: each picture's time to decode, around its mean.

Beside it stands a queueing model on paper: the least of what decoders, client and GPU could do alone. --check
compares the simulation with real runs, through the real client, of decoders that sleep and a server that waits.
Figures: docs/scaling.md.
"""

import argparse
import heapq
import random
from collections import deque
from dataclasses import dataclass

from clipdex.pipeline.ring import _AHEAD as TRAYS_AHEAD
from clipdex.pipeline.run import _COMMIT_ROWS, _COMMIT_S

BATCH = 64  # max_batch_size of an export
INSTANCES = 2
DECODE_S = 6.5e-3  # core time of a 640 × 480 JPEG: benchmarks/decode_sizes.py
CLIENT_S = 44e-6  # the client's process, for each picture, commits apart: benchmarks/client_share.py
COMMIT_ROW_S = 18e-6  # a commit, for each of its rows, in which the joining thread does nothing else
SPREAD = 0.5  # standard deviation of a picture's decoding time, as a share of its mean

# An H200's matrix product in bfloat16, and the best use of a GPU that was published for such encoders.
PEAK, USE = 790e12, 0.77
FLOPS = {"ViT-B/32": 8.8e9, "ViT-B/16": 35.1e9, "ViT-L/14": 162e9}  # of a picture, by open_clip's profile
GPUS = {name: PEAK * USE / each for name, each in FLOPS.items()}


@dataclass(frozen=True)
class Machine:
    """decoders: cores that decode. decode_s, client_s: seconds a picture. gpu_per_s: pictures a second."""

    decoders: int
    gpu_per_s: float
    decode_s: float = DECODE_S
    client_s: float = CLIENT_S
    commit_row_s: float = COMMIT_ROW_S
    instances: int = INSTANCES
    batch: int = BATCH
    spread: float = SPREAD


@dataclass(frozen=True)
class Result:
    """pictures_per_s; the share of the time in which decoders, client and GPU worked."""

    pictures_per_s: float
    decoders_busy: float
    client_busy: float
    gpu_busy: float


def simulate(machine: Machine, pictures: int, seed: int = 0) -> Result:
    """Go through a run, event by event."""
    m, rng = machine, random.Random(seed)
    in_flight = 2 * m.instances
    trays = in_flight + TRAYS_AHEAD
    # A gamma distribution of this mean and spread.
    shape = 1 / m.spread**2 if m.spread else 0.0
    draw = (lambda: rng.gammavariate(shape, m.decode_s / shape)) if shape else (lambda: m.decode_s)

    decoders = [(0.0, n) for n in range(m.decoders)]  # when each is free
    heapq.heapify(decoders)
    instances = [0.0] * m.instances
    client_free = decode_work = client_work = gpu_work = committed_at = 0.0
    uncommitted = 0
    released: deque[float] = deque([0.0] * trays)  # when each tray may be filled again, in the order of use
    flying: deque[tuple[float, int]] = deque()  # (when it is answered, pictures), in the order of sending

    def append() -> None:
        """Wait for the oldest request, append its rows, perhaps commit, and release its tray."""
        nonlocal client_free, client_work, uncommitted, committed_at
        answered, rows = flying.popleft()
        client_free = max(client_free, answered)
        uncommitted += rows
        if uncommitted >= _COMMIT_ROWS or client_free - committed_at >= _COMMIT_S:
            took = uncommitted * m.commit_row_s
            client_free += took
            client_work += took
            uncommitted, committed_at = 0, client_free
        released.append(client_free)

    for first in range(0, pictures, m.batch):
        rows = min(m.batch, pictures - first)
        room = released.popleft()
        done = 0.0
        for _ in range(rows):
            free, n = heapq.heappop(decoders)
            took = draw()
            ended = max(free, room) + took
            decode_work += took
            done = max(done, ended)
            heapq.heappush(decoders, (ended, n))
        # The client's work on a picture follows its decoding; that on a tray ends after the last.
        client_free = max(client_free + rows * m.client_s, done + m.client_s)
        client_work += rows * m.client_s
        at = min(range(m.instances), key=instances.__getitem__)
        takes = rows * m.instances / m.gpu_per_s  # instances share the GPU
        instances[at] = max(instances[at], client_free) + takes
        gpu_work += rows / m.gpu_per_s
        flying.append((instances[at], rows))
        if len(flying) >= in_flight:
            append()
    while flying:
        append()
    end = client_free + uncommitted * m.commit_row_s
    return Result(pictures / end, decode_work / end / m.decoders, client_work / end, gpu_work / end)


def on_paper(machine: Machine) -> tuple[float, str]:
    """The rate of the slowest stage alone, and its name: what no schedule of a closed queueing network exceeds."""
    m = machine
    alone = {
        "decoders": m.decoders / m.decode_s,
        "client": 1 / (m.client_s + m.commit_row_s),
        "GPU": m.gpu_per_s,
    }
    slowest = min(alone, key=alone.__getitem__)
    return alone[slowest], slowest


def check(decoders: int, decode_s: float, gpu_per_s: float, pictures: int) -> None:
    """A real run with decoders that sleep and a server that waits, against the simulation of the same."""
    import tempfile
    from pathlib import Path

    import clipdex
    from clipdex.apps.bench.measure_feed import touch_pictures
    from clipdex.apps.bench.stub_worker import stub_decoder
    from clipdex.pipeline.index_one import index_one
    from clipdex.sources import open_source
    from clipdex.wire.rated_server import Rate, rated_server

    rate = Rate(gpu_per_s, instances=INSTANCES, max_batch_size=BATCH, image_size=32)
    with tempfile.TemporaryDirectory() as directory, rated_server(rate) as address:
        touch_pictures(Path(directory) / "p", pictures)
        with clipdex.connect(address, cache_dir=directory) as client:
            source, index = open_source(Path(directory) / "p"), Path(directory) / "x.clipdex"
            report = index_one(client, source, index, workers=decoders, decoder=stub_decoder(decode_s))
    machine = Machine(decoders, gpu_per_s, decode_s, spread=0.0)
    said = simulate(machine, pictures).pictures_per_s
    paper, what = on_paper(machine)
    print(
        f"{decoders} decoders of {decode_s * 1e3:g} ms, a GPU of {gpu_per_s:,.0f}/s: "
        f"real {report.images_per_s:,.0f}/s, "
        f"simulated {said:,.0f}/s ({report.images_per_s / said:.2f}), on paper {paper:,.0f}/s ({what})"
    )


def plot(file: str, lines: dict[str, list[tuple[int, float, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        (drawn,) = axes.plot([p[0] for p in points], [p[1] for p in points], "o-", label=f"{name}, simulated")
        axes.plot([p[0] for p in points], [p[2] for p in points], "--", color=drawn.get_color(), alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks([p[0] for p in points], [str(p[0]) for p in points])
    axes.set_yscale("log")
    axes.set_xlabel("cores that decode 640 × 480 JPEGs")
    axes.set_ylabel("pictures a second (dashed: on paper)")
    axes.set_title("Simulated, not measured: a run on one GPU")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument(
        "--decoders", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8, 16, 32]
    )
    parser.add_argument("--plot")
    parser.add_argument("--check", action="store_true", help="against real runs with sleeping decoders")
    asked = parser.parse_args()
    if asked.check:
        for decoders, decode_s, rate in ((2, 0.02, 3500.0), (8, 0.04, 3500.0), (8, 0.01, 300.0)):
            check(decoders, decode_s, rate, 4000)
        return
    lines: dict[str, list[tuple[int, float, float]]] = {}
    print(
        "SIMULATED. Pictures a second; in brackets the rate on paper, what limits it, and how long the GPU worked."
    )
    for name, rate in GPUS.items():
        for decoders in asked.decoders:
            machine = Machine(decoders, rate)
            found = simulate(machine, asked.pictures)
            paper, what = on_paper(machine)
            lines.setdefault(name, []).append((decoders, found.pictures_per_s, paper))
            print(
                f"{name:9} {decoders:3} decoders {found.pictures_per_s:9,.0f} ({paper:9,.0f}, {what:8}) "
                f"GPU {found.gpu_busy:4.0%} client {found.client_busy:4.0%} decoders {found.decoders_busy:4.0%}"
            )
    print("\nON PAPER. 10^9 pictures: GPU hours if the GPU is kept busy, core hours of decoding and of clients.")
    for name, rate in GPUS.items():
        gpu_h = 1e9 / rate / 3600
        decode_h, client_h = 1e9 * DECODE_S / 3600, 1e9 * (CLIENT_S + COMMIT_ROW_S) / 3600
        cores = rate * (DECODE_S + CLIENT_S + COMMIT_ROW_S)
        clients = rate * (CLIENT_S + COMMIT_ROW_S)
        print(
            f"{name:9} GPU hours {gpu_h:7,.1f}, core hours {decode_h:,.0f} + {client_h:,.0f}; "
            f"cores for each GPU {cores:,.0f}, client processes {clients:.2f}"
        )
    if asked.plot:
        plot(asked.plot, lines)


if __name__ == "__main__":
    main()
