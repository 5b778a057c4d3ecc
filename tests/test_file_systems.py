"""File systems without locks or room: an index that nobody writes is read there, and errors say what it is."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from damage import write_index, write_killed_index

import clipdex
from clipdex.index import Index, file_system, verify_index

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


def run(library, code, path, **lacks):
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
    done = run(nolock, READ, tmp_path / "x.clipdex", **lacks)
    assert (done.stdout, done.returncode) == ("2 5\n", 0), done.stderr


@pytest.mark.parametrize("lacks", LACKS)
def test_case_23_the_error_names_the_file_system(tmp_path, nolock, lacks):
    done = run(nolock, MAKE, tmp_path / "x.clipdex", **lacks)
    assert "file system" in done.stdout, done.stderr
    assert "keep the index on a local disk, docs/durability.md" in done.stdout
    assert os.listdir(tmp_path) == []


def test_case_23_with_commits_in_the_wal_reading_is_refused(tmp_path, nolock):
    write_killed_index(tmp_path / "x.clipdex")
    done = run(nolock, READ, tmp_path / "x.clipdex", NL_FCNTL="1")
    assert "still in rows.sqlite-wal" in done.stderr
    assert "keep the index on a local disk" in done.stderr


def test_what_is_written_meanwhile_is_noticed(tmp_path, monkeypatch):
    from clipdex.index import schema

    write_index(tmp_path / "x.clipdex")
    db = schema._open("file:" + str(tmp_path / "x.clipdex" / "rows.sqlite") + "?immutable=1", schema.Still)
    db.path, db.state = (
        tmp_path / "x.clipdex" / "rows.sqlite",
        schema.still(tmp_path / "x.clipdex" / "rows.sqlite"),
    )
    db.require_still()
    os.utime(db.path, ns=(1, 1))
    with pytest.raises(clipdex.IndexFault, match="written to while it was read"):
        db.require_still()
    db.close()


def test_a_network_file_system_is_named(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(b"x")
    assert file_system.lacking(tmp_path / "m") is None

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_system.fcntl, "lockf", no_locks)
    monkeypatch.setattr(file_system, "_kind", lambda path: "nfs4")
    assert "this looks like a network file system (nfs4)" in file_system.lacking(tmp_path / "m")


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    from clipdex.index import rows

    write_killed_index(tmp_path / "x.clipdex")

    def full(path, *, write):
        raise rows.sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(rows, "connect", full)
    with pytest.raises(clipdex.IndexFault, match="full disk") as error:
        verify_index(tmp_path / "x.clipdex")
    assert not isinstance(error.value, clipdex.IndexDamaged)
    with pytest.raises(clipdex.IndexFault, match="nothing says that the index is damaged"):
        Index.open(tmp_path / "x.clipdex")
