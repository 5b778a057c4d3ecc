"""Local features of items: made when they are added, since no file is there later."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present
from scenes import scene, scene_png

import clipdex
from clipdex import Collection, Index, Item, compact_index
from clipdex.cli import connection_options as connection
from clipdex.features.store import FeatureStore
from clipdex.index import IndexWriter, schema, verify_index
from clipdex.index.merge import merge_indexes
from clipdex.index.rows import RowStore
from clipdex.index.side import database
from clipdex.index.side.feature_file import FeatureFile, make_features
from clipdex.index.split import split_index
from clipdex.looks.local_features import LocalFeatures, Recipe, extract
from clipdex.model.images import open_image
from clipdex.pipeline.build_features import build_features
from clipdex.pipeline.feature_service import FeatureService
from clipdex.testing import FakeTransport

pytest.importorskip("cv2")
pytestmark = pytest.mark.slow

CROP = (80, 60, 240, 200)
SMALL = Recipe("sift", 60, 256)


def opened(index: Path, **options: Any) -> Collection:
    return Collection.open(index, client=clipdex.Client(FakeTransport()), **options)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index without pictures that has features, of a recipe that takes little time."""
    path = tmp_path / "x.clipdex"
    opened(path).close()
    make_features(path, SMALL)
    return path


def features_of(index: Path) -> dict[str, LocalFeatures | None]:
    """The features of each item, None for none."""
    with Index.open(index) as found, FeatureStore.open(found) as store, Collection.open(index) as items:
        return {str(each.id): store.of(each.row) for each in items}


def same(one: LocalFeatures | None, other: LocalFeatures) -> bool:
    return one is not None and one.to_bytes() == other.to_bytes()


def jpeg(n: int) -> bytes:
    data = io.BytesIO()
    scene(n, (1600, 1200)).save(data, "JPEG", quality=90)
    return data.getvalue()


@pytest.mark.parametrize("workers", [0, 1])
def test_items_have_the_features_that_their_files_would_have(index: Path, tmp_path: Path, workers: int) -> None:
    """Of whatever an item is; a large JPEG is decoded smaller than it is for both."""
    given = {"path": jpeg(1), "bytes": jpeg(2), "file": jpeg(3)}
    (tmp_path / "p").mkdir()
    for name, data in given.items():
        (tmp_path / "p" / f"{name}.jpg").write_bytes(data)
    with opened(index, decode_workers=workers) as collection:
        collection.add(Item("path", tmp_path / "p" / "path.jpg"))
        collection.add(
            [
                Item("bytes", given["bytes"]),
                Item("file", io.BytesIO(given["file"])),
                Item("image", scene(4)),
                Item("array", np.asarray(scene(5))),
                Item("vector", vector=collection.vector("path")),
            ]
        )
        assert [each.id for each in collection.match(scene(4))] == ["image"]
    found = features_of(index)
    assert found.pop("vector") is None
    assert same(found["image"], extract(scene(4), most=60, side=256))
    assert same(found["array"], extract(scene(5), most=60, side=256))
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, tmp_path / "p", tmp_path / "y.clipdex", workers=1)
    build_features(tmp_path / "y.clipdex", workers=1, most=60, side=256)
    with Index.open(tmp_path / "y.clipdex") as files, FeatureStore.open(files) as store:
        for row in range(3):
            name = Path(os.fsdecode(files.picture(row).path)).stem
            assert same(found[name], present(store.of(row))), name
    assert verify_index(index).damages == []


def test_an_index_without_features_gets_none_unless_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.clipdex"
    for wanted in (None, False):
        with opened(path, local_features=wanted) as collection:
            collection.add(Item("a", scene_png(1)))
            assert not (path / "features.sqlite").exists()
            assert collection.info().with_features == 0
    with opened(path, local_features=True) as collection:
        assert not collection.holds(Item("a", scene_png(1)))  # not with its features
        collection.add([Item("a", scene_png(1)), Item("b", scene_png(2))])
        assert collection.holds(Item("a", scene_png(1)))
        assert collection.info().with_features == 2
        assert [each.id for each in collection.match(scene_png(1, CROP))] == ["a"]
    with opened(path, local_features=False) as collection:
        collection.add(Item("c", scene_png(3)))
    with opened(path) as collection:
        collection.add(Item("d", scene_png(4)))
    assert {item: found is not None for item, found in features_of(path).items()} == {
        "a": True,
        "b": True,
        "c": False,
        "d": True,
    }
    with pytest.raises(clipdex.InvalidArgument, match="local_features is 'yes'; expected True, False or None"):
        opened(path, local_features="yes")


def test_known_contents_are_not_looked_at_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = FeatureService.extract
    monkeypatch.setattr(FeatureService, "extract", lambda *a, **b: (asked.append(1), real(*a, **b))[1])
    with opened(index, decode_workers=1) as collection:
        for item_id in ("a", "a", "b"):
            collection.add(Item(item_id, scene_png(1)))
    assert len(asked) == 1
    assert all(found is not None for found in features_of(index).values())


def test_few_pictures_of_a_long_list_wait_for_their_features(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, most = set[int](), [0]
    real = FeatureService.extract

    def extract_noted(self: FeatureService, *args: Any, **options: Any) -> Any:
        done = real(self, *args, **options)
        waiting.add(id(done))
        most[0] = max(most[0], len(waiting))
        done.add_done_callback(lambda each: waiting.discard(id(each)))
        return done

    monkeypatch.setattr(FeatureService, "extract", extract_noted)
    with opened(index, decode_workers=1) as collection:
        assert collection.add(Item(str(n), scene_png(n)) for n in range(30)) == 30
    assert 1 <= most[0] <= 4
    assert all(found is not None for found in features_of(index).values())


def test_the_asyncio_twin_makes_them_too(index: Path) -> None:
    from clipdex import aio

    async def add() -> list[str | None]:
        with clipdex.Client(FakeTransport()) as client:
            async with aio.Collection.open(index, client=client, decode_workers=1) as collection:
                await asyncio.gather(*(collection.add(Item(str(n), scene_png(n))) for n in range(6)))
                return [each.id for each in await collection.match(scene_png(3))]

    assert asyncio.run(add()) == ["3"]


def test_they_follow_removals_compaction_merge_and_split(index: Path, tmp_path: Path) -> None:
    with opened(index) as collection:
        collection.add([Item(str(n), scene_png(n)) for n in range(4)])
        collection.remove(["0", "2"])
        assert collection.match(scene_png(2)) == []
    assert compact_index(index) == 2
    merge_indexes([index], tmp_path / "y.clipdex")
    split_index(index, tmp_path / "y.parts", 3)
    for path in (index, tmp_path / "y.clipdex", tmp_path / "y.parts"):
        with Index.open(path) as found, FeatureStore.open(found) as store:
            assert len(found) == len(store.rows) == found.info().with_features == 2
            for row in store.rows:
                n = int(os.fsdecode(found.picture(int(row)).path)[3])
                made = extract(open_image(scene_png(n)), most=60, side=256)
                assert same(store.of(int(row)), made)
        assert verify_index(path).damages == []
    with opened(index) as collection:
        collection.remove(["1", "3"])
    assert compact_index(index) == 2
    with opened(index) as collection:  # an index that is empty has its kind of features still
        collection.add(Item("9", scene_png(9)))
    assert same(features_of(index)["9"], extract(open_image(scene_png(9)), most=60, side=256))
    assert all(
        present(FeatureFile.open(part)).recipe == SMALL for part in (tmp_path / "y.parts").glob("part-*.clipdex")
    )


def test_a_build_counts_those_that_have_none_and_keeps_what_it_cannot_make_anew(index: Path) -> None:
    with opened(index, local_features=False) as collection:
        collection.add(Item("without", scene_png(1)))
    with opened(index) as collection:
        collection.add([Item("with", scene_png(2)), Item("too", scene_png(3))])
    done = build_features(index, workers=1)
    assert (done.made, done.had, done.items) == (0, 2, 1)
    done = build_features(index, workers=1, rebuild=True)
    assert (done.made, done.had, done.items) == (0, 2, 1)
    assert features_of(index)["with"] is not None
    done = build_features(index, workers=1, rebuild=True, kind="orb")
    assert (done.made, done.had, done.items) == (0, 0, 3)
    with opened(index) as collection:
        collection.add([Item("with", scene_png(2))])
    assert present(features_of(index)["with"]).descriptors.shape[1] == 32


def test_a_rebuild_of_the_same_kind_makes_those_of_files_anew(index: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for n in (1, 2):
        (tmp_path / "p" / f"{n}.png").write_bytes(scene_png(n))
    with opened(index) as collection:
        collection.add([Item("copy", scene_png(1)), Item("alone", scene_png(3))])
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, tmp_path / "p", index, workers=1)
    done = build_features(index, workers=1)
    assert (done.made, done.had, done.items) == (1, 3, 0)
    done = build_features(index, workers=1, rebuild=True)
    assert (done.made, done.had, done.items) == (3, 1, 0)


def test_features_of_another_recipe_are_never_mixed_in(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A build that makes all anew, another way, between the making of an item's features and its commit."""
    made = extract(scene(1), most=60, side=256)
    with closing(present(FeatureFile.open(index, write=True))) as late:
        with closing(present(FeatureFile.open(index, write=True))) as other:
            other.empty(Recipe("orb"))
        with pytest.raises(clipdex.IndexLocked, match="the local features were made anew meanwhile"):
            late.add({b"1" * 16: made})
    with IndexWriter(index) as writer:
        writer.keep_features(b"1" * 16, SMALL, made)
        writer.fail(clipdex.Failure(b"/x", "vanished", "it is gone", 0, 0))
    with closing(present(FeatureFile.open(index))) as file:
        assert (file.count()[0], file.recipe.kind) == (0, "orb")
    assert verify_index(index).damages == []


def test_a_picture_without_features_is_added_all_the_same(
    index: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with opened(index) as collection, monkeypatch.context() as patch:
        patch.setattr("clipdex.collection.describing.features_of", fail)
        assert collection.add(Item("a", scene_png(1))) == 1
    assert "added without local features" in caplog.text
    monkeypatch.setattr("clipdex.pipeline.feature_service.wanted", lambda *_: b"not what it reads")
    with opened(index, decode_workers=1) as collection:
        assert collection.add([Item("b", scene_png(2)), Item("c", scene_png(3))]) == 2
    assert features_of(index) == {"a": None, "b": None, "c": None}
    (index / "features.sqlite").write_bytes(b"no database at all" * 1000)
    with opened(index) as collection:
        assert collection.add(Item("d", scene_png(4))) == 1
    assert "what is added has no local features" in caplog.text


def test_without_opencv_only_who_asks_for_features_is_told(
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    run: Any,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(clipdex.MissingExtra, match=r"finding local features needs opencv-python-headless") as told:
        opened(tmp_path / "new.clipdex", local_features=True)
    assert "\n" not in str(told.value) and "features" in str(told.value)
    assert not (tmp_path / "new.clipdex").exists()
    for path in (index, tmp_path / "other.clipdex"):
        with opened(path) as collection:
            assert collection.add([Item("a", scene_png(1)), Item("b", scene_png(2))]) == 2
    assert len([each for each in caplog.records if "has no local features" in each.message]) == 1
    assert features_of(index) == {"a": None, "b": None}
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: clipdex.Client(FakeTransport()))
    (tmp_path / "1.png").write_bytes(scene_png(1))
    capsys.readouterr()  # the warning, where an earlier command in this process made a log of it
    status, out, err = run("add", tmp_path / "1.png", "-i", tmp_path / "new.clipdex", "--local-features")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "opencv-python-headless" in err
    assert not (tmp_path / "new.clipdex").exists()


def test_a_full_disk_is_one_sentence_and_nothing_is_added(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = schema.connect

    def small(path: Path, *, write: bool) -> sqlite3.Connection:
        db = real(path, write=write)
        if path.name == "features.sqlite":
            db.execute("PRAGMA max_page_count = 1")
        return db

    with opened(index) as collection:
        with monkeypatch.context() as patch:
            patch.setattr(database, "connect", small)
            with pytest.raises(clipdex.IndexWriteError, match=r"features\.sqlite: cannot be written: .* is full"):
                collection.add([Item(str(n), scene_png(n)) for n in range(4)])
        assert len(collection) == 0
        collection.add(Item("a", scene_png(1)))
        assert [each.id for each in collection.match(scene_png(1))] == ["a"]


def test_features_that_a_full_disk_refused_are_stored_with_the_next_commit(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows wait for that commit, too."""
    made = extract(scene(1), most=60, side=256)
    manifest = json.loads((index / "manifest.json").read_text())
    with IndexWriter(index) as writer:
        writer.append(
            [clipdex.Picture(b"/p/1.png", 1, 1, b"1" * 16, 320, 240)],
            np.eye(1, manifest["embedding_dim"], dtype="f4"),
        )
        writer.keep_features(b"1" * 16, SMALL, made)
        with monkeypatch.context() as patch, pytest.raises(clipdex.IndexWriteError, match="is full"):
            patch.setattr(FeatureFile, "add", _full)
            writer.commit()
        writer.commit()
    with Index.open(index) as found, FeatureStore.open(found) as store:
        assert same(store.of(0), made)


def _full(*_: object) -> None:
    raise clipdex.IndexWriteError("features.sqlite: cannot be written: database or disk is full")


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
import clipdex
from scenes import scene_png
from clipdex.testing import FakeTransport
with clipdex.Collection.open(sys.argv[1], client=clipdex.Client(FakeTransport())) as collection:
    for n in range(int(sys.argv[3]), 1000):
        collection.add([clipdex.Item(f"{n}-{each}", scene_png(2 * n + each)) for each in range(2)])
        print("x", flush=True)
"""


def test_a_kill_leaves_no_item_without_the_features_that_it_was_added_with(index: Path) -> None:
    begun = 0
    for kept in (1, 3, 2):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(index), str(Path(__file__).parent), str(begun)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            assert child.stdout is not None
            for _ in range(kept):
                assert child.stdout.readline() == b"x\n"
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read()
        begun += 10
        assert verify_index(index).damages == []
        found = features_of(index)
        assert len(found) >= 2 * (kept + len(rest.split()))
        for item, features in found.items():
            n, each = map(int, item.split("-"))
            assert same(features, extract(open_image(scene_png(2 * n + each)), most=60, side=256)), item


def test_features_are_on_disk_before_their_rows(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves just before the commit of the rows, and just after it."""
    before, after = tmp_path / "before.clipdex", tmp_path / "after.clipdex"
    real = RowStore.commit

    def commit(self: RowStore, *what: Any) -> None:
        shutil.copytree(index, before)
        real(self, *what)
        shutil.copytree(index, after)

    with opened(index) as collection, monkeypatch.context() as patch:
        patch.setattr(RowStore, "commit", commit)
        collection.add(Item("a", scene_png(1)))
    assert features_of(before) == {}
    assert features_of(after)["a"] is not None
    for killed in (before, after):
        assert verify_index(killed).damages == []
        with opened(killed) as collection:
            collection.add(Item("a", scene_png(1)))
        assert features_of(killed)["a"] is not None


class Stream(io.RawIOBase):
    """A file that can be read once, as a pipe."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def test_a_stream_that_can_be_read_once_gives_features_and_a_thumbnail(index: Path) -> None:
    with opened(index, thumbnails=True) as collection:
        collection.add(Item("a", Stream(scene_png(1))))  # type: ignore[arg-type]  # as a web framework may give it
        assert collection.thumbnail("a") is not None
    assert features_of(index)["a"] is not None


def test_the_command_adds_features_if_asked_and_fills_in_what_is_missing(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: clipdex.Client(FakeTransport()))
    monkeypatch.chdir(tmp_path)
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(scene_png(n))
    (tmp_path / "crop.png").write_bytes(scene_png(1, CROP))
    (tmp_path / "t.csv").write_text("id,path\n" + "".join(f"{n},{n}.png\n" for n in range(3)))
    assert run("add", "0.png", "--id", "0", "-i", "x.clipdex")[0] == 0
    assert not (tmp_path / "x.clipdex" / "features.sqlite").exists()
    status, out, err = run("add", "--ids-from", "t.csv", "-i", "x.clipdex", "--local-features")
    assert (status, out) == (0, "3 items added, 0 unchanged, 0 failed; x.clipdex holds 3\n"), err
    assert run("add", "--ids-from", "t.csv", "-i", "x.clipdex")[1].startswith("0 items added, 3 unchanged")
    assert "with features  3, " in run("info", "x.clipdex")[1]
    status, out, err = run("match", "crop.png", "-i", "x.clipdex", "--json")
    assert status == 0, err
    ((found,),) = [answer["matches"] for answer in json.loads(out)]
    assert found["path"] == "id:1"


def test_nothing_is_left_of_a_new_index_to_which_nothing_could_be_added(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: clipdex.Client(FakeTransport()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert run("add", "bad.png", "-i", "x.clipdex", "--local-features")[0] == 1
    assert not (tmp_path / "x.clipdex").exists()


def test_a_new_index_is_not_opened_while_another_process_makes_its_features(index: Path) -> None:
    for each in index.glob("features.*"):
        each.unlink()
    import fcntl

    with open(index / "features.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(clipdex.IndexLocked, match="another process is making its local features"):
            opened(index, local_features=True)
    with opened(index, local_features=True) as collection:
        assert collection.add(Item("a", scene_png(1))) == 1
