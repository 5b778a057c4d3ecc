"""Copies of an index in a bucket: what is sent, pulled, checked, resumed and refused; over a store in memory."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import clipdex
from clipdex.apps.index_copies import pull as pulling
from clipdex.apps.index_copies import push as pushing
from clipdex.apps.index_copies import snapshot_file
from clipdex.apps.index_copies.pull import pull_from
from clipdex.apps.index_copies.push import push_to
from clipdex.apps.index_copies.snapshot_file import Snapshot
from clipdex.base.errors import (
    FingerprintMismatch,
    IndexDamaged,
    IndexFormatError,
    IndexLocked,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
    SourceError,
)
from clipdex.base.records import Failure, Picture
from clipdex.index import IndexWriter, compact_index, verify_index
from clipdex.index.file_system import locked
from clipdex.index.manifest import Manifest, json_crc32c
from clipdex.sources.object_store import Bucket

pytest.importorskip("obstore")

D = 8
ONE = Manifest("a" * 64, "one", D, "float32")


def fill(directory, start, count, manifest=ONE):
    vectors = np.random.default_rng(start).normal(size=(count, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with IndexWriter.open_or_create(directory, manifest) as writer:
        pictures = [
            Picture(f"/p/{n}.png".encode(), 10, 20, n.to_bytes(16, "big"), 3, 4)
            for n in range(start, start + count)
        ]
        writer.append(pictures, vectors)
        writer.fail(Failure(f"/p/bad{start}".encode(), "broken", "cannot be decoded", 1, 2))
        writer.commit()
    return directory


def content(directory):
    """Paths, vectors and ledger of an index."""
    with clipdex.Index.open(directory) as index:
        rows = {path: index.vector(os.fsdecode(path)).tobytes() for _, path in index.live_paths()}
        return rows, sorted((each.path, each.reason) for each in index.failures())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(pushing, "BLOCK_BYTES", 4096)


@pytest.fixture
def bucket():
    from obstore.store import MemoryStore

    return Bucket("s3://b", MemoryStore())


@pytest.fixture
def index(tmp_path):
    return fill(tmp_path / "x.clipdex", 0, 300)


def keys(bucket):
    return sorted(each.key for each in bucket.listed(""))


def test_what_is_pulled_is_what_was_pushed_and_can_be_written_to(bucket, index, tmp_path):
    pushed = push_to(bucket, "a/b", index)
    pulled = pull_from(bucket, "a/b", tmp_path / "y")
    assert content(tmp_path / "y") == content(index)
    assert (pulled.rows, pulled.bytes, pulled.fetched_bytes) == (300, pushed.bytes, pushed.bytes)
    assert not verify_index(tmp_path / "y").damages
    assert sorted(each.name for each in (tmp_path / "y").iterdir()) == sorted(
        each.name for each in index.iterdir()
    )
    fill(tmp_path / "y", 500, 5)
    assert len(content(tmp_path / "y")[0]) == 305
    assert {key.partition("/blocks/")[0] for key in keys(bucket)} == {"a/b", "a/b/snapshot.json"}
    assert [each.name for each in tmp_path.iterdir() if "pulling" in each.name] == []


@pytest.mark.slow
def test_what_is_there_is_not_sent_again(bucket, index):
    first = push_to(bucket, "a", index)
    assert first.sent_blocks == first.blocks
    again = push_to(bucket, "a", index)
    assert (again.sent_blocks, again.bytes) == (0, first.bytes)
    fill(index, 300, 10)
    more = push_to(bucket, "a", index)
    assert 0 < more.sent_bytes < more.bytes / 2
    stray = len(keys(bucket)) - 1 - more.blocks
    assert stray > 0
    pruned = push_to(bucket, "a", index, prune=True)
    assert (pruned.pruned, pruned.sent_blocks) == (stray, 0)
    assert len(keys(bucket)) == 1 + pruned.blocks


@pytest.mark.slow
def test_a_push_that_is_killed_leaves_the_copy_before_it_and_the_next_goes_on(
    bucket, index, tmp_path, monkeypatch
):
    push_to(bucket, "a", index)
    before = content(index)
    fill(index, 300, 900)
    store, put, left = bucket._store, bucket.put, [5]

    def dying(key, data):
        if left[0] == 0:
            raise SourceError("s3://b: the store cannot be reached")
        left[0] -= 1
        put(key, data)

    monkeypatch.setattr(bucket, "put", dying)
    sent = len(keys(bucket))
    with pytest.raises(SourceError, match="cannot be reached"):
        push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")
    assert content(tmp_path / "y") == before
    sent = len(keys(bucket)) - sent
    assert sent == 5
    fresh = Bucket("s3://b", store)
    pushed = push_to(fresh, "a", index)
    assert pushed.blocks > pushed.sent_blocks > 0
    pull_from(fresh, "a", tmp_path / "z")
    assert content(tmp_path / "z") == content(index)


@pytest.mark.slow
def test_a_pull_that_is_killed_goes_on_where_it_was(bucket, index, tmp_path, monkeypatch):
    pushed = push_to(bucket, "a", index)
    fetch, left = bucket.fetch, [6]  # snapshot.json, and five blocks

    def dying(key, limit):
        if left[0] == 0:
            raise SourceError("s3://b: the store cannot be reached")
        left[0] -= 1
        return fetch(key, limit)

    monkeypatch.setattr(bucket, "fetch", dying)
    with pytest.raises(SourceError, match="cannot be reached"):
        pull_from(bucket, "a", tmp_path / "y")
    assert not (tmp_path / "y").exists()
    (tmp_path / ".y.pulling" / "stray").write_bytes(b"of another time")
    monkeypatch.setattr(bucket, "fetch", fetch)
    pulled = pull_from(bucket, "a", tmp_path / "y")
    assert 0 < pulled.fetched_bytes < pushed.bytes
    assert content(tmp_path / "y") == content(index)
    assert not (tmp_path / "y" / "stray").exists()


@pytest.mark.slow
def test_an_index_is_replaced_only_when_asked_and_what_it_has_is_not_fetched(bucket, index, tmp_path):
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")
    fill(index, 300, 10)
    push_to(bucket, "a", index)
    with pytest.raises(InvalidArgument, match="exists already; replace it"):
        pull_from(bucket, "a", tmp_path / "y")
    assert len(content(tmp_path / "y")[0]) == 300
    with clipdex.Index.open(tmp_path / "y") as reader:
        pulled = pull_from(bucket, "a", tmp_path / "y", replace=True)
        assert len(reader) == 300
        reader.refresh()
        assert len(reader) == 310
    assert 0 < pulled.fetched_bytes < pulled.bytes / 2
    assert content(tmp_path / "y") == content(index)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.clipdex", "y"]


@pytest.mark.slow
def test_an_index_that_is_written_to_is_not_replaced(bucket, index, tmp_path):
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")
    with IndexWriter(tmp_path / "y"), pytest.raises(IndexLocked):
        pull_from(bucket, "a", tmp_path / "y", replace=True)
    assert content(tmp_path / "y") == content(index)


@pytest.mark.slow
def test_two_pulls_to_one_place_do_not_mix(bucket, index, tmp_path):
    push_to(bucket, "a", index)
    (tmp_path / ".y.pulling").mkdir()
    place = os.open(tmp_path / ".y.pulling", os.O_RDONLY)
    try:
        assert locked(place, tmp_path)
        with pytest.raises(IndexLocked, match="another process pulls"):
            pull_from(bucket, "a", tmp_path / "y")
    finally:
        os.close(place)
    pull_from(bucket, "a", tmp_path / "y")


@pytest.mark.slow
def test_an_index_of_parts_is_copied_with_its_plan(bucket, index, tmp_path):
    from clipdex.index.split import split_index

    split_index(index, tmp_path / "p", 3)
    pushed = push_to(bucket, "", tmp_path / "p")
    assert pushed.files == 10
    pulled = pull_from(bucket, "", tmp_path / "q")
    assert (pulled.rows, content(tmp_path / "q")) == (300, content(index))
    push_to(bucket, "one", tmp_path / "p" / "part-00001.clipdex")
    pull_from(bucket, "one", tmp_path / "r")
    assert content(tmp_path / "r") == content(tmp_path / "p" / "part-00001.clipdex")
    shutil.rmtree(tmp_path / "p" / "part-00001.clipdex")
    with pytest.raises(IndexNotFound, match="part-00001"):
        push_to(bucket, "", tmp_path / "p")
    pull_from(bucket, "", tmp_path / "q", replace=True)
    assert content(tmp_path / "q") == content(index)


@pytest.mark.slow
def test_side_files_are_copied_and_still_used(bucket, index, tmp_path):
    from clipdex.index import optimize_index

    optimize_index(index)
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")
    with clipdex.Index.open(tmp_path / "y") as copy:
        codes = copy.codes()
        assert codes is not None


@pytest.mark.slow
def test_local_features_and_their_neighbours_are_copied_while_they_are_made(bucket, tmp_path):
    pytest.importorskip("cv2")
    pytest.importorskip("faiss")
    from contextlib import closing

    from scenes import give_features, scene, scene_png

    from clipdex.collection.item import content_hash
    from clipdex.features import Matcher, build_neighbours
    from clipdex.index.side.feature_file import FeatureFile
    from clipdex.looks.local_features import Recipe, extract
    from clipdex.wire import FakeTransport

    path = tmp_path / "scenes.clipdex"
    with clipdex.Client(FakeTransport()) as client, clipdex.Collection.open(path, client=client) as made:
        made.add([clipdex.Item(str(n), scene_png(n)) for n in range(3)])
    give_features(path, scene_png(0), scene_png(1))
    assert build_neighbours.build_neighbours(path, fewest=1).file_bytes > 0
    with closing(FeatureFile.open_or_make(path, Recipe())) as making:
        making.add({content_hash(scene_png(2)): extract(scene(2))})  # in the write-ahead log alone
        assert (path / "features.sqlite-wal").stat().st_size > 0
        push_to(bucket, "f", path)
    pull_from(bucket, "f", tmp_path / "y.clipdex")
    assert clipdex.verify_index(tmp_path / "y.clipdex").damages == []
    with clipdex.Index.open(tmp_path / "y.clipdex") as copy, Matcher(copy) as matcher:
        assert (matcher.faults, matcher.exact) == ([], 1)
        for n in range(3):
            assert [each.id for each in matcher.match(scene_png(n, (80, 60, 240, 200)))] == [str(n)]
    sent = push_to(bucket, "f", tmp_path / "y.clipdex").sent_bytes
    assert sent < 100_000, "what is there is not sent again"


@pytest.mark.slow
def test_a_copy_is_of_one_commit_while_a_writer_commits(bucket, index, tmp_path, monkeypatch):
    done: list[int] = []
    read = pushing._block

    def meddling(each, at, size):
        if not done:  # after the files were opened, before they are read
            done.append(1)
            fill(index, 300, 200)
            fill(index, 500, 200)
        return read(each, at, size)

    before = content(index)
    monkeypatch.setattr(pushing, "_block", meddling)
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")
    assert content(tmp_path / "y") == before
    assert not verify_index(tmp_path / "y").damages
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y", replace=True)
    assert content(tmp_path / "y") == content(index)
    assert len(content(index)[0]) == 700


@pytest.mark.slow
def test_a_compaction_while_the_files_are_opened_is_seen(bucket, index, tmp_path, monkeypatch):
    from clipdex.index import snapshot

    with IndexWriter(index) as writer:
        for number in range(100):
            writer.remove(f"/p/{number}.png".encode())
        writer.commit()
    done: list[int] = []
    copied = snapshot._copied

    def compacting(path, copy):
        found = copied(path, copy)
        if not done:
            done.append(compact_index(index))
        return found

    monkeypatch.setattr(snapshot, "_copied", compacting)
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")
    assert content(tmp_path / "y") == content(index)
    assert done == [100]
    assert not verify_index(tmp_path / "y").damages
    with sqlite3.connect(tmp_path / "y" / "rows.sqlite") as db:
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (200,)


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["changed", "cut", "long", "gone"])
def test_a_damaged_block_is_found_and_nothing_is_put_in_place(bucket, index, tmp_path, harm):
    push_to(bucket, "a", index)
    snapshot = Snapshot.read(bucket, "a")
    assert snapshot is not None
    (vectors,) = (file for file in snapshot.files if file.name == "vectors.f32")
    key = snapshot_file.block_key("a", vectors.blocks[1])
    data = bucket.fetch(key, 1 << 20)
    assert data is not None
    if harm == "gone":
        bucket.delete([key])
    else:
        changed = {"changed": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "long": data + b"x"}
        bucket.put(key, changed[harm])
    words = "is missing: pull again" if harm == "gone" else "is not what was pushed: delete"
    with pytest.raises(IndexDamaged, match=rf"s3://b/a: a block of vectors\.f32 {words}"):
        pull_from(bucket, "a", tmp_path / "y")
    assert not (tmp_path / "y").exists()
    if harm == "changed":
        bucket.delete([key])
    push_to(bucket, "a", index)  # a missing block, or one of another size, is sent again
    pull_from(bucket, "a", tmp_path / "y")
    assert content(tmp_path / "y") == content(index)


def hostile(change):
    """Change snapshot.json, and its checksum with it."""

    def apply(bucket):
        data = json.loads(bucket.fetch("a/snapshot.json", 1 << 20))
        data.pop("crc32c")
        change(data)
        bucket.put("a/snapshot.json", json.dumps(data | {"crc32c": json_crc32c(data)}).encode())

    return apply


def named(name):
    return hostile(lambda data: data["files"].append({"name": name, "bytes": 0, "blocks": []}))


HOSTILE = {
    "up": named("../evil"),
    "absolute": named("/etc/evil"),
    "another": named("evil"),
    "lock": named("writer.lock"),
    "wal": named("rows.sqlite-wal"),
    "deeper": named("part-00000.clipdex/../evil"),
    "no part": named("part-1.clipdex/rows.sqlite"),
    "part beside": named("part-00000.clipdex/rows.sqlite"),
    "twice": named("rows.sqlite"),
    "two widths": named("vectors.f16"),
    "no rows": hostile(lambda data: data["files"].pop([f["name"] for f in data["files"]].index("rows.sqlite"))),
    "no name": named(7),
    "negative": hostile(lambda data: data["files"][0].update(bytes=-1)),
    "bool": hostile(lambda data: data["files"][0].update(bytes=True)),
    "too few blocks": hostile(lambda data: data["files"][-1]["blocks"].pop()),
    "path as block": hostile(lambda data: data["files"][0].update(blocks=["../" * 21 + "a"])),
    "block of no size": hostile(lambda data: data.update(block_bytes=0)),
    "block of any size": hostile(lambda data: data.update(block_bytes=1 << 40)),
    "newer": hostile(lambda data: data.update(format_version=2)),
    "format": hostile(lambda data: data.update(format="other")),
    "no list": hostile(lambda data: data.update(files={})),
    "no JSON": lambda bucket: bucket.put("a/snapshot.json", b"{" * 5000),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_snapshot_that_clipdex_would_not_write_is_refused_in_one_sentence(bucket, index, tmp_path, kind):
    push_to(bucket, "a", index)
    HOSTILE[kind](bucket)
    with pytest.raises(IndexFormatError, match=r"^s3://b/a/snapshot\.json: [^\n]+$"):
        pull_from(bucket, "a", tmp_path / "y")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.clipdex"]
    with pytest.raises(IndexFormatError, match="nothing was sent"):
        push_to(bucket, "a", index)


def test_a_flipped_bit_in_the_snapshot_is_found(bucket, index, tmp_path):
    push_to(bucket, "a", index)
    data = bucket.fetch("a/snapshot.json", 1 << 20)
    assert data is not None
    bucket.put("a/snapshot.json", data.replace(b'"one"', b'"onf"'))
    with pytest.raises(IndexDamaged, match="its checksum does not match"):
        pull_from(bucket, "a", tmp_path / "y")
    push_to(bucket, "a", index)
    pull_from(bucket, "a", tmp_path / "y")


@pytest.mark.slow
def test_sizes_that_the_disk_has_no_room_for_are_refused_before_anything_is_fetched(bucket, index, tmp_path):
    push_to(bucket, "a", index)
    snapshot = Snapshot.read(bucket, "a")
    assert snapshot is not None
    large = tuple(
        snapshot_file.CopiedFile(file.name, 1 << 50, file.blocks) if "vectors" in file.name else file
        for file in snapshot.files
    )
    fetching = pulling._Fetching(bucket, "a", "s3://b/a", tmp_path, None, Snapshot("f", "m", 0, 4096, large), None)
    with pytest.raises(IndexWriteError, match=r"MB free, and the index needs 1,125,"):
        fetching._require_room()


def test_another_models_index_is_not_pushed_over_a_copy(bucket, index, tmp_path):
    push_to(bucket, "a", index)
    other = fill(tmp_path / "other", 0, 3, Manifest("b" * 64, "two", D, "float32"))
    with pytest.raises(FingerprintMismatch, match=r"s3://b/a holds a copy of an index of the model one"):
        push_to(bucket, "a", other)
    pull_from(bucket, "a", tmp_path / "y")
    assert content(tmp_path / "y") == content(index)


@pytest.mark.slow
def test_a_place_without_a_copy_and_a_path_with_something_else_are_one_sentence(bucket, index, tmp_path):
    with pytest.raises(IndexNotFound, match="s3://b/none: holds no copy of an index; make one with"):
        pull_from(bucket, "none", tmp_path / "y")
    push_to(bucket, "a", index)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidArgument, match="exists, and is no index"):
        pull_from(bucket, "a", tmp_path / "folder", replace=True)
    with pytest.raises(InvalidArgument, match="is inside the index"):
        pull_from(bucket, "a", index / "y")
    with pytest.raises(IndexNotFound):
        push_to(bucket, "a", tmp_path / "missing")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "x.clipdex"]


@pytest.mark.slow
def test_progress_reaches_the_end_and_never_goes_back(bucket, index, tmp_path):
    sent: list[tuple[int, int]] = []
    pushed = push_to(bucket, "a", index, progress=lambda *at: sent.append(at))
    got: list[tuple[int, int]] = []
    pull_from(bucket, "a", tmp_path / "y", progress=lambda *at: got.append(at))
    assert sent == sorted(sent)
    assert sent[-1][0] == pushed.bytes
    assert got[-1] == (pushed.bytes, pushed.bytes)


@pytest.mark.slow
@pytest.mark.parametrize("link", [True, False])
def test_a_link_where_a_file_is_to_be_written_is_not_followed(bucket, index, tmp_path, link):
    push_to(bucket, "a", index)
    (tmp_path / ".y.pulling").mkdir()
    (tmp_path / "victim").write_bytes(b"mine")
    place = tmp_path / ".y.pulling" / "vectors.f32"
    if link:
        place.symlink_to(tmp_path / "victim")
        pull_from(bucket, "a", tmp_path / "y")
    else:
        os.link(tmp_path / "victim", place)
        with pytest.raises(IndexWriteError, match="hard links"):
            pull_from(bucket, "a", tmp_path / "y")
    assert Path(tmp_path / "victim").read_bytes() == b"mine"
