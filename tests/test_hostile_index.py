"""An index that came from a stranger: nothing outside its directory changes, and nothing waits for ever."""

import ast
import os
import shutil
import signal
import socket
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import noise, unit_vectors

import clipdex
from clipdex import Client
from clipdex.apps.bench.measure_search import scanned
from clipdex.cli import connection_options as connection
from clipdex.index import (
    Failure,
    Index,
    IndexWriter,
    Manifest,
    Picture,
    compact_index,
    optimize_index,
    verify_index,
)
from clipdex.index.files import open_to_read, open_to_write
from clipdex.index.rows import RowStore
from clipdex.index.schema import LATER
from clipdex.wire import FakeTransport

PACKAGE = Path(clipdex.__file__).parent / "index"

KINDS = ("link", "dangling", "fifo", "folder")
COMMANDS = {
    "index": ("index", "pictures", "-o", "x.clipdex", "--workers", "1"),
    "dry run": ("index", "pictures", "-o", "x.clipdex", "--dry-run"),
    "search": ("search", "a circle", "-i", "x.clipdex"),
    "filtered": ("search", "a circle", "-i", "x.clipdex", "--where", "width > 3"),
    "approximate": ("search", "a circle", "-i", "x.clipdex", "--ann"),
    "info": ("info", "x.clipdex"),
    "verify": ("verify", "x.clipdex"),
    "compact": ("compact", "x.clipdex"),
    "drop": ("compact", "x.clipdex", "--drop-damaged"),
    "optimize": ("optimize", "x.clipdex"),
    "ann": ("ann", "build", "x.clipdex"),
    "features": ("features", "build", "x.clipdex", "--workers", "1"),
    "dump": ("dump", "x.clipdex", "v.npy"),
    "duplicates": ("duplicates", "x.clipdex"),
    "hash": ("duplicates", "x.clipdex", "--hash"),
    "failures": ("failures", "x.clipdex"),
    "forget": ("forget", "x.clipdex", "--missing", "--yes"),
    "bench": ("bench", "search", "x.clipdex", "--queries", "1"),
}

# Where one of these is none, every command has to refuse; of the others, those that are concerned are asked.
VITAL = ("manifest.json", "rows.sqlite", "vectors.f16")
_BESIDE = ("index", "filtered", "verify", "compact", "optimize", "forget")  # SQLite opens them, whoever asks
OTHERS = {
    "rows.sqlite-wal": _BESIDE,
    "rows.sqlite-shm": _BESIDE,
    "rows.sqlite-journal": _BESIDE,
    "vectors.int8": ("search", "verify", "optimize", "compact"),
    "vectors.int8.building": ("optimize",),
    "vectors.ann": ("approximate", "verify", "ann", "info"),
    "vectors.ann.building": ("ann",),
    "features.sqlite": ("features", "verify", "compact"),
    "features.sqlite.building": ("features",),
    "features.lock": ("features",),
    "writer.lock": ("index", "compact", "drop", "forget", "hash", "info"),
}
CONCERNED = dict.fromkeys(VITAL, tuple(COMMANDS)) | OTHERS


@pytest.fixture(autouse=True)
def fake_server(monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An index with a dead row, a ledger and int8 codes, of pictures that are not there."""
    path = tmp_path_factory.mktemp("whole") / "x.clipdex"
    with IndexWriter.open_or_create(path, Manifest.of(FakeTransport().card)) as writer:
        pictures = [Picture(b"/photos/%d.jpg" % i, 10, 20, bytes([i]) * 16, 30, 40) for i in range(20)]
        writer.append(pictures, unit_vectors(20, 8))
        writer.commit()
        writer.remove(b"/photos/3.jpg")
        writer.fail(Failure(b"/photos/bad.jpg", "broken", "why", 1, 2))
    optimize_index(path)
    return path


@pytest.fixture
def index(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    noise(1).save(tmp_path / "pictures" / "new.png")
    return Path(shutil.copytree(whole, tmp_path / "x.clipdex"))


def seen(folder):
    """All that could change of a folder: names, bytes and times."""
    return {
        path.name: (path.lstat().st_mode, path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in (folder, *folder.iterdir())
    }


def put(kind, place, outside):
    """Something that is no regular file where a file of the index belongs."""
    bytes_there = place.read_bytes() if place.is_file() else b"of value to its owner\n" * 500
    place.unlink(missing_ok=True)
    if kind == "link":  # as good as the file itself, were it not for where it is
        target = outside / place.name
        target.write_bytes(bytes_there)
        os.utime(target, ns=(10**18, 10**18))
        place.symlink_to(target)
    elif kind == "dangling":
        place.symlink_to(outside / "nothing")
    elif kind == "link to a folder":
        place.symlink_to(outside)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(place))  # a path may have 108 bytes
    else:
        place.mkdir()
        (place / "inside").write_text("x")


@pytest.mark.parametrize("name", CONCERNED)
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_follows_or_waits_for_what_stands_in_the_place_of_a_file(
    run, index, tmp_path, whole, not_for_ever, kind, name
):
    check_every_command(run, index, tmp_path, whole, kind, name)


@pytest.mark.parametrize("name", ["manifest.json", "rows.sqlite", "vectors.f16", "writer.lock"])
@pytest.mark.parametrize("kind", ["link to a folder", "device", "socket"])
def test_nor_for_rarer_things(run, index, tmp_path, whole, not_for_ever, kind, name):
    check_every_command(run, index, tmp_path, whole, kind, name)


def check_every_command(run, index, tmp_path, whole, kind, name):
    outside = tmp_path / "outside"
    for words in map(COMMANDS.__getitem__, CONCERNED[name]):
        shutil.rmtree(index)
        shutil.rmtree(outside, ignore_errors=True)
        shutil.copytree(whole, index)
        outside.mkdir()
        put(kind, index / name, outside)
        before = seen(outside)
        signal.setitimer(signal.ITIMER_REAL, 30)
        status, out, err = run(*words)  # anything but an exit is an error of the test
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert seen(outside) == before, words
        assert "Traceback" not in out + err
        if status:
            assert len(err.splitlines()) == 1 or words[0] == "verify", (words, err)
            assert name in err or "ann build" in err or "needs" in err, (words, err)
        assert status or name not in VITAL, words


@pytest.mark.parametrize("kind", [*KINDS, "link to a folder", "device", "socket"])
def test_only_a_regular_file_is_opened(tmp_path, monkeypatch, not_for_ever, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside").mkdir()
    place = tmp_path / "file"
    put(kind, place, tmp_path / "outside")
    signal.setitimer(signal.ITIMER_REAL, 30)
    for open_it in (open_to_read, open_to_write, lambda path: open_to_write(path, make=True)):
        with pytest.raises(clipdex.IndexDamaged, match=r"file: is a (symbolic link|directory|named pipe|socket)"):
            open_it(place)


def test_what_is_put_there_while_it_is_opened_is_not_opened_either(tmp_path, monkeypatch, not_for_ever):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "fifo")
    real = os.lstat
    regular = real(tmp_path / "mine")
    for name in ("link", "fifo"):
        looks = iter([regular])
        monkeypatch.setattr(os, "lstat", lambda path, looks=looks: next(looks, None) or real(path))
        signal.setitimer(signal.ITIMER_REAL, 30)
        with pytest.raises(clipdex.IndexDamaged, match=f"{name}: is a "):
            open_to_write(tmp_path / name)


def test_a_benchmark_reads_no_codes_elsewhere(index, tmp_path, not_for_ever):
    signal.setitimer(signal.ITIMER_REAL, 30)
    for kind in KINDS:
        shutil.rmtree(tmp_path / "outside", ignore_errors=True)
        (tmp_path / "outside").mkdir()
        (index / "vectors.int8").unlink(missing_ok=True)
        put(kind, index / "vectors.int8", tmp_path / "outside")
        with Index.open(index) as opened:
            assert [array is opened.vectors for array in scanned(opened)] == [True]
            assert opened.codes() is None


def test_a_manifest_that_is_written_anew_follows_no_link(index, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (index / "manifest.json.new").symlink_to(tmp_path / "mine")
    card: Any = SimpleNamespace(below_floor="top-1 agreement 0.98")
    with IndexWriter(index) as writer:
        noted = writer.manifest.noting(card, index)
    assert Manifest.read(index) == noted != writer.manifest
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (index / "manifest.json").is_symlink()
    assert not os.path.lexists(index / "manifest.json.new")


def test_an_index_is_not_waited_for_where_a_fifo_is(run, tmp_path, monkeypatch, not_for_ever):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    os.mkfifo("x.clipdex")
    for words in COMMANDS.values():
        signal.setitimer(signal.ITIMER_REAL, 30)
        status, _, err = run(*words)
        assert status, words
        assert len(err.splitlines()) == 1, (words, err)


def test_a_link_to_a_whole_index_is_followed(index, tmp_path):
    (tmp_path / "link").symlink_to(index)
    assert compact_index(tmp_path / "link") == 1
    with Index.open(tmp_path / "link") as opened:
        assert len(opened) == 19


def test_one_module_opens_the_files_of_an_index():
    forbidden = {"open", "fdopen", "read_bytes", "read_text", "write_bytes", "write_text", "touch", "fromfile"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            if name in forbidden and owner not in (
                "FeatureFile",
                "Index",
                "Int8File",
                "RowStore",
                "SoundFiles",
                "ThumbnailStore",
            ):
                found.add((path.name, called))
            if called in ("sqlite3.connect", "np.memmap", "np.load"):
                found.add((path.name, called))
    assert found == {
        ("files.py", "os.open"),
        ("create.py", "os.open"),  # a folder of its own that is being built, for its lock
        ("files.py", "os.fdopen"),
        ("ann_file.py", "np.fromfile"),  # these two of an open file
        ("files.py", "np.memmap"),  # of an open file
        ("where.py", "sqlite3.connect"),  # in memory
        ("schema.py", "sqlite3.connect"),  # behind `require_database`, in memory, or in a new folder
    }


STRANGE = {
    "a view": ("CREATE VIEW more AS SELECT * FROM rows", "has a view 'more'"),
    "a view for a table": (
        "ALTER TABLE failures RENAME TO f; CREATE VIEW failures AS SELECT * FROM f",
        "'f'|the view 'failures'",
    ),
    "a trigger": (
        "CREATE TRIGGER t AFTER INSERT ON rows BEGIN UPDATE rows SET path = x'00' WHERE row = 0; END",
        "has a trigger 't'",
    ),
    "a table": ("CREATE TABLE other (x)", "has a table 'other'"),
    "a virtual table": ("CREATE VIRTUAL TABLE other USING fts5(x)", "has a table 'other"),
    "an index": ("CREATE INDEX slow ON rows (upper(hex(path)))", "has an index 'slow'"),
    "a column": ("ALTER TABLE rows ADD COLUMN x INTEGER", "the table 'rows' in another form"),
    "a computed column": (
        "ALTER TABLE extents ADD COLUMN x INTEGER GENERATED ALWAYS AS (row_count * 2)",
        "the table 'extents' in another form",
    ),
    "another index": (
        "DROP INDEX tombstones; CREATE INDEX tombstones ON rows (row) WHERE deleted_at IS NULL",
        "the index 'tombstones' in another form",
    ),
    "a table less": ("DROP TABLE metadata", "lacks the table 'metadata'"),
    "an index less": ("DROP INDEX rows_by_path", "lacks the index 'rows_by_path'"),
    "an optional table in another form": (
        "DROP TABLE phashes; CREATE TABLE phashes (row INTEGER PRIMARY KEY, phash BLOB, crc32c INTEGER)",
        "the table 'phashes' in another form",
    ),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_database_with_another_schema_is_refused(index, what):
    sql, words = STRANGE[what]
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        db.executescript(sql)
    for open_it in (Index.open, IndexWriter, compact_index, optimize_index):
        with pytest.raises(clipdex.IndexDamaged, match=words):
            open_it(index)
    assert any(words.split("|")[0] in damage.what for damage in verify_index(index).damages)


@pytest.mark.parametrize("what", ["a view", "a trigger", "a virtual table"])
def test_every_command_says_so_in_one_sentence(run, index, what):
    sql, words = STRANGE[what]
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        db.executescript(sql)
    for command in COMMANDS.values():
        status, out, err = run(*command)
        assert status, command
        assert len(err.splitlines()) <= 1, (command, err)
        assert words in out + err, command


@pytest.mark.parametrize("table", LATER)
def test_an_index_of_the_first_versions_is_still_one(index, table):
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        db.execute(f"DROP TABLE {table}")
    with Index.open(index) as opened:
        assert len(opened) == 19
    IndexWriter(index).close()
    assert verify_index(index).damages == []


def test_other_comments_and_spaces_in_the_schema_are_no_fault(index):
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        db.executescript(
            "DROP TABLE phashes;"
            "CREATE TABLE phashes ( -- as written by another version\n"
            "row INTEGER PRIMARY KEY,\n\n phash BLOB NOT NULL, crc32c INTEGER NOT NULL\n) STRICT"
        )
    with Index.open(index) as opened:
        assert len(opened) == 19


def test_a_schema_may_call_no_function_of_ours(index):
    for write in (False, True):
        store = RowStore.open(index / "rows.sqlite", write=write)
        try:
            assert store._db.execute("PRAGMA trusted_schema").fetchone() == (0,)
        finally:
            store.close()


def test_a_rollback_journal_has_no_file_deleted_that_it_names(index, tmp_path):
    victim = tmp_path / "of value"
    victim.write_text("not the name of a journal")
    name = os.fsencode(victim)
    with closing(sqlite3.connect(index / "rows.sqlite")) as db:
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    magic = bytes.fromhex("d9d505f920a163d7")
    header = (magic + struct.pack(">5I", 0, 0, pages, 512, page_bytes)).ljust(512, b"\0")
    named = (
        struct.pack(">I", 0x40000000 // page_bytes + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    )
    (index / "rows.sqlite-journal").write_bytes(header + named)
    for open_it in (IndexWriter, Index.open, compact_index):
        with pytest.raises(clipdex.IndexDamaged, match="rollback journal"):
            open_it(index)
    assert victim.exists()
