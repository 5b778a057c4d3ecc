"""Files of an index that have other names (hard links): read, and never written to."""

import os
import re
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import unit_vectors
from damage import write_index, write_killed_index

import clipdex
from clipdex.index import Index, IndexWriter, compact_index, optimize_index, verify_index
from clipdex.index.files import open_to_read, open_to_write

pytestmark = pytest.mark.thin

REFUSAL = r"has 2 names \(hard links\).*copy the index's directory with `cp -r`, and write to the copy"


def linked(path, names=None):
    """As `cp -al` makes a backup."""
    backup = path.with_name("backup.clipdex")
    backup.mkdir()
    for file in path.iterdir():
        if names is None or file.name in names:
            os.link(file, backup / file.name)
    return backup


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def searched(path):
    with Index.open(path) as index:
        return len(index.search(unit_vectors(1, 16)[0], 400)[0]), len(index.where("row < 5"))


@pytest.mark.parametrize("name", ["vectors.f16", "rows.sqlite", "writer.lock"])
def test_a_writer_refuses_a_file_with_two_names_and_changes_nothing(tmp_path, name):
    path = tmp_path / "x.clipdex"
    write_index(path)
    backup = linked(path, [name])
    before = bytes_of(backup)
    for write in (IndexWriter, lambda path: compact_index(path, drop_damaged=True)):
        with pytest.raises(clipdex.IndexWriteError, match=f"{re.escape(name)}: {REFUSAL}"):
            write(path)
    assert bytes_of(backup) == before
    assert searched(path) == (299, 5)
    assert verify_index(path).damages == []
    shutil.copytree(path, tmp_path / "copy.clipdex")
    IndexWriter(tmp_path / "copy.clipdex").close()
    shutil.rmtree(backup)
    IndexWriter(path).close()


def test_a_backup_of_links_is_searched_and_what_it_is_of_too(tmp_path):
    path = tmp_path / "x.clipdex"
    write_index(path)
    optimize_index(path)
    backup = linked(path)
    for each in (path, backup):
        assert searched(each) == (299, 5)
        assert verify_index(each).damages == []


def test_a_killed_writers_files_with_two_names_are_not_written_to(tmp_path):
    path = tmp_path / "x.clipdex"
    write_killed_index(path)
    for name in ("rows.sqlite-wal", "rows.sqlite-shm"):
        (path / name).touch()
        backup = linked(path, [name])
        before = bytes_of(backup)
        with pytest.raises(clipdex.IndexWriteError, match=f"{name}: {REFUSAL}"):
            IndexWriter(path)
        assert bytes_of(backup) == before
        shutil.rmtree(backup)


def test_not_even_a_reader_writes_to_shared_memory_with_two_names(tmp_path):
    path = tmp_path / "x.clipdex"
    write_index(path)
    (path / "rows.sqlite-shm").write_bytes(b"of value to its owner")
    backup = linked(path, ["rows.sqlite-shm"])
    assert searched(path) == (299, 5)
    assert bytes_of(backup) == {"rows.sqlite-shm": b"of value to its owner"}
    killed = tmp_path / "killed.clipdex"
    write_killed_index(killed)
    os.link(backup / "rows.sqlite-shm", killed / "rows.sqlite-shm")
    with pytest.raises(clipdex.IndexFault, match=r"rows\.sqlite-shm: has other names .*`cp -r`") as error:
        Index.open(killed)
    assert not isinstance(error.value, clipdex.IndexDamaged)
    assert bytes_of(backup) == {"rows.sqlite-shm": b"of value to its owner"}


@pytest.mark.parametrize("name", ["vectors.int8.building", "vectors.ann.building"])
def test_a_side_file_that_is_built_is_not_built_in_another_ones_file(tmp_path, name):
    from clipdex.ann import build_ann

    if "ann" in name:
        pytest.importorskip("faiss")
    path = tmp_path / "x.clipdex"
    write_index(path)
    (tmp_path / "of value").write_text("to its owner")
    os.link(tmp_path / "of value", path / name)
    with pytest.raises(clipdex.IndexWriteError, match=f"{name}: {REFUSAL}"):
        build_ann(path) if "ann" in name else optimize_index(path)
    assert (tmp_path / "of value").read_text() == "to its owner"
    assert (path / name).exists()


def test_what_is_replaced_whole_may_have_two_names_and_its_other_one_stays(tmp_path):
    path = tmp_path / "x.clipdex"
    write_index(path)
    optimize_index(path)
    backup = linked(path, ["manifest.json", "vectors.int8"])
    before = bytes_of(backup)
    with IndexWriter(path) as writer:
        card: Any = SimpleNamespace(below_floor="top-1 agreement 0.98")
        writer.manifest.noting(card, path)
        writer.remove(b"/photos/0008.jpg")
    (path / "vectors.int8").unlink()
    os.link(backup / "vectors.int8", path / "vectors.int8")
    optimize_index(path)
    assert compact_index(path) == 2
    assert bytes_of(backup) == before


def test_only_writing_asks_for_one_name(tmp_path):
    (tmp_path / "one").write_text("x")
    os.link(tmp_path / "one", tmp_path / "two")
    open_to_read(tmp_path / "one").close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(clipdex.IndexWriteError, match=REFUSAL):
        open_to_write(tmp_path / "one")
    assert len(os.listdir("/proc/self/fd")) == before
