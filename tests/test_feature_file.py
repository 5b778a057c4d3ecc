"""The side file of local features: its bytes, its damage, and that it goes where its rows go."""

import hashlib
import os
import random
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import present
from damage import damage_and_verify, write_features, write_index
from drawn_index import drawn_index

import clipdex
from clipdex.features.store import FeatureStore
from clipdex.index import Index, IndexWriter, compact_index, schema, verify_index
from clipdex.index.merge import merge_indexes
from clipdex.index.side import database
from clipdex.index.side.feature_file import (
    FEATURES_FILE,
    FeatureFile,
    feature_count,
    has_features,
    make_features,
)
from clipdex.index.split import split_index
from clipdex.index.thumbnails import ThumbnailStore
from clipdex.looks.local_features import KINDS, LocalFeatures, Recipe

pytestmark = pytest.mark.thin


def features(seed: int, points: int = 20, kind: str = "sift") -> LocalFeatures:
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 300, (points, 2)).astype(np.float32)
    scales, angles = rng.uniform(2, 40, points).astype(np.float32), rng.uniform(0, 6, points).astype(np.float32)
    descriptors = rng.integers(0, 256, (points, KINDS[kind]), dtype=np.uint8)
    return LocalFeatures(places, scales, angles, descriptors, (320, 240))


def same(a: LocalFeatures, b: LocalFeatures) -> bool:
    return a.to_bytes() == b.to_bytes()


def content(row: int) -> bytes:
    """The content hash of a row of `drawn_index`."""
    return row.to_bytes(16, "big")


def drawn(path: Path, rows: int = 12, have: range = range(10)) -> Path:
    """An index some of whose rows have features: those of row i are `features(i)`."""
    drawn_index(path, rows=rows)
    with closing(FeatureFile.open_or_make(path, Recipe())) as file:
        file.add({content(row): features(row) for row in have})
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An index whose first ten rows of twelve have features; for tests that do not change it."""
    return drawn(tmp_path_factory.mktemp("whole") / "x.clipdex")


@pytest.fixture
def index(whole, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "x.clipdex"))


def open_thumbnails(path: Path) -> None:
    present(ThumbnailStore.open(path, write=True)).close()


def rows_of(path: Path) -> list[int]:
    with Index.open(path) as index, FeatureStore.open(index) as store:
        return [int(row) for row in store.rows]


def test_the_bytes_of_a_record_and_of_the_file_are_those_of_the_format(tmp_path):
    path = drawn_index(tmp_path / "x.clipdex", rows=1)
    places, scales, angles = (np.array(each, np.float32) for each in ([[1, 2], [0.5, -0.5]], [3, 4], [0, 1.5]))
    two = LocalFeatures(places, scales, angles, np.arange(256, dtype=np.uint8).reshape(2, 128), (30, 20))
    with closing(FeatureFile.open_or_make(path, Recipe("sift", 500, 1024))) as file:
        file.add({content(0): two})
    db = sqlite3.connect(path / "features.sqlite")
    with closing(db):
        (record,) = db.execute("SELECT * FROM features").fetchall()
        assert record[:6] == (1, content(0), 30, 20, 2, bytes.fromhex(
            "0000803f" "00000040" "00004040" "00000000" "0000003f" "000000bf" "00008040" "0000c03f"
        ))  # fmt: skip
        assert record[6:] == (bytes(range(256)), 2387058279)
        (recipe,) = db.execute("SELECT kind, most, side, length(identity) FROM recipe").fetchall()
        assert recipe == ("sift", 500, 1024, 16)
        schema = "\n".join(sorted(sql for (sql,) in db.execute("SELECT sql FROM sqlite_master") if sql))
    assert hashlib.sha256(schema.encode()).hexdigest()[:16] == "fb69c46224daad14"
    head = (path / "features.sqlite").read_bytes()[:100]
    assert head[:16] == b"SQLite format 3\0" and head[16:18] == (16_384).to_bytes(2, "big")
    assert head[60:64] == (1).to_bytes(4, "big") and head[68:72] == b"clpf"


def test_a_store_gives_what_was_added_by_the_rows_of_the_index(whole):
    with Index.open(whole) as opened, FeatureStore.open(opened) as store:
        assert store.rows.tolist() == list(range(10)) and store.rows.dtype == np.int64
        for row in store.rows:
            assert same(present(store.of(row)), features(int(row)))
        assert store.of(10) is store.of(11) is store.of(12) is store.of(-1) is None
        rows, descriptors = (np.concatenate(each) for each in zip(*store.blocks(), strict=True))
        assert rows.tolist() == [row for row in range(10) for _ in range(20)] and rows.dtype == np.int64
        assert np.array_equal(descriptors, np.concatenate([features(row).descriptors for row in range(10)]))


def test_blocks_are_bounded(whole, monkeypatch):
    monkeypatch.setattr("clipdex.features.store._BLOCK", 30)
    with Index.open(whole) as opened, FeatureStore.open(opened) as store:
        assert [len(rows) for rows, _ in store.blocks()] == [40] * 5


@pytest.mark.slow
def test_the_stamp_of_a_store_changes_with_its_features_and_with_nothing_else(index):
    def stamp() -> str:
        with Index.open(index) as opened, FeatureStore.open(opened) as store:
            return store.stamp

    first = stamp()
    assert first == stamp()
    with closing(present(FeatureFile.open(index, write=True))) as file:
        file.add({content(10): features(10)})
    second = stamp()
    with closing(present(FeatureFile.open(index, write=True))) as file:
        file.empty(Recipe())
        file.add({content(row): features(row) for row in range(11)})
    assert len({first, second, stamp()}) == 3


def test_an_index_without_features_says_how_to_make_them(tmp_path):
    path = drawn_index(tmp_path / "x.clipdex", rows=2)
    with Index.open(path) as index, pytest.raises(clipdex.IndexFault) as caught:
        FeatureStore.open(index)
    assert str(caught.value) == f"{path} has no local features; make them with  clipdex features build  first"


def test_a_store_that_is_closed_says_so(whole):
    with Index.open(whole) as opened:
        store = FeatureStore.open(opened)
        store.close()
        for use in (lambda: store.of(0), lambda: store.rows, lambda: next(store.blocks())):
            with pytest.raises(clipdex.Closed):
                use()


@pytest.mark.slow
def test_many_threads_read_one_store(whole):
    wrong = []
    with Index.open(whole) as opened, FeatureStore.open(opened) as store:

        def read(seed: int) -> None:
            for row in random.Random(seed).choices(range(10), k=40):
                if not same(present(store.of(row)), features(row)):
                    wrong.append(row)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.slow
def test_a_picture_without_points_has_features_and_counts_as_made(index):
    with closing(present(FeatureFile.open(index, write=True))) as file:
        file.add({content(11): features(0, points=0)})
    with Index.open(index) as opened, FeatureStore.open(opened) as store:
        assert len(present(store.of(11))) == 0 and 11 in store.rows


def test_a_compaction_keeps_the_features_of_live_rows_and_drops_the_others(index):
    with IndexWriter(index) as writer:
        writer.remove(b"/p/odd/003.jpg")
    assert 3 not in rows_of(index)
    assert compact_index(index) == 1
    assert rows_of(index) == list(range(9))
    with Index.open(index) as opened, FeatureStore.open(opened) as store:
        for row in range(9):
            assert same(present(store.of(row)), features(row if row < 3 else row + 1))
    with closing(present(FeatureFile.open(index))) as file:
        assert file.count()[0] == 9 and file.get(content(3)) is None


@pytest.mark.slow
def test_features_go_into_parts_and_back_into_one_index(index, tmp_path):
    split_index(index, tmp_path / "x.parts", 3)
    merge_indexes([tmp_path / "x.parts"], tmp_path / "y.clipdex")
    for path in (tmp_path / "x.parts", tmp_path / "y.clipdex"):
        with Index.open(path) as opened, FeatureStore.open(opened) as store:
            assert len(store.rows) == 10
            contents = {
                first + row: int.from_bytes(key, "big")
                for first, part in opened.pieces()
                for row, key, *_ in part.contents(0, 99)
            }
            for row, of in contents.items():
                found = store.of(row)
                assert (found is None) == (of >= 10)
                assert found is None or same(found, features(of))
            blocks = {int(row) for rows, _ in store.blocks() for row in rows}
            assert blocks == set(store.rows.tolist())
        assert verify_index(path).damages == []
        assert clipdex.Index.open(path).info().with_features == 10


@pytest.mark.slow
def test_a_merge_keeps_the_features_of_the_first_recipe(index, tmp_path):
    paths = [b"/q/%03d.jpg" % row for row in range(4)]
    hashes = [content(100 + row) for row in range(4)]
    other = drawn_index(tmp_path / "o.clipdex", rows=4, path=paths, content_hash=hashes)
    with closing(FeatureFile.open_or_make(other, Recipe("orb"))) as file:
        file.add({key: features(1, kind="orb") for key in hashes})
    merge_indexes([index, other], tmp_path / "y.clipdex")
    assert rows_of(tmp_path / "y.clipdex") == list(range(10))
    merge_indexes([other, index], tmp_path / "z.clipdex")
    assert rows_of(tmp_path / "z.clipdex") == list(range(4))


@pytest.mark.slow
def test_parts_whose_features_differ_are_not_mixed(index, tmp_path):
    split_index(index, tmp_path / "x.parts", 2)
    for path in (tmp_path / "x.parts").glob("part-00001.clipdex/features.sqlite*"):
        path.unlink()
    with Index.open(tmp_path / "x.parts") as opened, FeatureStore.open(opened) as store:
        assert 0 < len(store.rows) < 10
    FeatureFile.open_or_make(tmp_path / "x.parts" / "part-00001.clipdex", Recipe("orb")).close()
    with (
        Index.open(tmp_path / "x.parts") as opened,
        pytest.raises(clipdex.IndexFault, match="other local features"),
    ):
        FeatureStore.open(opened)


@pytest.mark.parametrize(
    "column",
    [
        "descriptors",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("width", "points", "keypoints", "content_hash")),
    ],
)
def test_a_changed_value_is_found_and_never_used(index, column):
    with closing(sqlite3.connect(index / "features.sqlite")) as db:
        blob = column in ("keypoints", "descriptors", "content_hash")
        new = f"CAST(zeroblob(length({column}) - 1) || x'77' AS BLOB)" if blob else f"{column} + 1"
        db.execute(f"UPDATE features SET {column} = {new} WHERE id = 5")
        db.commit()
    (damage,) = verify_index(index).damages
    assert damage.what == (
        "features.sqlite: the features of 1 picture are not what was stored;  "
        "clipdex features build --check  makes them again"
    )
    with Index.open(index) as opened, FeatureStore.open(opened) as store:
        assert store.of(4) is None
        assert 4 not in {int(row) for rows, _ in store.blocks() for row in rows}
    with closing(present(FeatureFile.open(index, write=True))) as file:
        assert file.drop_damaged() == 1
    assert verify_index(index).damages == []
    assert rows_of(index) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_hash_that_is_damaged_where_it_is_looked_up_is_found(index):
    """In the index of the table: the features are there, as they were stored, and nothing finds them."""
    file, key = index / "features.sqlite", content(4)
    whole = file.read_bytes()
    places = [at for at in range(len(whole)) if whole.startswith(key, at)]
    assert len(places) == 2  # in the table, and in its index
    for at in places:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        assert verify_index(index).damages, at
        with closing(present(FeatureFile.open(index, write=True))) as found:
            found.drop_damaged()
        assert verify_index(index).damages == []
        for left in index.glob("features.sqlite-*"):
            left.unlink()


def hide(index: Path, key: bytes) -> None:
    """Flip a bit where a content is looked up, so that its records are there and are not found."""
    file = index / "features.sqlite"
    whole = file.read_bytes()
    for at in [at for at in range(len(whole)) if whole.startswith(key, at)]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        with closing(sqlite3.connect(file)) as db:
            (there,), (found,) = (
                db.execute(f"SELECT count(*) FROM features {how} WHERE content_hash = ?", (key,)).fetchone()
                for how in ("NOT INDEXED", "")
            )
        if there and not found:
            return
        file.write_bytes(whole)
    pytest.fail("it is looked up nowhere")


@pytest.mark.parametrize("broken", ["neither", "first", "second"])
@pytest.mark.parametrize("mended_by", ["drop_damaged", "empty"])
def test_a_content_that_was_not_found_where_it_is_looked_up_and_was_added_again_is_there_once(
    index, broken, mended_by
):
    """SQLite makes no unique index of both; `drop_damaged` leaves a sound one, if there is one."""
    file, key = index / "features.sqlite", content(4)
    hide(index, key)
    with closing(present(FeatureFile.open(index, write=True))) as found:
        found.add({key: features(4), content(10): features(10)})
        assert found.count()[0] == 12
    if broken != "neither":
        with closing(sqlite3.connect(file)) as db:
            row = 5 if broken == "first" else 11
            db.execute("UPDATE features SET descriptors = zeroblob(length(descriptors)) WHERE id = ?", (row,))
            db.commit()
    with closing(present(FeatureFile.open(index, write=True))) as found:
        before = found.identity
        if mended_by == "empty":
            found.empty(Recipe(), keep={content(row) for row in range(11)})
        else:
            assert found.drop_damaged() == (broken != "neither")
            assert same(present(found.get(key)), features(4))
        assert found.count()[0] == 11
        assert found.identity != before
    if mended_by == "drop_damaged":
        assert verify_index(index).damages == []


def test_a_file_that_cannot_be_mended_says_to_make_the_features_anew(index):
    """Of three records of one content, SQLite deletes one, and then misses the others in its index."""
    for _ in range(2):
        hide(index, content(4))
        with closing(present(FeatureFile.open(index, write=True))) as found:
            found.add({content(4): features(4)})
    with closing(present(FeatureFile.open(index, write=True))) as found:
        assert found.count()[0] == 12
        for mend in (found.drop_damaged, lambda: found.empty(Recipe())):
            with pytest.raises(clipdex.IndexDamaged) as caught:
                mend()
            assert str(caught.value) == (
                f"{index}/features.sqlite: cannot be mended: database disk image is malformed; make the features "
                "anew with  clipdex features build --rebuild"
            )
        assert found.count()[0] == 12


@pytest.mark.slow
def test_flipped_bits_and_cuts_are_found_unless_they_change_nothing(tmp_path, monkeypatch):
    """A few here, all of them in the features; benchmarks/prove_damage.py makes thousands."""
    monkeypatch.setattr(random.Random, "choice", lambda self, names: names[-1])
    write_index(tmp_path / "sound")
    write_features(tmp_path / "sound", killed=tmp_path / "killed")
    assert damage_and_verify(tmp_path / "sound", tmp_path / "a", random.Random(1), flips=40, cuts=15) == []
    assert (tmp_path / "killed" / "features.sqlite-wal").stat().st_size > 10_000
    assert damage_and_verify(tmp_path / "killed", tmp_path / "b", random.Random(2), flips=30, cuts=0) == []


@pytest.mark.slow
def test_damage_is_not_copied_by_a_compaction_nor_ends_it(index):
    with IndexWriter(index) as writer:
        writer.remove(b"/p/odd/003.jpg")
    with closing(sqlite3.connect(index / "features.sqlite")) as db:
        db.execute("UPDATE features SET descriptors = zeroblob(length(descriptors)) WHERE id = 5")
        db.commit()
    assert compact_index(index) == 1
    assert verify_index(index).damages == []
    assert len(rows_of(index)) == 8
    (index / "features.sqlite").write_bytes(b"no database at all" * 1000)
    assert any("features.sqlite" in damage.what for damage in verify_index(index).damages)
    with IndexWriter(index) as writer:
        writer.remove(b"/p/odd/005.jpg")
    assert compact_index(index) == 1
    assert verify_index(index).damages == []


@pytest.mark.slow
def test_a_file_of_a_newer_version_is_not_called_damaged(index):
    with closing(sqlite3.connect(index / "features.sqlite")) as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(clipdex.IndexFormatError, match="is of version 2, and this clipdex knows 1"):
        FeatureFile.open(index)


@pytest.mark.slow
def test_another_table_is_refused(index):
    with closing(sqlite3.connect(index / "features.sqlite")) as db:
        db.execute("CREATE VIEW more AS SELECT * FROM features")
    with pytest.raises(clipdex.IndexDamaged, match="other tables than the local features of an index"):
        FeatureFile.open(index)


def test_a_rollback_journal_of_the_features_says_to_make_the_features_anew_and_not_the_index(index):
    (index / "features.sqlite-journal").write_bytes(b"of a version that was killed while it made the file")
    for write in (False, True):
        with pytest.raises(clipdex.IndexDamaged) as caught:
            FeatureFile.open(index, write=write)
        assert str(caught.value) == (
            f"{index}/features.sqlite-journal: is a rollback journal, which no index has; SQLite would change "
            "features.sqlite by it: make the features anew with  clipdex features build --rebuild"
        )


def test_a_full_disk_is_one_sentence_and_loses_nothing(index, monkeypatch):
    real = schema.connect

    def small(path: Path, *, write: bool) -> sqlite3.Connection:
        db = real(path, write=write)
        db.execute("PRAGMA max_page_count = 1")  # no page more than it has
        return db

    monkeypatch.setattr(database, "connect", small)
    with closing(present(FeatureFile.open(index, write=True))) as file:
        with pytest.raises(clipdex.IndexWriteError) as caught:
            file.add({content(100 + i): features(i, points=500) for i in range(4)})
        assert str(caught.value) == f"{index}/features.sqlite: cannot be written: database or disk is full"
        assert file.count()[0] == 10
    monkeypatch.undo()
    assert verify_index(index).damages == [] and rows_of(index) == list(range(10))


@pytest.mark.slow
def test_a_file_that_cannot_be_made_is_one_sentence_and_leaves_none(tmp_path, monkeypatch):
    path = drawn_index(tmp_path / "x.clipdex", rows=1)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(database, "rename", full)
    with pytest.raises(
        clipdex.IndexWriteError, match=r"features\.sqlite: cannot be created: No space left on device"
    ):
        FeatureFile.open_or_make(path, Recipe())
    monkeypatch.undo()
    assert FeatureFile.open(path) is None and verify_index(path).damages == []
    FeatureFile.open_or_make(path, Recipe()).close()  # what was left does not stand in its way


@pytest.mark.parametrize(
    "make", [lambda path: make_features(path, Recipe()), open_thumbnails], ids=["features", "thumbnails"]
)
def test_a_kill_at_any_moment_of_the_making_leaves_no_rollback_journal_beside_it(tmp_path, monkeypatch, make):
    """As SQLite leaves while it changes a database to one with a WAL; clipdex refuses an index that has one."""
    path, states = drawn_index(tmp_path / "x.clipdex", rows=1), []

    def rename(made: Path, target: Path) -> None:
        states.append((made.read_bytes()[18:20], [each.name for each in made.parent.glob(f"{made.name}-*")]))
        made.rename(target)

    monkeypatch.setattr(database, "rename", rename)
    make(path)
    assert states == [(b"\2\2", [])]  # written with a WAL, and read with one
    assert verify_index(path).damages == []


def test_a_database_whose_log_cannot_be_moved_into_it_does_not_take_its_place(tmp_path):
    """As on a disk that breaks just then; here it is a reader that is in the way."""
    path = tmp_path / "x.sqlite"

    def fill(db: sqlite3.Connection) -> None:
        readers.append(sqlite3.connect(tmp_path / "x.sqlite.building", isolation_level=None))
        readers[0].execute("BEGIN")
        readers[0].execute("SELECT * FROM sqlite_master").fetchall()
        db.execute("CREATE TABLE t (a)")

    readers: list[sqlite3.Connection] = []
    with pytest.raises(clipdex.IndexWriteError, match=r"x\.sqlite: cannot be created: database is locked"):
        database.make_database(path, fill)
    readers[0].close()
    assert not path.exists()
    database.make_database(path, lambda db: db.execute("CREATE TABLE t (a)"))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_kill_within_a_transaction_leaves_all_of_it_or_nothing(index):
    """What the log has of a transaction without its end counts for nothing."""
    db = sqlite3.connect(index / "features.sqlite", isolation_level=None)
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA cache_size = 1")  # so that pages are in the log before the end
    db.execute("BEGIN")
    for i in range(20):
        values = (content(200 + i), 1, 1, 0, bytes(16_000), bytes(64_000), 0)
        db.execute("INSERT INTO features VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)
    killed = index.with_name("killed.clipdex")
    shutil.copytree(index, killed)
    assert (killed / "features.sqlite-wal").stat().st_size > 500_000
    db.close()
    assert verify_index(killed).damages == [] and rows_of(killed) == list(range(10))


@pytest.mark.slow
def test_other_descriptors_than_those_of_the_recipe_are_refused(index):
    with closing(present(FeatureFile.open(index, write=True))) as file, pytest.raises(clipdex.InvalidArgument):
        file.add({content(50): features(0, kind="orb")})


def test_info_says_how_many_have_features_and_their_size(whole, run):
    with Index.open(whole) as opened:
        info = opened.info()
    assert (info.with_features, info.feature_bytes) == (10, (whole / "features.sqlite").stat().st_size)


@pytest.mark.slow
def test_without_opencv_the_extra_is_named(whole, monkeypatch, run):
    monkeypatch.setitem(sys.modules, "cv2", None)
    status, _, err = run("features", "build", whole)
    assert status == 1
    assert err.startswith("clipdex: finding local features needs opencv-python-headless")
    assert "features" in err and len(err.splitlines()) == 1


def test_whether_there_are_any_is_told_without_counting(tmp_path, monkeypatch):
    index = drawn_index(tmp_path / "x.clipdex")
    assert not has_features(index)
    with closing(FeatureFile.open_or_make(index, Recipe())) as file:
        assert file.is_empty() and not has_features(index)
        file.add({b"a" * 16: features(1)})
    assert feature_count(index)[0] == 1
    with monkeypatch.context() as patched:
        patched.setattr(FeatureFile, "count", lambda _: pytest.fail("counted"))  # as long as a million rows take
        assert has_features(index)
        with clipdex.Collection.open(index, read_only=True) as pictures:
            assert pictures.has_local_features()
    (index / FEATURES_FILE).write_bytes(b"no database")
    assert not has_features(index)
