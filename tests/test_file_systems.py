"""File systems without locks or room: an index that nobody writes is read there, and errors say what it is."""

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import present, unit_vectors
from damage import write_index, write_killed_index

import clipdex
from clipdex.index import (
    Index,
    IndexWriter,
    Picture,
    compact_index,
    file_system,
    optimize_index,
    verify_index,
)

pytestmark = [pytest.mark.thin, pytest.mark.once]

_COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.fixture(scope="module")
def nolock(tmp_path_factory):
    if _COMPILER is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("nolock") / "nolock.so"
    source = Path(__file__).with_name("nolock.c")
    subprocess.run([_COMPILER, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    return library


def run_without(library, code, path, **lacks):
    environment = os.environ | {"LD_PRELOAD": str(library)} | lacks
    command = [sys.executable, "-c", "import sys, pathlib, clipdex\n" + code, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


READ = (
    "with clipdex.Index.open(sys.argv[1]) as i: print(len(i.search(i.vector(3), 2)[0]), len(i.where('row < 5')))"
)
MAKE = (
    "m = clipdex.Manifest('f' * 64, 'demo', 8)\n"
    "try: clipdex.IndexWriter.open_or_create(pathlib.Path(sys.argv[1]), m)\n"
    "except clipdex.IndexWriteError as e: print(e)"
)
LACKS = [{"NL_FCNTL": "1"}, {"NL_FCNTL": "1", "NL_ERR": str(errno.EOPNOTSUPP)}, {"NL_MMAP": "1"}]


@pytest.mark.parametrize("lacks", LACKS)
def test_case_23_an_index_that_nobody_writes_is_searched_without_locks(tmp_path, nolock, lacks):
    write_index(tmp_path / "x.clipdex")
    done = run_without(nolock, READ, tmp_path / "x.clipdex", **lacks)
    assert (done.stdout, done.returncode) == ("2 5\n", 0), done.stderr


@pytest.mark.parametrize("lacks", LACKS)
def test_case_23_the_error_names_the_file_system(tmp_path, nolock, lacks):
    done = run_without(nolock, MAKE, tmp_path / "x.clipdex", **lacks)
    assert "file system" in done.stdout, done.stderr
    assert "keep the index on a local disk, docs/durability.md" in done.stdout
    assert os.listdir(tmp_path) == []


def test_case_23_with_commits_in_the_wal_reading_is_refused(tmp_path, nolock):
    write_killed_index(tmp_path / "x.clipdex")
    done = run_without(nolock, READ, tmp_path / "x.clipdex", NL_FCNTL="1")
    assert "still in rows.sqlite-wal" in done.stderr
    assert "keep the index on a local disk" in done.stderr


OPTIMIZE = "from clipdex.index import optimize_index; optimize_index(pathlib.Path(sys.argv[1]))"
WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "index": (IndexWriter, "writer.lock"),
    "compact": (compact_index, "writer.lock"),
    "optimize": (optimize_index, "vectors.int8.building"),
    "ann build": (lambda path: pytest.importorskip("clipdex.ann").build_ann(path), "vectors.ann.building"),
}


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.ENOSYS])
def test_a_lock_that_the_file_system_refuses_is_one_sentence_that_names_it(tmp_path, monkeypatch, command, number):
    if command == "ann build":
        pytest.importorskip("faiss")
    write, file = WRITERS[command]
    path = tmp_path / "x.clipdex"
    write_index(path)
    before = {each: each.read_bytes() for each in path.iterdir()}

    def refused(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(file_system, "_kind", lambda path: "nfs4")
    with pytest.raises(
        clipdex.IndexWriteError,
        match=rf"{file}: cannot be locked: {os.strerror(number)}: this looks like a network file system \(nfs4\): "
        "keep the index on a local disk",
    ):
        write(path)
    assert {each: each.read_bytes() for each in before} == before


@pytest.mark.parametrize("command", WRITERS)
def test_a_lock_that_another_process_has_is_no_refusal_of_the_file_system(tmp_path, command):
    if command == "ann build":
        pytest.importorskip("faiss")
    write, file = WRITERS[command]
    path = tmp_path / "x.clipdex"
    write_index(path)
    with open(path / file, "a+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(clipdex.IndexLocked, match="wait for it, or stop it"):
            write(path)


def test_the_systems_own_refusal_of_a_lock_is_that_sentence(tmp_path, nolock):
    write_index(tmp_path / "x.clipdex")
    done = run_without(nolock, OPTIMIZE, tmp_path / "x.clipdex", NL_FLOCK="1")
    assert "IndexWriteError" in done.stderr
    assert "vectors.int8.building: cannot be locked: No locks available: its file system" in done.stderr


def test_one_module_locks_the_files_of_an_index():
    found = [path.name for path in Path(file_system.__file__).parent.glob("*.py") if "flock(" in path.read_text()]
    assert found == ["file_system.py"]


def test_what_is_written_meanwhile_is_noticed(tmp_path, monkeypatch):
    from clipdex.index import schema

    write_index(tmp_path / "x.clipdex")
    db: Any = schema._open("file:" + str(tmp_path / "x.clipdex" / "rows.sqlite") + "?immutable=1", schema.Still)
    db.path, db.state = (
        tmp_path / "x.clipdex" / "rows.sqlite",
        schema.still(tmp_path / "x.clipdex" / "rows.sqlite"),
    )
    db.require_still()
    os.utime(db.path, ns=(1, 1))
    with pytest.raises(clipdex.IndexFault, match="written to while it was read"):
        db.require_still()
    db.close()


@pytest.mark.parametrize("meanwhile", ["written to", "damaged", "removed"])
@pytest.mark.parametrize("read", ["a condition", "the rows", "each row"])
def test_whatever_is_read_without_locks_is_refused_if_it_was_written_to_meanwhile(
    tmp_path, monkeypatch, read, meanwhile
):
    from clipdex.index import schema
    from clipdex.index.rows import RowStore
    from clipdex.index.where import Where

    write_index(tmp_path / "x.clipdex")
    path = tmp_path / "x.clipdex" / "rows.sqlite"
    opened = schema._open

    class NoLocks(sqlite3.Connection):
        def execute(self, *_):
            raise sqlite3.OperationalError("disk I/O error")

    def without_locks(uri, *kind):
        return NoLocks(":memory:") if "mode=ro" in uri else opened(uri, *kind)

    monkeypatch.setattr(schema, "_open", without_locks)
    where, store = Where(path), RowStore.open(path, write=False)
    where._db.set_authorizer(None)
    assert where._db.execute("PRAGMA mmap_size").fetchone() == (0,)  # a file cut short would end the process
    asked = {
        "a condition": lambda: where.rows("size > 0", None, 300),
        "the rows": lambda: store.live_paths(0, 300),
        "each row": store.broken_records,
    }[read]
    asked()
    where.forget()
    if meanwhile == "removed":
        path.rename(tmp_path / "elsewhere")
    else:
        os.utime(path, ns=(1, 1))
    if meanwhile == "damaged":
        os.truncate(path, 4096)
    with pytest.raises(clipdex.IndexFault, match="written to while it was read"):
        asked()
    where.close()
    store.close()


def test_each_reading_without_locks_notices_what_is_written_meanwhile(tmp_path, monkeypatch):
    from clipdex.index import schema

    write_index(tmp_path / "x.clipdex")
    monkeypatch.setattr(schema, "lacking", lambda file: "its file system gives no locks")
    with Index.open(tmp_path / "x.clipdex") as index:
        assert len(index.where("row < 5")) == 5
        os.utime(tmp_path / "x.clipdex" / "rows.sqlite", ns=(1, 1))
        for read in (
            lambda: index.pictures([3]),
            lambda: index.where("row < 6"),
            lambda: index.rows_now().broken_records(),
        ):
            with pytest.raises(clipdex.IndexFault, match="written to while it was read"):
                read()


def test_a_network_file_system_is_named(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"x")
    assert file_system.lacking(tmp_path / "m") is None

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    monkeypatch.setattr(file_system, "_kind", lambda path: "nfs4")
    assert "this looks like a network file system (nfs4)" in present(file_system.lacking(tmp_path / "m"))


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    from clipdex.index import rows

    write_killed_index(tmp_path / "x.clipdex")

    def full(path, *, write):
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(rows, "connect", full)
    with pytest.raises(clipdex.IndexFault, match="full disk") as error:
        verify_index(tmp_path / "x.clipdex")
    assert not isinstance(error.value, clipdex.IndexDamaged)
    with pytest.raises(clipdex.IndexFault, match="this does not mean that the index is damaged"):
        Index.open(tmp_path / "x.clipdex")


REFUSED = ["database or disk is full", "disk I/O error", "unable to open database file", "database is locked"]


class Refusing:
    """A connection that is refused something when it reads."""

    text_factory = str

    def __init__(self, error):
        self.error = error

    def execute(self, *arguments):
        raise self.error

    def close(self):
        pass


@pytest.mark.parametrize("text", REFUSED)
def test_what_the_system_refuses_after_opening_is_no_damage_either(tmp_path, text):
    write_index(tmp_path / "x.clipdex")
    error = sqlite3.OperationalError(text)
    with Index.open(tmp_path / "x.clipdex") as index:
        index.where("row < 5")
        reads: dict[str, tuple[Any, Callable[[], object]]] = {
            "rows": (index._opened_store, lambda: index.pictures([3])),
            "records": (index._opened_store, lambda: index.rows_now().broken_records()),
            "filter": (index._where, lambda: index.where("row < 6")),
        }
        for owner, read in reads.values():
            real, owner._db = owner._db, Refusing(error)
            with pytest.raises(
                clipdex.IndexFault, match=f"{text}; this does not mean that the index is damaged"
            ) as found:
                read()
            assert type(found.value) is clipdex.IndexFault
            owner._db = real


@pytest.mark.parametrize(
    "error",
    [sqlite3.DatabaseError("database disk image is malformed"), sqlite3.DatabaseError("file is not a database")],
    ids=str,
)
def test_what_sqlite_finds_wrong_after_opening_is_damage(tmp_path, error):
    write_index(tmp_path / "x.clipdex")
    with Index.open(tmp_path / "x.clipdex") as index:
        index.where("row < 5")
        reads: tuple[tuple[Any, Callable[[], object]], ...] = (
            (index._opened_store, lambda: index.pictures([3])),
            (index._where, lambda: index.where("row < 6")),
        )
        for owner, read in reads:
            real, owner._db = owner._db, Refusing(error)
            with pytest.raises(clipdex.IndexDamaged):
                read()
            owner._db = real


def test_a_commit_that_the_disk_refuses_is_no_damage(tmp_path):
    write_index(tmp_path / "x.clipdex")
    writer = IndexWriter(tmp_path / "x.clipdex")
    writer.remove(b"/photos/0008.jpg")
    writer._row_store._db.execute("PRAGMA max_page_count = 1")
    writer.append([Picture(b"/%d" % i, 1, 2, bytes(16), 3, 4) for i in range(2000)], unit_vectors(2000, 16))
    with pytest.raises(clipdex.IndexWriteError, match="the commit was refused: database or disk is full"):
        writer.commit()
    writer.close()
