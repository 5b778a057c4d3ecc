"""Every public function that takes a path takes it as text and as pathlib.Path, and refuses anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import noise
from drawn_index import drawn_index

import clipdex
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


@pytest.fixture
def place(tmp_path, monkeypatch):
    """x: an index; photos: a folder with one picture; list.txt: a list with it. The current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    noise(1).save(tmp_path / "photos" / "a.png")
    (tmp_path / "list.txt").write_text("photos/a.png\n")
    drawn_index(tmp_path / "x", rows=4)
    return tmp_path


def dumped(dump, path):
    with clipdex.Index.open("x") as index:
        return dump(index, path)


def indexed(index):
    with clipdex.Client(FakeTransport()) as client:
        return clipdex.index_pictures(client, "photos", index, workers=1).indexed


ENTRANCES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "Index.open": ("x", lambda path: clipdex.Index.open(path).close()),
    "IndexWriter": ("x", lambda path: clipdex.IndexWriter(path).close()),
    "verify_index": ("x", clipdex.verify_index),
    "compact_index": ("x", clipdex.compact_index),
    "find_duplicates": ("x", clipdex.find_duplicates),
    "forget_pictures": ("x", lambda path: clipdex.forget_pictures(path, ["/p/odd"], dry_run=True)),
    "plan_run": ("y", lambda path: clipdex.plan_run("photos", path)),
    "index_pictures": ("y", indexed),
    "open_source": ("photos", clipdex.open_source),
    "open_sources": ("photos", lambda path: clipdex.open_sources([path])),
    "PathList.read": ("list.txt", clipdex.PathList.read),
    "dump_table": ("t.csv", lambda path: dumped(clipdex.dump_table, path)),
    "dump_npy": ("v.npy", lambda path: dumped(clipdex.dump_npy, path)),
    "dump_faiss": ("v.faiss", lambda path: dumped(clipdex.dump_faiss, path)),
}


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_path_may_be_text_or_a_path(place, entrance, kind):
    path, call = ENTRANCES[entrance]
    call(kind(path))


@pytest.mark.parametrize("given", [7, None, "", ["x"]], ids=repr)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_anything_else_is_refused_in_one_sentence(place, entrance, given):
    with pytest.raises(clipdex.InvalidArgument, match="expected a path, as text or pathlib"):
        ENTRANCES[entrance][1](given)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_path_with_a_zero_byte_is_refused_in_one_sentence(place, entrance):
    with pytest.raises(clipdex.InvalidArgument, match=r"'a\\x00b'; no path contains a zero byte"):
        ENTRANCES[entrance][1]("a\0b")
