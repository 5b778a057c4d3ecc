"""Compaction: the dead rows go, everything else stays, in one step."""

import errno
import os

import numpy as np
import pytest
from conftest import unit_vectors

import clipdex
from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, compact, compact_index, verify_index

pytestmark = pytest.mark.thin

MANIFEST = Manifest("f" * 64, "demo", 8)


def picture(i):
    return Picture(b"/photos/%d.jpg" % i, 10 + i, 20 + i, bytes([i]) * 16, 30, 40)


@pytest.fixture
def path(tmp_path):
    """Twenty rows, every third dead, and one failure."""
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        writer.append([picture(i) for i in range(20)], unit_vectors(20, 8))
        writer.commit()
        for i in range(0, 20, 3):
            writer.remove(picture(i).path)
        writer.fail(Failure(b"/photos/bad.jpg", "broken", "why", 1, 2))
    return path


ALIVE = [i for i in range(20) if i % 3]


def test_the_living_rows_stay_in_their_order(path):
    assert compact_index(path) == 7
    with Index.open(path) as index:
        assert len(index) == len(index.vectors) == len(ALIVE)
        assert len(index.tombstones) == 0
        assert np.array_equal(index.vectors, unit_vectors(20, 8).astype(np.float16)[ALIVE])
        assert [index.picture(row) for row in range(len(ALIVE))] == [picture(i) for i in ALIVE]
        assert [f.path for f in index.failures()] == [b"/photos/bad.jpg"]
    assert verify_index(path).damages == []
    assert os.listdir(path.parent) == ["x.clipdex"]


def test_a_second_time_there_is_nothing_to_do(path):
    compact_index(path)
    before = (path / "rows.sqlite").stat().st_ino
    assert compact_index(path) == 0
    assert (path / "rows.sqlite").stat().st_ino == before


def test_it_can_be_written_to_afterwards(path):
    compact_index(path)
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        writer.append([picture(50)], unit_vectors(1, 8, seed=5))
    with Index.open(path) as index:
        assert len(index) == len(ALIVE) + 1


def test_a_reader_keeps_the_old_index_until_it_refreshes(path):
    with Index.open(path) as index:
        query = unit_vectors(20, 8)[1]
        before = index.search(query, top_k=3)
        compact_index(path)
        assert index.search(query, top_k=3) == before
        index.refresh()
        after = index.search(query, top_k=3)
        assert [hit.path for hit in after[0]] == [hit.path for hit in before[0]]
        assert after[0][0].row == 0


def test_while_another_writes_it_refuses(path):
    with IndexWriter.open_or_create(path, MANIFEST), pytest.raises(clipdex.IndexLocked):
        compact_index(path)


@pytest.mark.parametrize("fails", ["exchange", "copy"])
def test_a_failure_leaves_the_index_as_it_was(path, fails, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if fails == "exchange":
            patch.setattr(compact, "_exchange", full)
        else:
            patch.setattr(os, "pwrite", full)
        with pytest.raises(clipdex.IndexWriteError, match="No space left"):
            compact_index(path)
    assert os.listdir(path.parent) == ["x.clipdex"]
    assert compact_index(path) == 7


def test_without_an_exchange_in_the_kernel_three_renames_do(path, monkeypatch):
    class Library:
        def __init__(self, *args, **kwargs):
            pass

    monkeypatch.setattr(compact.ctypes, "CDLL", Library)
    assert compact_index(path) == 7
    assert verify_index(path).damages == []
    assert os.listdir(path.parent) == ["x.clipdex"]


def test_what_a_killed_compaction_left_is_swept_by_the_next_writer(path):
    left = path.with_name(".x.clipdex.building-abcd")
    left.mkdir()
    mine = path.with_name(".x.clipdex.mine")
    mine.mkdir()
    IndexWriter(path).close()
    assert not left.exists()
    assert mine.exists()
