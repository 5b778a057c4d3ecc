"""SIGKILL at random moments: of a writer, and of a whole indexing run with its decoding processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from proofs.runs import check_run, commit_often_and_note_it, draw
from proofs.workload import MANIFEST, PHASES, Expected, Shared, check, held, write

import clipdex
from clipdex.index import Index, IndexWriter, Picture, compact_index
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.wire import FakeTransport

# An index grows for so many kills; then the next one is made, so that kills fall into its making as well.
KILLS_AN_INDEX = 25


def kill_writers(directory: Path, kills: int, rng: Random) -> tuple[Counter[str], int]:
    """-> (how many kills fell into which phase, how many steps were written)."""
    phases: Counter[str] = Counter()
    shared, expected, total = Shared(), Expected(), 0
    index = directory / "killed.clipdex"
    for kill in range(kills):
        if kill % KILLS_AN_INDEX == 0:
            shutil.rmtree(index, ignore_errors=True)
            shared.set("acknowledged", 0)
        is_new = kill % KILLS_AN_INDEX == 0
        shared.set("phase", PHASES.index("opening"))
        kill_after(
            rng.uniform(0, 0.02),
            lambda: write_for_ever(index, Random(rng.random()), shared),
            shared.after(rng.randrange(2 if is_new else 20)),
        )
        phases[PHASES[shared.get("phase")]] += 1
        acknowledged = shared.get("acknowledged")
        if not index.exists() and acknowledged == 0:
            continue  # killed before there was an index
        steps = check(index, acknowledged, expected)  # as a reader finds it, before any writer has cleaned up
        with IndexWriter(index) as writer:
            assert (index / "vectors.f16").stat().st_size == writer.committed_rows * MANIFEST.row_bytes
        assert check(index, steps, expected) == steps
        shared.set("acknowledged", steps)
        leftovers = [path.name for path in directory.iterdir() if path != index]
        assert not leftovers, f"left behind: {leftovers}"
        if (kill + 1) % KILLS_AN_INDEX == 0 or kill + 1 == kills:
            total += steps
    return phases, total


def write_for_ever(index: Path, rng: Random, shared: Shared) -> None:
    """Open, commit, close, and sometimes compact, until somebody ends it."""
    while True:
        write(index, rng, shared, commits=rng.randint(1, 10))
        if rng.random() < 0.3:
            shared.set("phase", PHASES.index("compacting"))
            compact_index(index)


def kill_after(seconds: float, work: Callable[[], None], ready: Callable[[], bool] = lambda: True) -> None:
    """Do some work in a child process, the leader of a session, and end it from outside.

    ready: the seconds begin when it is; a busy machine takes its time to start a process.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(3)
    deadline = time.monotonic() + 600
    while not ready():
        assert time.monotonic() < deadline, "the child does not come to its work"
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself with status {os.waitstatus_to_exitcode(status)}"
    _await_end_of_session(child)


def _await_end_of_session(leader: int) -> None:
    """The decoding processes of a killed run end by themselves."""
    deadline = time.monotonic() + 60
    while left := [pid for pid in _processes() if _session(pid) == leader]:
        assert time.monotonic() < deadline, f"processes left of a killed run: {left}"
        time.sleep(0.01)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def kill_runs(directory: Path, kills: int, pictures: int, rng: Random) -> tuple[int, int]:
    """SIGKILLs of `index_pictures` over a folder -> (kills, indexes that became whole meanwhile)."""
    folder, index = directory / "pictures", directory / "run.clipdex"
    written = draw(folder, pictures, 8)
    shared, killed, finished = Shared(), 0, 0
    while killed < kills:
        kill_after(rng.uniform(0.2, 2.5), lambda: _index_for_ever(folder, index, shared))
        killed += 1
        acknowledged = shared.get("acknowledged")
        if not index.exists():
            assert acknowledged == 0
            continue
        held_now = check_run(index, written, acknowledged)
        if held_now == pictures:
            finished += 1
            shutil.rmtree(index)
            shared.set("acknowledged", 0)
        else:
            shared.set("acknowledged", held_now)
    return killed, finished


def _index_for_ever(folder: Path, index: Path, shared: Shared) -> None:
    commit_often_and_note_it(16, shared)
    with clipdex.Client(FakeTransport()) as client:
        while True:
            index_pictures(client, folder, index, workers=2)


def opening_times(
    directory: Path, rows: int, dim: int, kills: int, rng: Random
) -> tuple[list[float], list[float]]:
    """How long readers and writers take to open a large index after a SIGKILL inside a commit, in seconds."""
    index = directory / "large.clipdex"
    manifest = clipdex.Manifest("f" * 64, "demo", dim)
    drawn = np.random.default_rng(0).standard_normal((16_384, dim))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    with IndexWriter.open_or_create(index, manifest) as writer:
        while (first := writer.committed_rows) < rows:
            _append(writer, vectors, first, min(16_384, rows - first))
            writer.commit()

    def grow() -> None:
        with IndexWriter(index) as writer:
            while True:
                _append(writer, vectors, writer.committed_rows, 16_384)
                writer.commit()

    readers, writers = [], []
    for _ in range(kills):
        kill_after(rng.uniform(0.1, 1.0), grow)
        began = time.perf_counter()
        with Index.open(index) as opened:
            readers.append(time.perf_counter() - began)
            assert len(opened) >= rows
        began = time.perf_counter()
        writer = IndexWriter(index)
        writers.append(time.perf_counter() - began)
        writer.close()
    assert held(index)[0] >= rows
    return readers, writers


def _append(writer: IndexWriter, vectors: np.ndarray, first: int, count: int) -> None:
    pictures = [
        Picture(b"/photos/2026/holiday/IMG_%08d.jpg" % i, 3_000_000 + i, i, b"%016d" % i, 4000, 3000)
        for i in range(first, first + count)
    ]
    writer.append(pictures, vectors[:count])
