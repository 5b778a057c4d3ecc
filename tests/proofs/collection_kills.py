"""SIGKILL at random moments of a process that adds, replaces and removes items from many threads.

Each thread has ids of its own, and numbers its adds: the number is in the metadata, and what is added follows from
it: a vector, or every fourth time a picture, which gets local features. It writes an add down, in memory shared
with the parent, when it begins and when it has returned. After the kill, each id must hold what was last
acknowledged, or what was begun after it, once, a picture with its own features.
"""

from __future__ import annotations

import functools
import shutil
import struct
import threading
import time
from functools import partial
from mmap import mmap
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from proofs.kills import kill_after
from scenes import scene

import clipdex
from clipdex import Collection, Index, Item
from clipdex.features.store import FeatureStore
from clipdex.index.side.feature_file import make_features
from clipdex.looks.local_features import Recipe, extract, opencv
from clipdex.wire import FakeTransport

DIM = 8
THREADS = 16
IDS = 4  # of each thread
KILLS_AN_INDEX = 50  # then the next is made, so that kills fall into its making as well

RECIPE = Recipe("sift", 8, 64)

_CELL = struct.Struct("<qq")  # the last add of an id that began, and that returned; negative: a removal
_PICTURES = 64  # different ones: each costs the parent an extraction


def vector_of(number: int) -> np.ndarray:
    """A unit vector, float32 (DIM,), for an add."""
    drawn = np.random.default_rng(number).standard_normal(DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def picture_of(cell: int, number: int) -> int | None:
    """The picture that an add is of; None if it is of a vector."""
    return None if (cell + number) % 4 else (cell * 31 + number // 4) % _PICTURES


@functools.cache
def picture(which: int) -> Image.Image:
    return scene(which, (64, 48))


@functools.cache
def features_of(which: int) -> bytes:
    return extract(picture(which), most=RECIPE.most, side=RECIPE.side).to_bytes()


def opened(index: Path) -> Collection:
    return Collection.open(index, client=clipdex.Client(FakeTransport(embedding_dim=DIM)))


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

    def cells(self) -> list[tuple[int, int]]:
        return list(_CELL.iter_unpack(self._memory[:]))

    def differs(self, cells: list[tuple[int, int]]) -> bool:
        return self.cells() != cells

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))


def add_for_ever(index: Path, board: Board, seed: int) -> None:
    """Add, replace and remove from all threads, until somebody ends it; open and close in between."""
    rng = Random(seed)
    while True:
        with opened(index) as collection:
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
            which, said = picture_of(cell, number), {"number": number}
            if which is None:
                collection.add(Item(f"item {cell}", vector=vector_of(number * 1000 + cell), metadata=said))
            else:
                collection.add(Item(f"item {cell}", picture(which), metadata=said))
            board.finish(cell, number)


def check(index: Path, board: Board) -> int:
    """Compare the index with the board -> how many items there are. AssertionError if they differ."""
    with (
        clipdex.Client(FakeTransport(embedding_dim=DIM)) as client,
        Collection.open(index, read_only=True) as collection,
        Index.open(index) as rows,
        FeatureStore.open(rows) as features,
    ):
        ids = list(collection.ids())
        assert len(ids) == len(set(ids)), "an id is there twice"
        for cell in range(THREADS * IDS):
            began, returned = board.read(cell)
            stored = collection.get(f"item {cell}")
            held = 0 if stored is None else stored.metadata["number"]
            allowed = {max(0, number) for number in (began, returned)}
            assert held in allowed, f"item {cell} is {held}; {returned} was acknowledged, {began} begun"
            if stored is not None:
                which = picture_of(cell, held)
                if which is None:
                    wanted = vector_of(held * 1000 + cell)
                else:
                    wanted = client.embed_images([picture(which)])[0]
                    found = features.of(stored.row)
                    assert found is not None, f"item {cell} has no local features"
                    assert found.to_bytes() == features_of(which), f"item {cell} has another's local features"
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
    opencv().setNumThreads(1)  # its threads would not be in a child that is forked
    for which in range(_PICTURES):
        features_of(which)  # here, once: a child lives for a moment only
    index, board = directory / "killed.clipdex", Board()
    changes = amid = 0
    for kill in range(kills):
        if kill % KILLS_AN_INDEX == 0:
            shutil.rmtree(index, ignore_errors=True)
            board.clear()
            opened(index).close()
            make_features(index, RECIPE)
        wait, seed = rng.uniform(0, 0.4), rng.randrange(1 << 30)
        held = board.cells()
        is_adding = rng.random() < 0.8  # else it may be killed while it opens the index
        kill_after(
            wait,
            partial(add_for_ever, index, board, seed),
            partial(board.differs, held) if is_adding else lambda: True,
        )
        check(index, board)
        cells = board.cells()
        amid += any(began != returned for began, returned in cells)
        changes += sum(max(0, abs(now[1]) - abs(before[1])) for now, before in zip(cells, held, strict=True))
        settle(index, board)
        leftovers = [path.name for path in directory.iterdir() if path != index]
        assert not leftovers, f"left behind: {leftovers}"
    return changes, amid
