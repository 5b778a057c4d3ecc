"""Compaction: the dead rows go, everything else stays, in one step."""

import errno
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import unit_vectors

import clipdex
from clipdex.base import replacing
from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, compact_index, verify_index
from clipdex.index.checksum import record_crc32c

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
            patch.setattr("clipdex.index.compact._exchange", full)
        else:
            patch.setattr(os, "pwrite", full)
        with pytest.raises(clipdex.IndexWriteError, match="No space left"):
            compact_index(path)
    assert os.listdir(path.parent) == ["x.clipdex"]
    assert compact_index(path) == 7


def test_without_an_exchange_in_the_kernel_three_renames_do(path, monkeypatch):
    monkeypatch.setattr(replacing, "_renameat2", lambda: None)
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


def test_metadata_signatures_and_times_stay(path):
    """The two commits are an hour apart."""
    more = [replace(picture(i), metadata=f'{{"n":{i}}}', phash=bytes([i]) * 158) for i in range(20, 30)]
    with IndexWriter(path) as writer:
        writer.append(more, unit_vectors(10, 8, seed=2))
        writer.commit(at=1_700_003_600)
        writer.remove(b"/photos/25.jpg")
    db = sqlite3.connect(path / "rows.sqlite")
    db.create_function("record_crc32c", -1, record_crc32c)
    db.execute(
        "UPDATE extents SET committed_at = 1700000000, "
        "crc32c = record_crc32c(first_row, row_count, vectors_crc32c, 1700000000) WHERE first_row = 0"
    )
    db.commit()
    db.close()
    assert compact_index(path) == 8
    assert verify_index(path).damages == []
    with Index.open(path) as index:
        found = [index.picture(row) for row in range(len(ALIVE), len(index))]
        assert [(p.metadata, p.phash) for p in found] == [
            (p.metadata, p.phash) for p in more if p.path != b"/photos/25.jpg"
        ]
        info = index.info()
        assert (info.first_commit, info.last_commit) == (1_700_000_000, 1_700_003_600)


@pytest.mark.parametrize("way", ["link", "dot"])
def test_an_index_is_compacted_where_it_lies(path, tmp_path, monkeypatch, way):
    """Not the link to it, and not the name of the current folder."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "link.clipdex").symlink_to(path)
    monkeypatch.chdir(path)
    assert compact_index(other / "link.clipdex" if way == "link" else Path(".")) == 7
    assert os.listdir(other) == ["link.clipdex"]
    assert (other / "link.clipdex").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "x.clipdex"]
    for name in (path, other / "link.clipdex"):
        with Index.open(name) as index:
            assert len(index.vectors) == len(ALIVE)


def test_what_a_killed_compaction_left_is_swept_through_a_link_too(path, tmp_path):
    left = path.with_name(".x.clipdex.building-abcd")
    left.mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a").symlink_to(path)
    IndexWriter(tmp_path / "links" / "a").close()
    assert not left.exists()
