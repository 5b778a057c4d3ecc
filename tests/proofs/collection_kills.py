"""SIGKILL at random moments of a process that adds, replaces and removes items from many threads.

Each thread has ids of its own, and numbers its adds: the number is in the metadata, the vector follows from it. It
writes an add down, in memory shared with the parent, when it begins and when it has returned. After the kill, each
id must hold what was last acknowledged, or what was begun after it, once.
"""

from __future__ import annotations

import shutil
import struct
import threading
import time
from functools import partial
from mmap import mmap
from pathlib import Path
from random import Random

import numpy as np
from proofs.kills import kill_after

import clipdex
from clipdex import Collection, Item

DIM = 8
THREADS = 16
IDS = 4  # of each thread
KILLS_AN_INDEX = 50  # then the next is made, so that kills fall into its making as well

_CELL = struct.Struct("<qq")  # the last add of an id that began, and that returned; negative: a removal
_MANIFEST = clipdex.Manifest("f" * 64, "demo", DIM)


def vector_of(number: int) -> np.ndarray:
    """A unit vector, float32 (DIM,), for an add."""
    drawn = np.random.default_rng(number).standard_normal(DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class Board:
    """What began and what returned, for each id, in memory that outlives a child."""

    def __init__(self) -> None:
        self._memory = mmap(-1, _CELL.size * THREADS * IDS)

    def begin(self, cell: int, number: int) -> None:
        self._memory[cell * 16 : cell * 16 + 8] = struct.pack("<q", number)

    def finish(self, cell: int, number: int) -> None:
        self._memory[cell * 16 + 8 : cell * 16 + 16] = struct.pack("<q", number)

    def read(self, cell: int) -> tuple[int, int]:
        began, returned = _CELL.unpack_from(self._memory, cell * 16)
        return began, returned

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))


def add_for_ever(index: Path, board: Board, seed: int) -> None:
    """Add, replace and remove from all threads, until somebody ends it; open and close in between."""
    rng = Random(seed)
    while True:
        with Collection.open(index) as collection:
            until = time.monotonic() + rng.uniform(0.02, 0.5)
            threads = [
                threading.Thread(target=_add, args=(collection, board, each, until, rng.random()))
                for each in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def _add(collection: Collection, board: Board, thread: int, until: float, seed: float) -> None:
    rng = Random(seed)
    while time.monotonic() < until:
        cell = thread * IDS + rng.randrange(IDS)
        number = max(abs(each) for each in board.read(cell)) + 1
        if rng.random() < 0.15:
            board.begin(cell, -number)
            collection.remove(f"item {cell}")
            board.finish(cell, -number)
        else:
            board.begin(cell, number)
            vector = vector_of(number * 1000 + cell)
            collection.add(Item(f"item {cell}", vector=vector, metadata={"number": number}))
            board.finish(cell, number)


def check(index: Path, board: Board) -> int:
    """Compare the index with the board -> how many items there are. AssertionError if they differ."""
    with Collection.open(index, read_only=True) as collection:
        ids = list(collection.ids())
        assert len(ids) == len(set(ids)), "an id is there twice"
        for cell in range(THREADS * IDS):
            began, returned = board.read(cell)
            stored = collection.get(f"item {cell}")
            held = 0 if stored is None else stored.metadata["number"]
            allowed = {max(0, number) for number in (began, returned)}
            assert held in allowed, f"item {cell} is {held}; {returned} was acknowledged, {began} begun"
            if stored is not None:
                wanted = vector_of(held * 1000 + cell)
                assert np.allclose(collection.vector(stored.id or ""), wanted, atol=1e-3), "another's vector"
    assert not clipdex.verify_index(index).damages
    return len(ids)


def settle(index: Path, board: Board) -> None:
    """Note what is there as acknowledged: what was begun at a kill is decided now."""
    with Collection.open(index, read_only=True) as collection:
        for cell in range(THREADS * IDS):
            stored = collection.get(f"item {cell}")
            began, returned = board.read(cell)
            last = max(abs(began), abs(returned))
            if stored is None:
                board.begin(cell, -last)
                board.finish(cell, -last)
            else:
                board.begin(cell, stored.metadata["number"])
                board.finish(cell, stored.metadata["number"])


def kill_collections(directory: Path, kills: int, rng: Random) -> tuple[int, int]:
    """-> (acknowledged changes, of how many kills some came while changes were begun)."""
    index, board = directory / "killed.clipdex", Board()
    changes = amid = 0
    for kill in range(kills):
        if kill % KILLS_AN_INDEX == 0:
            shutil.rmtree(index, ignore_errors=True)
            board.clear()
            with clipdex.IndexWriter.open_or_create(index, _MANIFEST):
                pass
        before = [abs(board.read(cell)[1]) for cell in range(THREADS * IDS)]
        wait, seed = rng.uniform(0.02, 0.4), rng.randrange(1 << 30)
        kill_after(wait, partial(add_for_ever, index, board, seed))
        check(index, board)
        cells = [board.read(cell) for cell in range(THREADS * IDS)]
        amid += any(began != returned for began, returned in cells)
        changes += sum(max(0, abs(cells[i][1]) - before[i]) for i in range(THREADS * IDS))
        settle(index, board)
        leftovers = [path.name for path in directory.iterdir() if path != index]
        assert not leftovers, f"left behind: {leftovers}"
    return changes, amid
