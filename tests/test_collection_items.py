"""Items and the pictures of folders in one index: what every part of clipdex makes of an item."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, unit_vectors

import clipdex
from clipdex import Collection, Index, IndexWriter, Item
from clipdex.base.item_paths import id_of_path, is_item, item_path, path_text, paths_meant
from clipdex.pipeline.departures import is_gone


@pytest.fixture
def index(fake: clipdex.Client, pictures: Path, tmp_path: Path) -> Path:
    """Twelve pictures of a folder, and four items: one of them a copy of a file, one a vector."""
    made = tmp_path / "x.clipdex"
    clipdex.index_pictures(fake, pictures, made, workers=2)
    with Collection.open(made, client=fake) as collection:
        collection.add(
            [
                Item("a/b ä", noise(100), metadata={"n": 1}),
                Item("copy", pictures / "3.png"),
                Item("vector", vector=unit_vectors(1, 8)[0]),
                Item("..", noise(101)),
            ]
        )
    return made


IDS = ["a/b ä", "copy", "vector", ".."]


def ids(index: Path) -> list[str]:
    with Collection.open(index, read_only=True) as collection:
        return list(collection.ids())


@pytest.mark.thin
def test_no_file_can_have_the_path_of_an_item(tmp_path: Path) -> None:
    path = item_path("cat.jpg")
    assert path == b"id:cat.jpg\0"
    with pytest.raises(ValueError, match="null"):
        os.open(path, os.O_RDONLY)
    with pytest.raises(ValueError, match="null"):
        os.lstat(path)
    assert not is_gone(path)
    assert (is_item(path), id_of_path(path), path_text(path)) == (True, "cat.jpg", "id:cat.jpg")
    assert (is_item(b"/x/id:a"), id_of_path(b"/x/id:a"), path_text(b"/x/id:a")) == (False, None, "/x/id:a")
    assert paths_meant("id:a")[0] == item_path("a")
    assert paths_meant("./id:a") == [os.path.abspath(b"id:a")]


@pytest.mark.thin
def test_no_sync_removes_an_item(index: Path, fake: clipdex.Client, pictures: Path) -> None:
    for picture in list(pictures.rglob("*.png"))[1:]:
        picture.unlink()
    report = clipdex.index_pictures(fake, pictures, index, workers=2)
    assert report.removed == 8
    assert ids(index) == IDS
    clipdex.index_pictures(fake, pictures, index, workers=2, check="content", retry_failures=True)
    clipdex.index_pictures(fake, clipdex.PathList([b"/nowhere.png"], "a list"), index, workers=2)
    assert ids(index) == IDS


@pytest.mark.thin
def test_a_sync_of_the_folder_around_the_index_or_of_the_root_keeps_items(
    index: Path, fake: clipdex.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clipdex.index_pictures(fake, ".", index, workers=2)
    assert ids(index) == IDS
    with IndexWriter(index) as writer:
        paths = [path for some in writer.live_paths(100) for path in some]
    source = clipdex.Folder("/")
    assert not [path for path in source.vanished(paths) if is_item(path)]
    assert not [path for path in source.left_out(paths) if is_item(path)]


@pytest.mark.thin
def test_a_picture_of_a_folder_that_equals_an_item_takes_its_vector(
    update: Callable[..., Any], tmp_path: Path, transport: Any
) -> None:
    (tmp_path / "more").mkdir()
    noise(100).save(tmp_path / "more" / "same.png")
    with (
        clipdex.Client(transport) as client,
        Collection.open(tmp_path / "x", client=client) as collection,
    ):
        collection.add([Item("a", tmp_path / "more" / "same.png")])
    report, embedded = update(tmp_path / "more")
    assert (report.indexed, report.recognised, embedded) == (1, 1, 0)
    assert report.stranded == clipdex.Stranded()


def test_forget_takes_an_item_by_its_id_and_never_as_missing(index: Path, pictures: Path, run: Any) -> None:
    assert clipdex.forget_pictures(index, missing=True).rows == 0
    assert clipdex.forget_pictures(index, missing=True, whole_folders=True).rows == 0
    assert clipdex.forget_pictures(index, ["id:copy"], missing=True).rows == 0
    status, out, err = run("forget", index, "id:copy", "id:a/b ä", "--dry-run")
    assert (status, out.split(";")[0]) == (0, "2 pictures and 0 failures would be forgotten")
    assert "2 added by id" in err
    assert clipdex.forget_pictures(index, ["id:copy"]) == clipdex.Forgotten(1, 0, {"id:": 1})
    with pytest.raises(clipdex.InvalidArgument, match=r"^id:copy: .* has nothing at or below it"):
        clipdex.forget_pictures(index, ["id:copy"])
    assert clipdex.forget_pictures(index, ["/"]).rows == 12
    assert ids(index) == ["a/b ä", "vector", ".."]


@pytest.mark.thin
def test_a_file_of_a_name_like_an_item_is_meant_if_there_is_no_such_item(
    fake: clipdex.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noise(0).save(tmp_path / "id:a", "PNG")
    clipdex.index_pictures(fake, clipdex.PathList([os.fsencode(tmp_path / "id:a")], "a list"), "x", workers=2)
    with Index.open("x") as opened:
        assert opened.row("id:a") == opened.row("./id:a") == 0
    with Collection.open("x", client=fake) as collection:
        assert collection.get("a") is None
        collection.add(Item("a", noise(1)))
        assert collection.get(Path("id:a").absolute()) is not None
    with Index.open("x") as opened:
        assert (opened.row("id:a"), opened.row("./id:a")) == (1, 0)


def test_verify_compact_dump_and_info_handle_items(index: Path, tmp_path: Path, run: Any) -> None:
    clipdex.forget_pictures(index, ["id:copy"])
    assert clipdex.verify_index(index).damages == []
    assert clipdex.compact_index(index) == 1
    assert clipdex.verify_index(index).damages == []
    assert ids(index) == ["a/b ä", "vector", ".."]
    with Collection.open(index, read_only=True) as collection:
        stored = collection.get("a/b ä")
        assert stored is not None and stored.metadata == {"n": 1}
    with Index.open(index) as opened:
        clipdex.dump_table(opened, tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["path"] for row in rows[12:]] == ["id:a/b ä", "id:vector", "id:.."]
    assert run("info", index)[0] == 0


@pytest.mark.thin
def test_filters_know_items_by_id_and_path(index: Path) -> None:
    with Index.open(index) as opened:

        def rows(condition: str) -> list[int]:
            return opened.where(condition).tolist()

        assert rows("id IS NOT NULL") == [12, 13, 14, 15]
        assert rows("id = 'copy'") == rows("path = 'id:copy'") == [13]
        assert rows("path LIKE 'id:%'") == rows("path GLOB 'id:*'") == [12, 13, 14, 15]
        assert rows("id = 'a/b ä'") == rows("id LIKE 'a/%'") == [12]
        assert rows("folder IS NULL") == [12, 13, 14, 15]
        assert len(rows("id IS NULL AND folder LIKE '%'")) == 12
        assert rows("name = 'id:copy'") == [13]
        assert rows("length(path) = 7") == [13]


def test_the_command_line_finds_items_and_shows_them(
    index: Path, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "id:copy").write_bytes(b"not the item")
    monkeypatch.chdir(tmp_path)
    status, out, err = run("search", "-i", index, "--like", "id:copy", "-k", 3, "--html", "sheet.html")
    assert status == 0, err
    assert out.splitlines()[0].endswith("3.png")
    assert "id:copy" not in out
    out = run("search", "-i", index, "--like", "3.png", "--where", "id IS NOT NULL", "--json")[1]
    status, out, err = run("search", "-i", index, "--like", "0", "--where", "id IS NOT NULL", "-k", 9, "--json")
    assert sorted(hit["path"] for hit in json.loads(out)[0]["hits"]) == sorted(f"id:{each}" for each in IDS)
    status, out, _ = run("search", "-i", index, "--like", "0", "--where", "id = 'a/b ä'", "--html", "sheet.html")
    assert out.endswith("— id:a/b ä\n")
    sheet = (tmp_path / "sheet.html").read_text()
    assert "<bdi>id:a/b ä</bdi>" in sheet and "not a file" in sheet and "<img" not in sheet and "href" not in sheet


def test_duplicates_list_items_and_move_none_of_them(
    index: Path, pictures: Path, tmp_path: Path, run: Any
) -> None:
    with Index.open(index) as opened:
        groups = list(clipdex.find_duplicates(opened).groups)
        paths = [path for _, path in opened.live_paths()]
    (group,) = groups
    assert [group.keeper.path, *(other.path for other in group.others)] == [str(pictures / "3.png"), "id:copy"]
    moved = clipdex.move_duplicates(groups, tmp_path / "away", paths)
    assert moved.left == [("id:copy", "it was added by id, and is not a file")]
    assert moved.moved == [] and moved.journal is None
    turned = clipdex.DuplicateGroup(group.others[0], (group.keeper.related("exact", 1.0, 1.0),))
    moved = clipdex.move_duplicates([turned], tmp_path / "away", paths)
    assert moved.left == [(str(pictures / "3.png"), "its keeper id:copy was added by id")]
    assert (pictures / "3.png").exists()


@pytest.mark.thin
def test_signing_leaves_items_without_a_signature(index: Path) -> None:
    from clipdex.apps.duplicates.sign import Signed, sign_index

    assert sign_index(index, workers=1) == Signed(0, 0)


def test_a_damaged_item_is_listed_and_not_retried_as_a_file(
    index: Path, fake: clipdex.Client, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute("UPDATE rows SET width = 7 WHERE row = 13")
    db.commit()
    db.close()
    clipdex.compact_index(index, drop_damaged=True)
    with Index.open(index) as opened:
        (failure,) = opened.failures()
    assert (failure.path, failure.reason) == (item_path("copy"), "damaged")
    assert run("failures", index)[1].startswith("id:copy: damaged")
    status, _, err = run("failures", index, "--retry")
    assert status == 1
    assert "nothing in it can be retried" in err
    with Collection.open(index, client=fake) as collection:
        assert collection.get("copy") is None
        collection.add(Item("copy", noise(3)))
    with Index.open(index) as opened:
        assert opened.failures() == []
    assert "copy" in ids(index)


@pytest.mark.thin
def test_the_rows_of_items_are_as_the_format_says(index: Path) -> None:
    db = sqlite3.connect(f"file:{index}/rows.sqlite?mode=ro", uri=True)
    found = db.execute("SELECT path, size, width, height, content_hash FROM rows WHERE row >= 12 ORDER BY row")
    rows = found.fetchall()
    assert [path for path, *_ in rows] == [f"id:{each}\0".encode() for each in IDS]
    assert [row[1:4] for row in rows[::2]] == [(3600, 40, 30), (32, 0, 0)]
    pixels, vector = b"40 30 " + noise(100).tobytes(), unit_vectors(1, 8)[0].tobytes()
    assert rows[0][4] == hashlib.blake2b(pixels, digest_size=16, person=b"clipdexpixels").digest()
    assert rows[2][4] == hashlib.blake2b(vector, digest_size=16, person=b"clipdexvector").digest()
    same = "SELECT content_hash FROM rows WHERE CAST(path AS TEXT) LIKE '%/3.png'"
    assert rows[1][4] == db.execute(same).fetchone()[0]
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


@pytest.mark.parametrize(
    "value",
    [float("nan"), [b"x", 1], {1}, {1: 1, "1": 2}, np.float32(1), "\ud83d"],
    ids=["NaN", "bytes in a list", "a set", "names that become one", "a NumPy number", "half a surrogate"],
)
def test_metadata_that_would_be_changed_is_refused(value: object) -> None:
    with pytest.raises(clipdex.InvalidArgument, match="the metadata's field 'a' cannot be kept"):
        Item("x", vector=[1.0], metadata={"a": value})


def test_metadata_is_bounded_in_all() -> None:
    with pytest.raises(clipdex.InvalidArgument, match="expected 1 MiB at most"):
        Item("x", vector=[1.0], metadata={f"{i}": "y" * 60_000 for i in range(20)})
    with pytest.raises(clipdex.InvalidArgument, match="expected 1 MiB at most"):
        Item("x", vector=[1.0], metadata={"y" * 2_000_000: 1})
    assert Item("x", vector=[1.0], metadata={"a": (1, [2.5, None, {"b": True}])}).id == "x"
