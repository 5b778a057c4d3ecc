"""What a run cannot do for less: the system, NumPy, SQLite and gRPC alone, each for a picture.

    .venv-dev/bin/python benchmarks/client_floor.py

Processor time of this process, the least of some rounds: Python's `os.stat`, a conversion to float16, a
parameter of a statement, SQLite's own inserts of a commit's records, requests of 64 pictures by shared memory with
one and with four in flight, and the start and end of a run. benchmarks/client_share.py measures a whole run.
Figures: docs/performance.md.
"""

import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

import clipdex
from clipdex.apps.bench.machine import this_machine
from clipdex.apps.bench.measure_feed import touch_pictures
from clipdex.apps.bench.stub_worker import stub_decoder
from clipdex.base.arrays import Array
from clipdex.index.rows import RowStore
from clipdex.index.schema import blobs
from clipdex.looks.signature import SIGNATURE_BYTES
from clipdex.pipeline.index_one import index_one
from clipdex.pipeline.ring import open_ring
from clipdex.search.kernels import rounded
from clipdex.sources import open_source
from clipdex.wire.rated_server import Rate, rated_server

ROWS, BATCH, REQUESTS = 16_384, 64, 300


def least(act: Callable[[], object], rounds: int = 5) -> float:
    """Return the least processor time, in seconds."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        act()
        took.append(time.process_time() - began)
    return min(took)


def inserts(directory: Path) -> float:
    """Insert commits of records that are ready into the tables of an index, as SQLite's own loop does it."""
    RowStore.create(directory / "rows.sqlite")
    db = sqlite3.connect(directory / "rows.sqlite", isolation_level=None)
    commits = iter(range(100))

    def commit() -> None:
        first = next(commits) * ROWS
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)", records[first])
        db.executemany("INSERT INTO phashes VALUES (?, ?, 1)", ((row[0], looks) for row in records[first]))
        db.executemany("INSERT INTO ctimes VALUES (?, ?, 1)", ((row[0], row[3]) for row in records[first]))
        db.execute("COMMIT")

    looks = bytearray(SIGNATURE_BYTES)  # as for `blobs`, Python looks for no adapter
    records = {
        first: [
            (
                row,
                *blobs([b"/pictures/%08d.jpg" % row]),
                10_000,
                10**18 + row,
                *blobs([os.urandom(16)]),
                640,
                480,
                1,
            )
            for row in range(first, first + ROWS)
        ]
        for first in range(0, 5 * ROWS, ROWS)
    }
    return least(commit) / ROWS


def binding(form: Callable[[list[bytes]], Sequence[object]]) -> float:
    """Give SQLite paths in a statement that does nothing with them -> seconds for each, `form` included."""
    paths = [b"/pictures/some/%08d.jpg" % number for number in range(250)]
    sql = f"SELECT 0 AND x IN ({', '.join('?' * len(paths))}) FROM (SELECT 1 AS x)"
    db = sqlite3.connect(":memory:")
    took = least(lambda: [db.execute(sql, form(paths)).fetchall() for _ in range(200)]) / (200 * len(paths))
    db.close()
    return took


def requests(client: clipdex.Client, in_flight: int) -> float:
    """Send full batches in shared memory -> seconds for each request."""

    def send() -> None:
        waiting: deque[Future[Array]] = deque()
        for number in range(REQUESTS):
            waiting.append(client.submit_pixels(ring.tray_of(number * BATCH), 60))
            if len(waiting) >= in_flight:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()

    with open_ring(client, 64 << 20) as ring:
        return least(send, 3) / REQUESTS


def main() -> None:
    vectors = np.random.default_rng(0).standard_normal((BATCH, 512), dtype=np.float32)
    with tempfile.TemporaryDirectory() as made, rated_server(Rate(image_size=224)) as address:
        directory = Path(made)
        touch_pictures(directory / "p", 2000)
        touch_pictures(directory / "few", BATCH)
        paths = [file.path for file in open_source(directory / "p").files(print)]
        machine = this_machine()
        print(f"{machine.cores} cores of {machine.cpu}, load {os.getloadavg()[0]:.1f}, {machine.date}")
        print(f"os.stat: {least(lambda: list(map(os.stat, paths))) / len(paths) * 1e6:.1f} µs")
        half = np.dtype(np.float16)
        halves = least(lambda: deque((rounded(vectors, half) for _ in range(100)), maxlen=0)) / (100 * BATCH)
        print(f"float16, 512 numbers: {halves * 1e6:.1f} µs")
        print(f"binding a path: {binding(list) * 1e6:.2f} µs as bytes, {binding(blobs) * 1e6:.2f} as a bytearray")
        print(f"SQLite, the records of a picture: {inserts(directory) * 1e6:.1f} µs")
        with clipdex.connect(address, shared_memory="always", cache_dir=directory) as client:
            for in_flight in (1, 4):
                took = requests(client, in_flight) * 1e6
                print(f"a request, {in_flight} in flight: {took:.0f} µs, {took / BATCH:.1f} µs a picture")
            runs = iter(range(100))

            def run() -> None:
                index = directory / f"{next(runs)}.clipdex"
                index_one(client, open_source(directory / "few"), index, workers=2, decoder=stub_decoder())

            print(f"the start and end of a run: {least(run) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
