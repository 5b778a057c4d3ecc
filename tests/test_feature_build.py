"""Making local features of an index: of which files, and that nothing is lost or torn, whatever ends it."""

import fcntl
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import present
from PIL import Image
from test_feature_file import hide
from test_local_features import same, scene

import clipdex
from clipdex.cli import connection_options as connection
from clipdex.features import Matcher
from clipdex.features.store import FeatureStore
from clipdex.index import Index, IndexWriter, compact_index, schema, verify_index
from clipdex.index import compact as compact_module
from clipdex.index.side import database
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import Recipe, extract
from clipdex.model.images import open_image
from clipdex.pipeline import build_features as build_module
from clipdex.pipeline.build_features import build_features
from clipdex.wire import FakeTransport

pytest.importorskip("cv2")
pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {"most": 60, "side": 256}


def drawn(folder: Path, seeds: range) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        scene(seed, (200, 150)).save(folder / f"{seed}.png")
    return folder


def indexed(source, index: Path, **options) -> Path:
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, source, index, workers=1, **options)
    return index


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder of four pictures, the first of which is there twice, and an index of it with features."""
    place = tmp_path_factory.mktemp("built")
    folder = drawn(place / "p", range(4))
    shutil.copy(folder / "0.png", folder / "copy.png")
    index = indexed(folder, place / "x.clipdex")
    done = build_features(index, workers=1, **RECIPE)
    assert (done.made, done.had, done.failed, done.items) == (5, 0, {}, 0)
    return place


@pytest.fixture
def own(built, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(built / "x.clipdex", tmp_path / "x.clipdex")
    return tmp_path / "x.clipdex"


def rows_of(path: Path) -> list[int]:
    with Index.open(path) as index, FeatureStore.open(index) as store:
        return [int(row) for row in store.rows]


def check(path: Path) -> None:
    """Every row of a file that is there has the features of that file."""
    with Index.open(path) as index, FeatureStore.open(index) as store:
        assert len(index) == len(store.rows)
        for row in store.rows:
            file = os.fsdecode(index.picture(int(row)).path)
            assert same(present(store.of(row)), extract(open_image(file), **RECIPE)), file


def test_features_of_rows_are_those_of_their_files(built):
    check(built / "x.clipdex")


def test_a_second_build_reads_only_what_is_new(own, tmp_path):
    indexed(drawn(tmp_path / "more", range(10, 12)), own)
    done = build_features(own, workers=1)
    assert (done.made, done.had, done.recipe.most) == (2, 5, 60)
    done = build_features(own, workers=1)
    assert (done.made, done.had, done.points) == (0, 7, 0)
    check(own)


def test_a_moved_file_keeps_its_features_and_a_changed_one_gets_others(tmp_path):
    folder = drawn(tmp_path / "p", range(3))
    index = indexed(folder, tmp_path / "x.clipdex")
    build_features(index, workers=1, **RECIPE)
    (folder / "0.png").rename(folder / "moved.png")
    scene(30, (200, 150)).save(folder / "1.png")
    indexed(folder, index)
    done = build_features(index, workers=1)
    assert (done.made, done.had, done.failed) == (1, 2, {})
    check(index)


def test_members_of_tars_and_of_tables_have_features(tmp_path):
    folder = drawn(tmp_path / "p", range(3))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    index = indexed(tmp_path / "t.tar", tmp_path / "x.clipdex")
    done = build_features(index, workers=2, **RECIPE)
    assert (done.made, done.failed) == (3, {})
    with Index.open(index) as opened, FeatureStore.open(opened) as store:
        for row in range(3):
            assert same(present(store.of(row)), extract(scene(row, (200, 150)), **RECIPE))
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [file.read_bytes() for file in sorted(folder.iterdir())]
    parquet.write_table(pyarrow.table({"image": cells}), tmp_path / "t.parquet")
    index = indexed(tmp_path / "t.parquet", tmp_path / "y.clipdex")
    assert build_features(index, workers=2, **RECIPE).made == 3


def test_what_cannot_be_read_is_counted_by_reason_and_a_copy_of_it_serves(tmp_path):
    folder = drawn(tmp_path / "p", range(4))
    shutil.copy(folder / "0.png", folder / "zcopy.png")
    shutil.copy(folder / "1.png", tmp_path / "1.png")
    index = indexed(folder, tmp_path / "x.clipdex")
    (folder / "0.png").unlink()  # there is a copy
    (folder / "1.png").unlink()
    scene(50).save(folder / "2.png")  # no longer what was indexed
    done = build_features(index, workers=2, **RECIPE)
    assert (done.made, done.had, done.failed) == (3, 0, {"vanished": 1, "changed": 1})
    assert {os.path.basename(failure.path) for failure in done.failures} == {b"1.png", b"2.png"}
    shutil.copy(tmp_path / "1.png", folder / "1.png")
    done = build_features(index, workers=2)
    assert (done.made, done.had, done.failed) == (1, 3, {"changed": 1})


def test_a_picture_that_kills_its_worker_costs_only_itself(tmp_path, monkeypatch):
    """A worker with too little memory for one picture."""
    folder = drawn(tmp_path / "p", range(2))
    Image.new("RGB", (9000, 9000)).save(folder / "large.png")
    index = indexed(folder, tmp_path / "x.clipdex")
    limits = clipdex.Limits(worker_memory_bytes=256 << 20, large_memory_bytes=0)
    done = build_features(index, workers=1, limits=limits, **RECIPE)
    assert done.made == 2 and set(done.failed) <= {"out_of_memory", "worker_died"} and len(done.failures) == 1


def test_items_of_a_collection_have_no_file_to_make_any_of(tmp_path):
    with (
        clipdex.Client(FakeTransport()) as client,
        clipdex.Collection.open(tmp_path / "x.clipdex", client=client) as collection,
    ):
        collection.add(clipdex.Item("a", image=scene(1)))
    done = build_features(tmp_path / "x.clipdex", workers=1)
    assert (done.made, done.had, done.items, done.failed) == (0, 0, 1, {})


def test_each_part_has_its_own_and_rows_are_those_of_the_whole(tmp_path):
    index = indexed(drawn(tmp_path / "p", range(6)), tmp_path / "x.parts", parts=3)
    assert build_features(index, workers=2, **RECIPE).made == 6
    assert len(list(index.glob("part-*/features.sqlite"))) == 3
    check(index)
    assert verify_index(index).damages == []


def test_an_index_keeps_the_side_that_its_features_were_made_with_and_so_do_parts_that_have_none_yet(tmp_path):
    """Also one that an earlier version made, whose default was another."""
    index = indexed(drawn(tmp_path / "p", range(6)), tmp_path / "x.parts", parts=3)
    assert build_features(index, workers=1, most=60, side=1024).recipe == Recipe("sift", 60, 1024)
    part = next(each for each in sorted(index.glob("part-*.clipdex")) if rows_of(each))  # one may be empty
    for file in part.glob("features.*"):
        file.unlink()
    done = build_features(index, workers=1)
    assert done.made > 0 and done.recipe == Recipe("sift", 60, 1024)
    assert rows_of(index) == list(range(6))
    with Matcher(Index.open(index)) as matcher:
        assert matcher.recipe.side == 1024
    assert build_features(index, workers=1, rebuild=True, kind="orb").recipe == Recipe("orb", 60, 1024)
    assert build_features(index, workers=1, rebuild=True, kind="sift").recipe == Recipe("sift", 60, 640)


def test_another_recipe_is_refused_and_rebuild_makes_all_anew(own):
    with pytest.raises(clipdex.InvalidArgument, match=r"another recipe \(sift, at most 60 .* --rebuild"):
        build_features(own, workers=1, kind="orb")
    with pytest.raises(clipdex.InvalidArgument, match="most is 0"):
        build_features(own, most=0)
    done = build_features(own, workers=1, kind="orb", rebuild=True)
    assert (done.made, done.had, done.recipe.kind, done.recipe.most) == (5, 0, "orb", 60)
    with Index.open(own) as index, FeatureStore.open(index) as store:
        assert {each.shape[1] for _, each in store.blocks()} == {32}


def test_check_makes_damaged_features_again_and_rebuild_replaces_a_broken_file(own):
    with closing(sqlite3.connect(own / "features.sqlite")) as db:
        db.execute("UPDATE features SET descriptors = zeroblob(length(descriptors)) WHERE id = 2")
        db.commit()
    assert build_features(own, workers=1).made == 0
    assert verify_index(own).damages
    assert build_features(own, workers=1, check=True).made == 1
    assert verify_index(own).damages == []
    check(own)
    (own / "features.sqlite").write_bytes(b"no database at all" * 1000)
    with pytest.raises(clipdex.IndexDamaged, match=r"features\.sqlite"):
        build_features(own, workers=1)
    assert build_features(own, workers=1, rebuild=True, **RECIPE).made == 5
    check(own)
    (own / "features.sqlite-journal").write_bytes(b"of a version that was killed while it made the file")
    with pytest.raises(clipdex.IndexDamaged, match="is a rollback journal"):
        build_features(own, workers=1)
    assert build_features(own, workers=1, rebuild=True, **RECIPE).made == 5
    check(own)


def test_pictures_made_again_since_they_were_not_found_are_mended_by_check_or_rebuild(own):
    with closing(sqlite3.connect(own / "features.sqlite")) as db:
        (key,) = db.execute("SELECT content_hash FROM features WHERE id = 2").fetchone()
    hide(own, key)
    assert build_features(own, workers=1).made >= 1  # others may be missed on the way to it
    assert build_features(own, workers=1, check=True).made == 0
    assert verify_index(own).damages == []
    for _ in range(2):
        hide(own, key)
        assert build_features(own, workers=1).made >= 1
    with pytest.raises(clipdex.IndexDamaged, match=r"cannot be mended.*clipdex features build --rebuild"):
        build_features(own, workers=1, check=True)
    assert build_features(own, workers=1, rebuild=True).made == 5
    assert verify_index(own).damages == []
    check(own)


def test_two_builds_at_once_are_refused_and_a_writer_is_not(own):
    with open(own / "features.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(clipdex.IndexLocked, match="another process is making its local features"):
            build_features(own, workers=1)
    with IndexWriter(own):
        assert build_features(own, workers=1).had == 5


@pytest.mark.parametrize(("copied", "at"), [("before", 2), ("after", 2), ("after", 7)])
def test_a_compaction_meanwhile_loses_nothing(tmp_path, monkeypatch, copied, at):
    """The directory at the index's path is another then.

    A commit of features before the compaction copies them is in it; one after that is lost with the old directory,
    and only that is made again.
    """
    folder = drawn(tmp_path / "p", range(8))
    index = indexed(folder, tmp_path / "x.clipdex")
    with IndexWriter(index) as writer:
        writer.remove(os.fsencode(folder / "7.png"))
    monkeypatch.setattr(build_module, "_COMMIT_BYTES", 1)
    real, exchange, kept = FeatureFile.add, compact_module._exchange, list[int]()

    def add(self: FeatureFile, features: Any) -> None:
        kept.append(len(features))
        if len(kept) != at:
            return real(self, features)
        with monkeypatch.context() as patch:
            patch.setattr(FeatureFile, "add", real)
            if copied == "after":
                patch.setattr(compact_module, "_exchange", lambda *each: (real(self, features), exchange(*each)))
            else:
                real(self, features)
            assert compact_index(index) == 1

    monkeypatch.setattr(FeatureFile, "add", add)
    done = build_features(index, workers=1, **RECIPE)
    assert done.made == 7 and rows_of(index) == list(range(7))
    assert len(kept) == (7 if copied == "before" else 8)
    check(index)
    assert verify_index(index).damages == []


def test_a_full_disk_ends_the_build_with_one_sentence_and_keeps_what_was_made(tmp_path, monkeypatch):
    index = indexed(drawn(tmp_path / "p", range(8)), tmp_path / "x.clipdex")
    monkeypatch.setattr(build_module, "_COMMIT_BYTES", 1)
    real = schema.connect

    def small(path: Path, *, write: bool) -> sqlite3.Connection:
        db = real(path, write=write)
        db.execute("PRAGMA max_page_count = 8")  # of 16 kB; a record has some 9 kB
        return db

    monkeypatch.setattr(database, "connect", small)
    with pytest.raises(clipdex.IndexWriteError, match="database or disk is full"):
        build_features(index, workers=1, **RECIPE)
    had = len(rows_of(index))
    assert 0 < had < 8 and verify_index(index).damages == []
    monkeypatch.undo()
    done = build_features(index, workers=1)
    assert (done.made, done.had) == (8 - had, had)
    check(index)


CHILD = """
import sys
from clipdex.pipeline import build_features as module
module._COMMIT_BYTES = 1
module.build_features(sys.argv[1], workers=1, most=60, side=256, progress=lambda *_: print("x", flush=True))
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_build_that_is_killed_loses_and_tears_nothing(tmp_path, seed):
    """SIGKILL a while after a random number of pictures, until a build has come to its end."""
    index = indexed(drawn(tmp_path / "p", range(16)), tmp_path / "x.clipdex")
    rng, had, ended, killed = random.Random(seed), 0, False, 0
    while not ended:
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(index)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            assert child.stdout is not None
            for _ in range(rng.randint(1, 5)):
                ended = not child.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))  # within a commit, or between two
            ended = ended and child.wait() == 0
            child.kill()
        killed += not ended
        assert verify_index(index).damages == []
        now = len(rows_of(index))
        assert now >= had
        had = now
    assert killed >= 3 and had == 16
    assert build_features(index, workers=1).made == 0
    check(index)


def test_index_makes_them_afterwards(run, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: clipdex.Client(FakeTransport()))
    monkeypatch.chdir(tmp_path)
    drawn(tmp_path / "p", range(3))
    words = ("index", "p", "-i", "x.clipdex", "--workers", "1", "--local-features")
    status, out, _ = run(*words, "--json")
    assert status == 0
    made = json.loads(out)["local_features"]
    assert made["made"] == 3 and made["recipe"] == {"kind": "sift", "most": 500, "side": 640}
    status, out, _ = run(*words)
    assert out.splitlines()[1].startswith(
        "x.clipdex: local features (sift, at most 500 points at 640 pixels) of 3 "
    )
    status, out, _ = run("info", "x.clipdex")
    assert "with features  3, 0.1 MB" in out or "with features  3, 0.2 MB" in out
    for other in ("--dry-run", "--refresh-metadata"):
        status, _, err = run(*words, other)
        assert (status, err) == (1, f"clipdex: --local-features and {other} are both given; give one of them\n")
