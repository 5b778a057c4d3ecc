"""A run asks the index and the folders about many files at once, and learns what asking for each would tell."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sqlite3
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import noise, present, unit_vectors

from clipdex import Client, index_pictures
from clipdex.base.records import Failure, Picture, maker
from clipdex.index import Index, IndexWriter, Manifest
from clipdex.index.checksum import record_crc32c
from clipdex.index.row_reader import RowReader
from clipdex.index.schema import connect
from clipdex.index.verify import verify_index
from clipdex.pipeline import decode
from clipdex.pipeline.ring import PixelRing
from clipdex.sources import open_source, scan
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.scan import FoundFile
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

SPEC = FakeTransport().card.image
DIM, ROWS = 8, 600


def path(i: int) -> bytes:
    return b"/p/%03d.jpg" % i


def written(directory: Path) -> Path:
    """An index of many rows, of which two are damaged, with a ledger that has two lines, one of them damaged."""
    pictures = [Picture(path(i), i, 2, b"%016d" % i, 3, 4, None, bytes(158), 5) for i in range(ROWS)]
    with IndexWriter.open_or_create(directory, Manifest("f" * 64, "drawn", DIM)) as writer:
        writer.append(pictures, unit_vectors(ROWS, DIM))
        writer.fail(Failure(b"/p/bad.jpg", "damaged", "", 1, 2, 3))
        writer.fail(Failure(b"/p/worse.jpg", "damaged", "", 1, 2, 3))
    db = connect(directory / "rows.sqlite", write=True)
    db.execute("UPDATE rows SET size = size + 1 WHERE row = 7")
    db.execute("UPDATE phashes SET crc32c = crc32c + 1 WHERE row = 8")
    db.execute("UPDATE failures SET size = 9 WHERE path = ?", (b"/p/worse.jpg",))
    db.close()
    return directory


def test_what_is_known_of_many_files_is_what_is_known_of_each(tmp_path: Path) -> None:
    asked = [*map(path, range(ROWS + 20)), b"/p/bad.jpg", b"/p/worse.jpg"]
    with IndexWriter(written(tmp_path / "x")) as writer:
        known = writer.known_among(asked)
        assert known == {each: found for each in asked if (found := writer.known(each)) is not None}
    assert set(asked) - set(known) == {path(7), path(8), b"/p/worse.jpg", *map(path, range(ROWS, ROWS + 20))}
    assert known[path(3)].row == 3
    assert known[path(3)].signed
    assert known[path(3)].ctime_ns == 5
    assert known[b"/p/bad.jpg"].reason == "damaged"


def test_a_row_that_the_databases_own_index_finds_under_another_path_is_not_known(tmp_path: Path) -> None:
    database = written(tmp_path / "x") / "rows.sqlite"
    db = connect(database, write=True)
    db.execute("PRAGMA writable_schema = ON")
    index = db.execute("SELECT * FROM sqlite_master WHERE name = 'rows_by_path'").fetchone()
    db.execute("DELETE FROM sqlite_master WHERE name = 'rows_by_path'")
    db.close()
    db = connect(database, write=True)  # does not know of the index, which so keeps the old path
    record = db.execute("SELECT * FROM rows WHERE row = 20").fetchone()
    moved = (20, b"/p/elsewhere.jpg", *record[2:-1])
    db.execute("UPDATE rows SET path = ?, crc32c = ? WHERE row = 20", (moved[1], record_crc32c(*moved)))
    db.execute("PRAGMA writable_schema = ON")
    db.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
    db.close()
    with IndexWriter(database.parent) as writer:
        assert writer.has(path(20))
        assert writer.known_among([path(19), path(20), path(21), moved[1]]).keys() == {path(19), path(21)}


def test_unchanged_files_are_looked_up_in_few_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = []
    rows = RowReader._locked_rows

    def counted(self: RowReader, sql: str, *values: Any) -> list[Any]:
        statements.append(sql)
        return rows(self, sql, *values)

    with IndexWriter(written(tmp_path / "x")) as writer:
        monkeypatch.setattr(RowReader, "_locked_rows", counted)
        assert len(writer.known_among([path(i) for i in range(ROWS)])) == ROWS - 2
    assert len(statements) < 20


def test_a_folder_is_listed_once_for_the_many_indexed_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "p"
    (folder / "sub").mkdir(parents=True)
    for i in range(200):
        (folder / f"{i:03}.jpg").touch()
        (folder / "sub" / f"{i:03}.jpg").touch()
    source = open_source(folder)
    paths = [found.path for found in source.files(lambda failure: None)]
    assert len(paths) == 400
    (folder / "007.jpg").unlink()
    (folder / "008.jpg").unlink()
    (folder / "008.jpg").mkdir()  # a folder that could be read would be no picture: but this pass has not seen it
    (folder / "009.jpg").unlink()
    (folder / "009.jpg").symlink_to("nowhere")
    looked_at: list[bytes] = []
    lstat = os.lstat

    def noted(at: Any) -> os.stat_result:
        looked_at.append(at)
        return lstat(at)

    monkeypatch.setattr(os, "lstat", noted)
    gone = source.vanished(paths)
    named = {os.fsencode(folder / name) for name in ("007.jpg", "008.jpg")}
    assert set(gone) == named
    assert set(looked_at) == named | {os.fsencode(folder / "009.jpg")}


def test_few_files_of_a_large_folder_are_looked_at_without_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(300):
        (tmp_path / f"{i:03}.jpg").touch()
    source = open_source(tmp_path)
    paths = [found.path for found in source.files(lambda failure: None)]
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda at: listed.append(at) or scandir(at))
    assert source.vanished(paths[:3]) == []
    assert not listed
    few = scan._plain_files(os.fsencode(tmp_path), 20)
    assert len(few) == 20 and few < set(paths)


@pytest.mark.parametrize("hidden", [False, True])
def test_whether_a_name_may_be_left_out_is_what_either_kind_says(hidden: bool) -> None:
    rules = Exclusion(hidden=hidden)
    names = [b"a.jpg", b".a", b"._a", b"@eaDir", b"@EADIR", b"lost+found", b"Recycler", b"RECYCLERS", b"_x", b"#a"]
    names += [b"#recycle", b"$recycle.bin", b"System Volume Information", b"node_modules", b"", b"n", b".Trash-1"]
    for name in names:
        either = [rules.leaves_out(name, is_folder=is_folder) for is_folder in (False, True)]
        assert rules.may_leave_out(name) == any(either), name
    assert rules.leaves_out(b"x/$Recycle.Bin", is_folder=True)
    assert not rules.leaves_out(b"x/$Recycle.Bin", is_folder=False)


def test_the_paths_queued_at_a_worker_fit_into_its_pipe() -> None:
    """Else it could wait for us to read an answer while we wait for it to read a request."""
    worker = decode._Worker(process=cast(Any, None), pipe=cast(Any, None))
    assert isinstance(worker.given, deque)
    queued = []
    for length in (40, 4096):
        worker.given.clear()
        worker.given_bytes = 0
        while worker.takes_more(decode._MOST_QUEUED):
            file = FoundFile(b"/" * length, 0, 0)
            worker.given.append((0, file))
            worker.given_bytes += len(file.path)
        queued.append(len(worker.given))
    assert queued == [decode._MOST_QUEUED, 8]


@pytest.mark.parametrize(("workers", "depth"), [(1, 128), (4, 128), (16, 32), (64, 16)])
def test_files_queued_at_many_workers_leave_descriptors_for_others(workers: int, depth: int) -> None:
    with PixelRing(8, 4, 2) as ring:
        pool = decode.DecodePool(SPEC, ring, workers=workers)
        assert pool._depth() == decode._QUEUED  # nothing is known of the files yet
        pool._answers = 1000
        assert pool._depth() == depth
        pool.busy["decode"] = 1000 * 0.005
        assert pool._depth() == 4
        pool.busy["decode"] = 1000 * 0.5
        assert pool._depth() == decode._QUEUED


def test_answers_wait_for_others_for_less_than_any_worker_is_busy() -> None:
    with PixelRing(8, 4, 2) as ring:
        pool = decode.DecodePool(SPEC, ring, workers=2)
        for queued in (8, 2, 0):
            worker = decode._Worker(process=cast(Any, None), pipe=cast(Any, None))
            worker.given.extend([(0, FoundFile(b"/x", 0, 0))] * queued)
            pool._workers.append(worker)
        pool._answers = 100
        for each_s, pause_s in ((0.0, 20e-6), (0.0001, 0.0001), (0.5, 0.002)):
            pool.busy["decode"] = 100 * each_s
            assert pool._pause_s() == pytest.approx(pause_s)


def test_what_is_made_quickly_is_what_is_made_by_its_fields(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"abc")
    info = os.stat(tmp_path / "x.jpg")
    file = FoundFile.of(b"/x", info, "{}")
    assert file == FoundFile(b"/x", 3, info.st_mtime_ns, "{}", ctime_ns=info.st_ctime_ns)
    assert dataclasses.replace(file, content_hash=b"h").content_hash == b"h"
    assert (file.member, file.content_hash) == (None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        file.size = 4  # type: ignore[misc]
    far = cast(Any, SimpleNamespace(st_size=1 << 70, st_mtime_ns=-(1 << 70), st_ctime_ns=1 << 70))
    assert FoundFile.of(b"/x", far) == FoundFile(b"/x", 1 << 70, -(1 << 70), ctime_ns=1 << 70)


def test_what_a_maker_makes_is_as_good_as_what_the_class_makes() -> None:
    fields = (b"/x", 1, 2, b"h" * 16, 3, 4, "{}", b"s", 5, None)
    for kind, given in ((Picture, fields), (FoundFile, fields[:3]), (Failure, (b"/x", "damaged", "", 1, 2))):
        made, plain = maker(kind)(*given), kind(*given)
        assert made == plain and repr(made) == repr(plain) and hash(made) == hash(plain) and type(made) is kind
        assert pickle.loads(pickle.dumps(made)) == plain
    assert (maker(Picture)(*fields[:6]).metadata, maker(Picture)(*fields[:6]).exif) == (None, None)


def test_a_file_that_is_read_is_not_looked_up_by_its_path_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = tmp_path / "p", tmp_path / "x"
    folder.mkdir()
    for i in range(4):
        noise(i).save(folder / f"{i}.png")
    with Client(FakeTransport()) as client:
        index_pictures(client, folder, index, workers=1)
        noise(9).save(folder / "0.png")
        os.utime(folder / "1.png", (1, 1))
        noise(5).save(folder / "5.png")

        def refused(self: IndexWriter, path: bytes) -> None:
            raise AssertionError(path)

        monkeypatch.setattr(IndexWriter, "known", refused)
        report = index_pictures(client, folder, index, workers=1)
    assert (report.indexed, report.changed, report.unchanged, report.failed) == (2, 1, 3, 0)
    with Index.open(index) as opened:
        assert len(opened) == 5
        assert present(opened.known(os.fsencode(folder / "1.png"))).mtime_ns == 10**9


def test_rows_committed_together_are_those_committed_one_by_one(tmp_path: Path) -> None:
    """The paths are any bytes, the numbers of any length, and some pictures have no signature, or no ctime."""
    pictures = [
        Picture(
            *(b"/p/\0\xff%d" % i * (1 + i % 40), 9**i % (1 << 62), i - 90, b"%016d" % i, 1 + i * i, 10 ** (i % 9)),
            *(
                "{}" if i % 3 else '{"é": 1}',
                None if i % 7 == 3 else bytes([i % 256]) * 158,
                i * 10**9 if i % 5 else None,
            ),
        )
        for i in range(230)
    ]
    found = []
    for name, at_once in (("together", 230), ("one by one", 1)):
        with IndexWriter.open_or_create(tmp_path / name, Manifest("f" * 64, "drawn", DIM)) as writer:
            vectors = unit_vectors(230, DIM)
            for first in range(0, 230, at_once):
                writer.append(pictures[first : first + at_once], vectors[first : first + at_once])
                writer.commit()
        assert not verify_index(tmp_path / name).damages
        db = connect(tmp_path / name / "rows.sqlite", write=False)
        found.append(
            [db.execute(f"SELECT * FROM {each}").fetchall() for each in ("rows", "phashes", "ctimes", "metadata")]
        )
        db.close()
    assert found[0] == found[1] and len(found[0][0]) == 230
    assert [each[1] for each in found[0][0]] == [picture.path for picture in pictures]


def test_what_is_looked_up_and_committed_in_bulk_needs_no_adapter(tmp_path: Path) -> None:
    """For each bytes and None, Python looks for one, which takes longer than binding it."""
    pictures = [Picture(path(i), i, 2, b"%016d" % i, 3, 4, None, bytes(158), 5) for i in range(900)]
    adapted: list[object] = []
    kinds: tuple[type, ...] = (bytes, type(None))
    for kind in kinds:
        sqlite3.register_adapter(kind, lambda value: adapted.append(value) or value)
    try:
        with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "drawn", DIM)) as writer:
            writer.append(pictures, unit_vectors(900, DIM))
            writer.commit()
            assert len(writer.known_among([picture.path for picture in pictures])) == 900
            assert len(writer.contents_among([picture.content_hash for picture in pictures])) == 900
    finally:
        for kind in kinds:
            del sqlite3.adapters[kind, sqlite3.PrepareProtocol]
    assert adapted == []


def test_the_pages_of_a_commit_stay_in_memory_until_it_ends(tmp_path: Path) -> None:
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "drawn", DIM)) as writer:
        assert writer._store._rows("PRAGMA cache_size") == [(-65536,)]


def test_numbers_that_an_index_cannot_store_become_the_nearest_that_it_can(tmp_path: Path) -> None:
    far = [Picture(path(i), 1 << 70, -(1 << 70), b"%016d" % i, 3, 4, None, None, 1 << 70) for i in range(3)]
    plain = Picture(path(9), 1, 2, b"%016d" % 9, 3, 4, None, bytes(158), None)
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "drawn", DIM)) as writer:
        writer.append([*far, plain], unit_vectors(4, DIM))
    assert not verify_index(tmp_path / "x").damages
    with Index.open(tmp_path / "x") as opened:
        first, last = opened.picture(0), opened.picture(3)
    assert (first.size, first.mtime_ns, first.ctime_ns, first.phash) == (2**63 - 1, 1 - 2**63, 2**63 - 1, None)
    assert (last.size, last.ctime_ns, last.phash) == (1, None, bytes(158))
