"""The times of files: those that no 64 bits hold, and the one that tells of an edit which keeps all others."""

import os
import sqlite3
import struct
import tarfile
import time

import pytest
from conftest import noise, present

import clipdex
from clipdex import Index, IndexWriter, PathList, plan_run, verify_index
from clipdex.base.records import KnownFile, storable
from clipdex.index import Failure, Picture, compact_index
from clipdex.pipeline.standing import Standing, standing_of
from clipdex.sources.scan import FoundFile

pytestmark = [pytest.mark.thin, pytest.mark.once]

MOST = (1 << 63) - 1


def date(path, year):
    """Where the file system holds such times."""
    seconds = (year - 1970) * 31_556_952
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9))
    if path.stat().st_mtime_ns != seconds * 10**9:
        pytest.skip(f"this file system holds no time in {year}")


def edit_and_keep_size_and_time(path):
    """Another picture in as many bytes, at the same time, as `exiftool -P -Orientation#=6` in place."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 255  # of a BMP: the last pixel
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (info.st_size, info.st_mtime_ns)
    assert path.stat().st_ctime_ns != info.st_ctime_ns


@pytest.fixture
def drawn(tmp_path):
    """Three BMPs."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for i in range(3):
        noise(i).save(folder / f"{i}.bmp")
    time.sleep(0.02)  # the kernel's clock for files has coarse ticks
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("year", [1950, 2300])
@pytest.mark.parametrize("how", ["folder", "list", "tar", "table", "parquet", "broken"])
def test_case_16_a_file_of_any_time_is_indexed_and_then_unchanged(update, drawn, tmp_path, year, how):
    odd = drawn / "1.bmp"
    count = 3
    if how == "broken":
        odd.write_text("no picture")
    date(odd, year)
    source = drawn
    if how == "list":
        source = PathList([os.fsencode(odd)], "the list")
        count = 1
    elif how == "tar":
        source = tmp_path / "shard.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(odd, "1.bmp")
        date(source, year)
        count = 1
    elif how == "table":
        source = tmp_path / "t.csv"
        source.write_text('path\ndrawn/1.bmp\n""\n')
        date(source, year)
        count = 2
    elif how == "parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        source = tmp_path / "t.parquet"
        pq.write_table(pa.table({"image": [odd.read_bytes()]}), source)
        date(source, year)
        count = 1
    failed = {"broken": 1, "table": 1}.get(how, 0)
    report, _ = update(source)
    assert (report.indexed, report.failed) == (count - failed, failed)
    report, sent = update(source)
    assert (report.unchanged, report.failed, sent) == (count - failed, failed, 0)
    assert plan_run(source, tmp_path / "x").unchanged == count - failed
    assert not verify_index(tmp_path / "x").damages


def test_an_index_takes_any_size_and_time(tmp_path):
    from conftest import unit_vectors

    huge = 1 << 70
    with IndexWriter.open_or_create(tmp_path / "x", clipdex.Manifest("f" * 64, "demo", 4)) as writer:
        writer.append([Picture(b"/a.jpg", huge, -huge, bytes(16), 1, 1, ctime_ns=huge)], unit_vectors(1, 4))
        writer.fail(Failure(b"/b.jpg", "broken", "a name \udcff of bytes", huge, huge, huge))
        writer.commit()
        writer.touch(Picture(b"/a.jpg", -huge, huge, bytes(16), 1, 1, ctime_ns=-huge))
    with Index.open(tmp_path / "x") as index:
        (failure,) = index.failures()
        picture = index.picture(0)
    assert (picture.size, picture.mtime_ns, picture.ctime_ns) == (-MOST, MOST, -MOST)
    assert (failure.size, failure.mtime_ns, failure.ctime_ns) == (MOST, MOST, MOST)
    assert failure.detail == r"a name \udcff of bytes"


def test_a_found_file_holds_what_an_index_holds():
    file = FoundFile(b"/a", 1 << 80, -(1 << 80), ctime_ns=1 << 80)
    assert (file.size, file.mtime_ns, file.ctime_ns) == (MOST, -MOST, MOST)
    struct.pack("<q", storable(-(1 << 63)))


@pytest.mark.slow
def test_case_26_an_edit_that_keeps_size_and_time_is_found(update, drawn, tmp_path):
    update(drawn)
    with Index.open(tmp_path / "x") as index:
        before = index.picture(1)
    edit_and_keep_size_and_time(drawn / "1.bmp")
    plan = plan_run(drawn, tmp_path / "x")
    assert (plan.reread, plan.unchanged) == (1, 2)
    report, sent = update(drawn)
    assert (report.indexed, report.unchanged, sent) == (1, 2, 1)
    with Index.open(tmp_path / "x") as index:
        known = index.known(os.fsencode(drawn / "1.bmp"))
    assert present(known).content_hash != present(before).content_hash
    report, sent = update(drawn)
    assert (report.indexed, report.unchanged, sent) == (0, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["chmod", "rename", "hard link"])
def test_a_new_ctime_alone_costs_a_look_at_the_content_and_no_embedding(update, drawn, tmp_path, how):
    update(drawn)
    path = drawn / "1.bmp"
    if how == "chmod":
        path.chmod(0o600)
    elif how == "rename":
        path.rename(tmp_path / "away.bmp")
        (tmp_path / "away.bmp").rename(path)
    else:
        os.link(path, tmp_path / "link.bmp")
    assert plan_run(drawn, tmp_path / "x").reread == 1
    report, sent = update(drawn)
    assert (report.indexed, report.recognised, report.unchanged, sent) == (0, 0, 3, 0)
    with Index.open(tmp_path / "x") as index:
        assert len(index.tombstones) == 0
        picture = index.picture(1)
        assert present(index.known(os.fsencode(path))).row == 1
    assert picture.ctime_ns == path.stat().st_ctime_ns
    assert picture.width > 0
    assert picture.phash is not None
    assert plan_run(drawn, tmp_path / "x").reread == 0


def without_ctimes(path):
    """As an older version wrote it."""
    db = sqlite3.connect(path / "rows.sqlite")
    db.execute("DROP TABLE ctimes")
    db.execute("DROP TABLE failure_ctimes")
    db.close()


@pytest.mark.slow
def test_an_index_of_before_ctimes_opens_is_sound_and_learns_them(update, drawn, tmp_path):
    (drawn / "2.bmp").write_text("no picture")
    update(drawn)
    without_ctimes(tmp_path / "x")
    with Index.open(tmp_path / "x") as index:
        assert index.picture(1).ctime_ns is None
        assert [f.ctime_ns for f in index.failures()] == [None]
    assert not verify_index(tmp_path / "x").damages
    plan = plan_run(drawn, tmp_path / "x")
    assert (plan.unchanged, plan.reread, plan.failed) == (2, 0, 1)
    report, sent = update(drawn)
    assert (report.unchanged, report.failed, sent) == (2, 1, 0)
    with Index.open(tmp_path / "x") as index:
        assert index.picture(1).ctime_ns == (drawn / "1.bmp").stat().st_ctime_ns
        assert [f.ctime_ns for f in index.failures()] == [(drawn / "2.bmp").stat().st_ctime_ns]
    assert not verify_index(tmp_path / "x").damages
    edit_and_keep_size_and_time(drawn / "1.bmp")
    assert update(drawn)[1] == 1


def test_a_writer_adds_all_the_tables_of_an_older_index_or_none(update, drawn, tmp_path, monkeypatch):
    from clipdex.index import rows

    update(drawn)
    without_ctimes(tmp_path / "x")
    monkeypatch.setitem(rows.LATER, "failure_ctimes", "CREATE TABLE rows (row)")  # type: ignore[attr-defined]  # as where the disk is full
    with pytest.raises(clipdex.IndexWriteError):
        IndexWriter(tmp_path / "x")
    db = sqlite3.connect(tmp_path / "x" / "rows.sqlite")
    assert db.execute("SELECT name FROM sqlite_master WHERE name GLOB '*ctimes'").fetchall() == []
    db.close()
    monkeypatch.undo()
    with IndexWriter(tmp_path / "x") as writer:
        assert writer.live_rows() == 3
    with Index.open(tmp_path / "x") as index:
        assert len(index) == 3


@pytest.mark.slow
def test_what_an_older_version_changed_is_read_again_and_kept(update, drawn, tmp_path):
    """It knows nothing of the table, and leaves an old ctime in it."""
    update(drawn)
    db = sqlite3.connect(tmp_path / "x" / "rows.sqlite")
    from google_crc32c import value

    db.execute("UPDATE ctimes SET ctime_ns = 5, crc32c = ? WHERE row = 1", (value(b"i1:1i1:5"),))
    db.commit()
    db.close()
    report, sent = update(drawn)
    assert (report.unchanged, report.indexed, sent) == (3, 0, 0)
    with Index.open(tmp_path / "x") as index:
        assert index.picture(1).ctime_ns == (drawn / "1.bmp").stat().st_ctime_ns


@pytest.mark.slow
def test_a_flipped_bit_in_a_ctime_is_found_and_made_good(update, drawn, tmp_path):
    (drawn / "2.bmp").write_text("no picture")
    update(drawn)
    db = sqlite3.connect(tmp_path / "x" / "rows.sqlite")
    db.execute("UPDATE ctimes SET ctime_ns = ctime_ns + 1 WHERE row = 0")
    db.execute("UPDATE failure_ctimes SET ctime_ns = ctime_ns + 1")
    db.commit()
    db.close()
    words = [damage.what for damage in verify_index(tmp_path / "x").damages]
    assert words[0] == "rows.sqlite: the record 0 of ctimes is damaged"
    assert "of failure_ctimes is damaged" in words[1]
    with Index.open(tmp_path / "x") as index:
        assert index.picture(0).ctime_ns is None
        assert index.failures()[0].ctime_ns is None
    update(drawn)
    assert not [d for d in verify_index(tmp_path / "x").damages if "failure_ctimes" in d.what]


def test_compaction_carries_the_ctimes(update, drawn, tmp_path):
    (drawn / "2.bmp").write_text("no picture")
    update(drawn)
    (drawn / "0.bmp").unlink()
    update(drawn)
    assert compact_index(tmp_path / "x") == 1
    with Index.open(tmp_path / "x") as index:
        assert index.picture(0).ctime_ns == (drawn / "1.bmp").stat().st_ctime_ns
        assert index.failures()[0].ctime_ns == (drawn / "2.bmp").stat().st_ctime_ns


@pytest.mark.slow
def test_check_content_reads_every_file_though_nothing_of_it_has_changed(update, drawn, tmp_path):
    update(drawn)
    edit_and_keep_size_and_time(drawn / "1.bmp")
    without_ctimes(tmp_path / "x")  # or a file system that keeps none
    assert update(drawn)[0].unchanged == 3
    plan = plan_run(drawn, tmp_path / "x", check="content")
    assert (plan.reread, plan.unchanged) == (3, 0)
    report, sent = update(drawn, check="content")
    assert (report.indexed, report.unchanged, sent) == (1, 2, 1)
    report, sent = update(drawn, check="content")
    assert (report.indexed, report.unchanged, sent) == (0, 3, 0)
    with pytest.raises(clipdex.InvalidArgument, match="expected 'stat' or 'content'"):
        update(drawn, check="contents")
    with pytest.raises(clipdex.InvalidArgument, match="expected 'stat' or 'content'"):
        plan_run(drawn, tmp_path / "x", check="mtime")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_tar_written_anew_with_its_size_and_time_is_read_again(update, drawn, tmp_path):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(drawn.iterdir()):
            tar.add(path, path.name)
    update(shard)
    info = shard.stat()
    data = bytearray(shard.read_bytes())
    data[512 + 60] ^= 255  # a pixel of the first member
    shard.write_bytes(data)
    os.utime(shard, ns=(info.st_atime_ns, info.st_mtime_ns))
    report, sent = update(shard)
    assert (report.indexed, report.unchanged, sent) == (1, 2, 1)


def test_a_failed_file_whose_permissions_were_mended_is_tried_again(update, drawn, tmp_path):
    """Its size and time are what they were; only its ctime tells."""
    (drawn / "1.bmp").write_bytes(b"no picture" * 10)
    update(drawn)
    with IndexWriter(tmp_path / "x") as writer:
        (line,) = writer.failures()
    (drawn / "1.bmp").chmod(0o640)
    plan = plan_run(drawn, tmp_path / "x")
    assert (plan.changed, plan.failed) == (1, 0)
    assert (
        standing_of(
            FoundFile(line.path, line.size, line.mtime_ns, ctime_ns=present(line.ctime_ns) + 1),
            KnownFile(line.size, line.mtime_ns, None, None, line.ctime_ns),
            check="stat",
            retry_failures=False,
        )
        is Standing.CHANGED
    )


@pytest.mark.slow
def test_a_file_that_failed_is_tried_again_only_if_it_is_asked_for(update, drawn, tmp_path):
    """What has changed is not the file, but what it may cost."""
    limits = clipdex.Limits(max_pixels=10)
    report, _ = update(drawn, limits=limits)
    assert (report.indexed, report.failed) == (0, 3)
    plan = plan_run(drawn, tmp_path / "x")
    assert (plan.failed, plan.retried) == (3, 0)
    report, sent = update(drawn)
    assert (report.indexed, report.failed, sent) == (0, 3, 0)
    plan = plan_run(drawn, tmp_path / "x", retry_failures=True)
    assert (plan.failed, plan.retried) == (0, 3)
    report, sent = update(drawn, retry_failures=True)
    assert (report.indexed, report.failed, sent) == (3, 0, 3)
