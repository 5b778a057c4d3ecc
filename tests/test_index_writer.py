"""Writing an index: what is committed stays, what is not goes, and one writer at a time."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from conftest import unit_vectors

import clipdex
from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, rows, vectors

pytestmark = pytest.mark.thin

MANIFEST = Manifest(fingerprint="f" * 64, model="demo", embedding_dim=8)


def picture(i, size=1):
    return Picture(b"/photos/%d.jpg" % i, size, 2, bytes(16), 3, 4)


def add(writer, start, count):
    writer.append([picture(i) for i in range(start, start + count)], unit_vectors(count, 8, seed=start))


@pytest.fixture
def path(tmp_path):
    """An index of ten committed rows."""
    with IndexWriter.open_or_create(tmp_path / "x.clipdex", MANIFEST) as writer:
        add(writer, 0, 10)
    return tmp_path / "x.clipdex"


def open_writer(path):
    return IndexWriter.open_or_create(path, MANIFEST)


def test_what_was_not_committed_is_cut_off(path):
    writer = open_writer(path)
    add(writer, 10, 5)
    assert (path / "vectors.f16").stat().st_size >= 15 * 16
    with Index.open(path) as index:
        assert len(index) == 10
    writer.close()
    with open_writer(path) as writer:
        assert writer.committed_rows == 10
        assert (path / "vectors.f16").stat().st_size == 10 * 16
        add(writer, 20, 1)
    with Index.open(path) as index:
        assert [p for _, p in index.live_paths()][-1] == b"/photos/20.jpg"


def test_an_exception_inside_the_block_commits_nothing(path):
    with pytest.raises(RuntimeError), open_writer(path) as writer:
        add(writer, 10, 5)
        raise RuntimeError
    with Index.open(path) as index:
        assert len(index) == 10


def test_a_reader_keeps_its_moment_and_refreshes_on_demand(path):
    with Index.open(path) as index, open_writer(path) as writer:
        add(writer, 10, 5)
        assert len(index) == 10
        writer.commit()
        assert len(index) == 10
        index.refresh()
        assert len(index) == 15


def test_a_changed_picture_takes_the_place_of_its_old_row(path):
    with open_writer(path) as writer:
        writer.append([picture(3, size=99)], unit_vectors(1, 8, seed=77))
    with Index.open(path) as index:
        assert len(index) == 10
        assert index.tombstones.tolist() == [3]
        assert index.picture(10).size == 99
        hits = index.search(unit_vectors(1, 8, seed=77), top_k=10)[0]
        assert 3 not in [hit.row for hit in hits]
        assert hits[0].row == 10


def test_a_picture_that_fails_later_loses_its_row_and_one_that_heals_its_ledger_line(path):
    with open_writer(path) as writer:
        writer.fail(Failure(b"/photos/3.jpg", "truncated", "", 1, 2))
    with Index.open(path) as index:
        assert (len(index), len(index.failures())) == (9, 1)
    with open_writer(path) as writer:
        writer.append([picture(3)], unit_vectors(1, 8))
    with Index.open(path) as index:
        assert (len(index), len(index.failures())) == (10, 0)


def test_a_removed_path_is_a_tombstone(path):
    with open_writer(path) as writer:
        writer.remove(b"/photos/0.jpg")
    with Index.open(path) as index:
        assert len(index) == 9
        assert b"/photos/0.jpg" not in [p for _, p in index.live_paths()]


def test_a_second_writer_is_told_who_is_first(path):
    with open_writer(path), pytest.raises(clipdex.IndexLocked, match=f"process {os.getpid()} since"):
        open_writer(path)
    open_writer(path).close()


def test_the_lock_of_a_killed_writer_is_free(path):
    script = (
        "import sys, pathlib, clipdex\n"
        f"m = clipdex.Manifest({'f' * 64!r}, 'demo', 8)\n"
        "w = clipdex.IndexWriter.open_or_create(pathlib.Path(sys.argv[1]), m)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(clipdex.IndexLocked, match=f"process {holder.pid} "):
            open_writer(path)
        holder.kill()
    open_writer(path).close()


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 7), np.float32), np.zeros((2, 8), np.float32), np.zeros((1, 8), np.int32)]
)
def test_vectors_that_do_not_fit_are_refused(path, bad):
    with open_writer(path) as writer, pytest.raises(clipdex.InvalidArgument):
        writer.append([picture(50)], bad)


def test_nan_is_refused(path):
    with open_writer(path) as writer, pytest.raises(clipdex.InvalidArgument, match="NaN"):
        writer.append([picture(50)], np.full((1, 8), np.nan, np.float32))
    with Index.open(path) as index:
        assert len(index) == 10


def test_a_full_disk_is_one_sentence_and_loses_nothing(path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = open_writer(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(clipdex.IndexWriteError, match="No space left on device"):
            add(writer, 10, 5)
    add(writer, 10, 5)  # there is space again
    writer.commit()
    writer.close()
    with Index.open(path) as index:
        assert len(index) == 15


def test_after_a_failed_sync_the_writer_refuses_to_go_on(path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    writer = open_writer(path)
    add(writer, 10, 5)
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "_datasync", broken)
        with pytest.raises(clipdex.IndexWriteError, match="Input/output error"):
            writer.commit()
    with pytest.raises(clipdex.IndexWriteError, match="earlier sync or commit failed"):
        writer.commit()
    writer.close()
    with Index.open(path) as index:
        assert len(index) == 10


def test_a_vectors_file_shorter_than_its_commits_is_damage(path):
    with (path / "vectors.f16").open("r+b") as file:
        file.truncate(9 * 16)
    for open_it in (Index.open, open_writer):
        with pytest.raises(clipdex.IndexDamaged, match="10 rows of 16 bytes were committed"):
            open_it(path)


def test_without_its_commit_record_an_index_is_damaged(path):
    (path / "rows.sqlite").unlink()
    with pytest.raises(clipdex.IndexDamaged, match="is missing"):
        Index.open(path)


def test_a_commit_record_that_is_no_database_is_damage(path):
    (path / "rows.sqlite").write_bytes(b"not a database" * 400)
    with pytest.raises(clipdex.IndexDamaged, match="not a sound SQLite database"):
        Index.open(path)


def test_a_database_of_something_else_is_refused(path):
    (path / "rows.sqlite").unlink()
    sqlite3.connect(path / "rows.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(clipdex.IndexFormatError, match="not that of a clipdex index"):
        Index.open(path)


@pytest.mark.parametrize("part", ["manifest", "rows"])
def test_a_newer_format_is_refused(path, part):
    words = "format version 3, this clipdex reads 1 and 2"
    if part == "manifest":
        words = "format version 4, this clipdex reads 1"
        manifest = path / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 4'))
    else:
        db = sqlite3.connect(path / "rows.sqlite")
        db.execute("PRAGMA user_version = 3")
        db.close()
    for open_it in (Index.open, open_writer):
        with pytest.raises(clipdex.IndexFormatError, match=words):
            open_it(path)


def test_what_is_no_index_is_left_alone(tmp_path):
    with pytest.raises(clipdex.IndexNotFound):
        Index.open(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    for open_it in (Index.open, open_writer):
        with pytest.raises(clipdex.IndexFormatError, match="not a clipdex index"):
            open_it(tmp_path / "folder")
        with pytest.raises(clipdex.IndexFormatError, match="is a file"):
            open_it(tmp_path / "folder" / "file")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file"]


@pytest.mark.parametrize(
    "change",
    ["not json", '{"format": "other"}', '{"format": "clipdex-index", "format_version": 1}'],
)
def test_a_manifest_that_is_none_is_refused(path, change):
    (path / "manifest.json").write_text(change)
    with pytest.raises(clipdex.IndexFormatError, match=r"manifest\.json"):
        Index.open(path)


def test_paths_are_bytes_whatever_they_are(tmp_path):
    odd = [b"/p/caf\xe9.jpg", b"/p/new\nline.jpg", b"/p/<b>.jpg", "/p/日本.jpg".encode(), b"/p/" + b"x" * 4000]
    with open_writer(tmp_path / "odd?#%20.clipdex") as writer:
        writer.append([Picture(p, 1, 2, bytes(16), 3, 4) for p in odd], unit_vectors(len(odd), 8))
    with Index.open(tmp_path / "odd?#%20.clipdex") as index:
        assert [p for _, p in index.live_paths()] == odd
        hits = index.search(unit_vectors(len(odd), 8)[0], top_k=5)[0]
        assert {os.fsencode(hit.path) for hit in hits} == set(odd)


def test_an_index_on_a_read_only_medium_can_be_read(path, monkeypatch):
    """SQLite cannot make its lock files there. Root may write anywhere, so the refusal is SQLite's own here."""
    connect = sqlite3.connect

    class ReadOnlyMedium(sqlite3.Connection):
        def execute(self, sql, *args):
            if "sqlite_master" in sql:
                raise sqlite3.OperationalError("unable to open database file")
            return super().execute(sql, *args)

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{"factory": ReadOnlyMedium} | k))
    with Index.open(path) as index:
        assert len(index) == 10


def test_an_index_cannot_be_made_where_nothing_may_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(clipdex.IndexWriteError, match="cannot be created"):
        open_writer(tmp_path / "file" / "x.clipdex")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("looks", [0, 1])
def test_a_file_that_vanishes_while_it_is_counted_is_not_counted(path, monkeypatch, looks):
    """A writer that ends removes its WAL, between any two looks at it."""
    passing, stat, seen = path / "passing", type(path).stat, []
    passing.write_bytes(bytes(4096))

    def vanishing(self, **options):
        if self == passing:
            seen.append(self)
            if len(seen) > looks:
                passing.unlink(missing_ok=True)
        return stat(self, **options)

    with Index.open(path) as index:
        monkeypatch.setattr(type(path), "stat", vanishing)
        assert index.info().rows == 10


def test_ctrl_c_in_the_middle_of_a_commit_comes_behind_it(path, monkeypatch):
    """Inside SQLite's calls into Python it would look like an error of the disk."""
    commit = rows.RowStore.commit

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return commit(*arguments)

    with open_writer(path) as writer:
        add(writer, 10, 3)
        monkeypatch.setattr(rows.RowStore, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.commit()
        monkeypatch.undo()
        assert writer.committed_rows == 13
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with Index.open(path) as index:
        assert len(index) == 13
