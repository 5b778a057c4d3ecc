"""Readers beside a writer that commits, replaces, removes, compacts and is killed; and two writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random

import numpy as np
from proofs.workload import MANIFEST, PHASES, Expected, Shared, check, path_of, vectors_of, write

import clipdex
from clipdex.index import Index, IndexWriter, compact_index

# A search in so many looks at what is committed now; one look in so many compares the whole index.
_REFRESH = 8
_COMPARE = 25


@dataclass
class Tally:
    """What readers did. Times in microseconds: the longest of their kind."""

    searches: int = 0
    refreshes: int = 0
    compared: int = 0
    renewed: int = 0  # refreshes that found a compacted index in the place of the old one
    longest_search_us: int = 0
    longest_refresh_us: int = 0

    def add(self, other: Tally) -> None:
        for field in fields(self):
            merge = max if field.name.startswith("longest") else int.__add__
            setattr(self, field.name, merge(getattr(self, field.name), getattr(other, field.name)))


def read_while_writing(
    directory: Path, searches: int, readers: int, kill_every_s: float
) -> tuple[Tally, int, int]:
    """-> (what the readers did, compactions, kills of the writer). AssertionError if one saw what it must not."""
    index, shared = directory / "busy.clipdex", Shared()
    write(index, Random(1), shared, commits=30)
    writer, kills = _fork(lambda: _write_for_ever(index, shared)), 0
    logs = [directory / f"reader-{i}" for i in range(readers)]
    children = {
        _fork(lambda log=log, seed=i: _read(index, shared, searches // readers, Random(seed), log))  # type: ignore[misc]
        for i, log in enumerate(logs)
    }
    tally, killed_at = Tally(), time.monotonic()
    try:
        while children:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                if time.monotonic() - killed_at >= kill_every_s:
                    os.kill(writer, signal.SIGKILL)
                    os.waitpid(writer, 0)
                    time.sleep(0.2)  # readers go on beside a dead writer
                    writer, kills, killed_at = (
                        _fork(lambda: _write_for_ever(index, shared)),
                        kills + 1,
                        time.monotonic(),
                    )
                time.sleep(0.01)
                continue
            assert ended != writer, "the writer ended by itself"
            children.discard(ended)
            assert status == 0, "a reader saw what it must not"
    finally:
        for child in (writer, *children):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    for log in logs:
        tally.add(Tally(*map(int, log.read_text().split())))
    check(index, shared.get("acknowledged"), Expected())
    return tally, shared.get("compactions"), kills


def _fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 3
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def _write_for_ever(index: Path, shared: Shared) -> None:
    """Few rows a commit, so that the index stays small enough to be compared whole again and again."""
    rng = Random(os.getpid())
    while True:
        write(index, rng, shared, commits=20, largest=6, between=lambda: time.sleep(0.01))
        if rng.random() < 0.5:
            shared.set("phase", PHASES.index("compacting"))
            compact_index(index)
            shared.set("compactions", shared.get("compactions") + 1)


def _read(index: Path, shared: Shared, searches: int, rng: Random, log: Path) -> None:
    tally, expected = Tally(), Expected()
    with Index.open(index) as opened:
        steps = _steps(opened)
        for i in range(searches):
            if i % _REFRESH == 0:
                steps = _refresh(opened, shared, tally)
                if tally.refreshes % _COMPARE == 1:
                    _compare(opened, expected.live(steps))
                    tally.compared += 1
            began = time.perf_counter()
            wanted = rng.randrange(steps)
            query = vectors_of(np.array([wanted]))
            hits = opened.search(query, top_k=5)[0]
            tally.longest_search_us = max(tally.longest_search_us, int(1e6 * (time.perf_counter() - began)))
            tally.searches += 1
            for hit in hits:
                step = opened.picture(hit.row).mtime_ns
                assert step < steps, f"step {step} was not committed when this reader looked"
                assert hit.path.encode() == path_of(step), f"row {hit.row} is {path_of(step)!r}, not {hit.path}"
                score = float(query[0] @ vectors_of(np.array([step]))[0])
                assert abs(hit.score - score) < 2e-3, f"row {hit.row} was scored with another vector"
                assert hit.row not in opened.tombstones
    log.write_text(" ".join(str(getattr(tally, field.name)) for field in fields(tally)))


def _steps(opened: Index) -> int:
    """How many steps a snapshot holds: its last row is always live."""
    return opened.picture(len(opened.vectors) - 1).mtime_ns + 1


def _refresh(opened: Index, shared: Shared, tally: Tally) -> int:
    acknowledged, rows = shared.get("acknowledged"), len(opened.vectors)
    began = time.perf_counter()
    opened.refresh()
    tally.longest_refresh_us = max(tally.longest_refresh_us, int(1e6 * (time.perf_counter() - began)))
    tally.refreshes += 1
    tally.renewed += len(opened.vectors) < rows
    steps = _steps(opened)
    assert acknowledged <= steps <= shared.get("begun"), (
        f"{steps} steps are there, {acknowledged} were acknowledged"
    )
    return steps


def _compare(opened: Index, live: dict[bytes, int]) -> None:
    dead = set(opened.tombstones.tolist())
    rows = [row for row in range(len(opened.vectors)) if row not in dead]
    assert len(rows) == len(live)
    written = vectors_of(np.array(list(live.values()))).astype("<f2")
    assert np.array_equal(opened.vectors[rows], written), "the live rows are not those of the steps"


# Two writers


def refusal_times(directory: Path, tries: int) -> list[float]:
    """How long a second writer takes to say who is first, in seconds."""
    index, times = directory / "held.clipdex", []
    with IndexWriter.open_or_create(index, MANIFEST):
        holder = f"process {os.getpid()} since"
        for _ in range(tries):
            began = time.perf_counter()
            try:
                IndexWriter.open_or_create(index, MANIFEST)
                raise AssertionError("two writers hold one index")
            except clipdex.IndexLocked as exc:
                times.append(time.perf_counter() - began)
                assert holder in str(exc), exc
    return times


def refusal_of_the_command(directory: Path) -> tuple[float, str]:
    """The same of `clipdex compact`, from its start as a process -> (seconds, what it says)."""
    index = directory / "held.clipdex"
    with IndexWriter.open_or_create(index, MANIFEST):
        began = time.perf_counter()
        command = [sys.executable, "-m", "clipdex", "compact", str(index)]
        ended = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    assert ended.returncode == 1
    assert f"process {os.getpid()} since" in ended.stderr, ended.stderr
    return seconds, ended.stderr.strip()


def race_to_create(directory: Path, races: int) -> int:
    """Two processes make the same index at the same moment -> how often the second was told of the first."""
    locked = 0
    for race in range(races):
        index, shared = directory / f"race-{race}.clipdex", Shared()

        def contend(index: Path = index, shared: Shared = shared) -> None:
            while not shared.get("begun"):
                pass
            try:
                with IndexWriter.open_or_create(index, MANIFEST):
                    time.sleep(0.05)
            except clipdex.IndexLocked:
                os._exit(9)

        both = [_fork(contend), _fork(contend)]
        shared.set("begun", 1)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in both)
        assert codes in ([0, 9], [0, 0]), f"exit statuses {codes}"
        locked += codes == [0, 9]
        with Index.open(index) as opened:
            assert len(opened) == 0
    return locked
