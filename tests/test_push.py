"""Pushing an index into a vector database: everything once, then what changed, whatever interrupts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present, unit_vectors
from drawn_index import DEAD, LIVE, drawn_index, index_with_dead_rows
from numpy_sink import NumpySink

from clipdex.base.errors import FingerprintMismatch, SinkError
from clipdex.base.exif import Exif
from clipdex.base.records import Picture
from clipdex.index import Index, IndexWriter, Manifest
from clipdex.index.compact import compact_index as compact
from clipdex.index.split import split_index
from clipdex.sinks import push as pushing
from clipdex.sinks.cursor import Cursor, Described
from clipdex.sinks.payloads import digest_of, payload_of, point_id
from clipdex.sinks.push import Pushed, described, push, unit

pytestmark = pytest.mark.thin


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return index_with_dead_rows(tmp_path / "x.clipdex")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "_AT_ONCE", 8)
    monkeypatch.setattr(pushing, "_CURSOR_EVERY", 16)
    monkeypatch.setattr(pushing, "_CURSOR_EVERY_S", 3600.0)


def described_there(sink: NumpySink) -> Described:
    return present(described(sink))


def pushed(directory: Path, sink: NumpySink) -> Pushed:
    with Index.open(directory) as index:
        return push(index, sink)


def is_as_the_index(directory: Path, sink: NumpySink) -> None:
    """Every picture of the index, and nothing else, is there, with its vector and payload."""
    with Index.open(directory) as index:
        rows = dict(index.live_paths())
        pictures = index.pictures(list(rows))
        assert set(sink.points) == {point_id(path) for path in rows.values()}
        fields = described_there(sink).fields
        for row, picture in pictures.items():
            point = sink.points[point_id(picture.path)]
            assert point.payload == payload_of(picture, fields)
            np.testing.assert_array_equal(point.vector, unit(index.vectors[[row]])[0])


def changed(directory: Path, change: Callable[[IndexWriter], object]) -> None:
    with IndexWriter(directory) as writer:
        change(writer)


def new_row(writer: IndexWriter, path: bytes, seed: int = 9) -> None:
    picture = Picture(path, 1, 2, seed.to_bytes(16, "big"), 3, 4, json.dumps({"caption": "new"}))
    writer.append([picture], unit_vectors(1, 8, seed=seed))


def test_the_first_push_sends_every_picture_and_the_next_nothing(directory):
    sink = NumpySink()
    assert pushed(directory, sink) == Pushed(len(LIVE), len(LIVE), 0, False)
    is_as_the_index(directory, sink)
    sink.calls.clear()
    assert pushed(directory, sink) == Pushed(len(LIVE), 0, 0, False)
    assert not [call for call in sink.calls if call.startswith(("upsert", "delete"))]


def test_a_later_push_sends_what_was_added_replaced_and_removed_and_no_more(directory):
    sink = NumpySink()
    pushed(directory, sink)
    changed(directory, lambda writer: new_row(writer, b"/p/new.jpg"))
    changed(directory, lambda writer: new_row(writer, b"/p/005.jpg", seed=4))
    changed(directory, lambda writer: writer.remove(b"/p/007.jpg"))
    sink.calls.clear()
    assert pushed(directory, sink) == Pushed(len(LIVE), 2, 1, False)
    assert [call for call in sink.calls if call.startswith(("upsert", "delete"))] == ["delete 1", "upsert 2"]
    is_as_the_index(directory, sink)


def test_metadata_changed_in_place_is_found_and_sent_alone(directory):
    sink = NumpySink()
    pushed(directory, sink)
    changed(directory, lambda writer: writer.annotate(b"/p/010.jpg", json.dumps({"caption": "another"})))
    assert pushed(directory, sink) == Pushed(len(LIVE), 1, 0, True)
    is_as_the_index(directory, sink)
    assert pushed(directory, sink) == Pushed(len(LIVE), 0, 0, False)


def test_a_compacted_index_sends_nothing(directory):
    sink = NumpySink()
    pushed(directory, sink)
    compact(directory)
    assert pushed(directory, sink) == Pushed(len(LIVE), 0, 0, True)
    is_as_the_index(directory, sink)


def test_another_index_of_the_model_replaces_what_is_there(directory, tmp_path):
    sink = NumpySink()
    pushed(directory, sink)
    other = drawn_index(tmp_path / "other.clipdex", rows=10)
    assert pushed(other, sink) == Pushed(10, 10, len(LIVE), True)
    is_as_the_index(other, sink)


@pytest.mark.parametrize(
    "change",
    [
        "removed",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("nothing", "replaced", "annotated", "compacted")
        ),
    ],
)
def test_a_push_killed_at_any_call_is_made_good_by_the_next(directory, change):
    """Also if the index changes in between: a row that was sent, and is dead by then, is deleted."""
    sink = NumpySink()
    pushed(directory, sink)
    calls = len(sink.calls)
    for at in range(1, calls + 1):
        where = directory.with_name(f"{at}.clipdex")
        where.mkdir()
        for file in directory.iterdir():
            (where / file.name).write_bytes(file.read_bytes())
        sink = NumpySink()
        sink.fails_at = at
        with pytest.raises(ConnectionError):
            pushed(where, sink)
        if change == "removed":
            changed(where, lambda writer: [writer.remove(b"/p/%03d.jpg" % row) for row in (1, 20, 38)])
        elif change == "replaced":
            changed(where, lambda writer: [new_row(writer, b"/p/%03d.jpg" % row, row) for row in (1, 20, 38)])
        elif change == "annotated":
            changed(where, lambda writer: writer.annotate(b"/p/001.jpg", json.dumps({"caption": "other"})))
        elif change == "compacted":
            compact(where)
        pushed(where, sink)
        is_as_the_index(where, sink)


@pytest.mark.slow
def test_later_pushes_killed_at_any_call_are_made_good(directory, tmp_path):
    """One that appends and deletes, and one that compares."""
    for name, change in {
        "appends": lambda writer: (new_row(writer, b"/p/new.jpg"), writer.remove(b"/p/012.jpg")),
        "compares": lambda writer: writer.annotate(b"/p/011.jpg", json.dumps({"caption": "other"})),
    }.items():
        done, at = False, 0
        while not done:
            at += 1
            where = tmp_path / f"{name}-{at}.clipdex"
            where.mkdir()
            for file in directory.iterdir():
                (where / file.name).write_bytes(file.read_bytes())
            sink = NumpySink()
            pushed(where, sink)
            changed(where, change)
            sink.calls.clear()
            sink.fails_at = at
            try:
                pushed(where, sink)
                done = True
            except ConnectionError:
                sink.fails_at = -1
                changed(where, lambda writer: writer.remove(b"/p/new.jpg"))
                pushed(where, sink)
                is_as_the_index(where, sink)
        assert at > 4


def test_the_cursor_advances_by_time_so_a_killed_push_sends_little_again(directory, monkeypatch):
    """Of a database that takes long for each batch, with batches smaller than what is read at once."""
    monkeypatch.setattr(pushing, "_CURSOR_EVERY_S", 0.0)
    sink = NumpySink()
    sink.most_points = 3
    pushed(directory, sink)
    calls, upserts = len(sink.calls), sum(call.startswith("upsert") for call in sink.calls)
    assert sum(call == "describe" for call in sink.calls) >= upserts
    for at in range(2, calls + 1, 5):
        sink = NumpySink()
        sink.most_points, sink.fails_at = 3, at
        with pytest.raises(ConnectionError):
            pushed(directory, sink)
        before = len(sink.points)
        again = pushed(directory, sink)
        assert not again.compared and again.upserted <= len(LIVE) - before + 3
        is_as_the_index(directory, sink)


class Counted:
    """Counts how often the record of each row is read."""

    def __init__(self, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = dict.fromkeys(range(len(index.vectors)), 0)
        read = index.pictures

        def pictures(rows):
            for row in rows:
                self.times[row] += 1
            return read(rows)

        monkeypatch.setattr(index, "pictures", pictures)


def test_a_push_reads_each_record_once_and_those_that_it_finds_changed_once_more(directory, monkeypatch):
    sink = NumpySink()
    pushed(directory, sink)
    changed(directory, lambda writer: writer.annotate(b"/p/010.jpg", json.dumps({"caption": "another"})))
    changed(directory, lambda writer: new_row(writer, b"/p/new.jpg"))
    with Index.open(directory) as index:
        counted = Counted(index, monkeypatch)
        assert push(index, sink) == Pushed(len(LIVE) + 1, 2, 0, True)
        assert counted.times == {row: 0 if row in DEAD else 2 if row == 10 else 1 for row in range(41)}
    changed(directory, lambda writer: writer.remove(b"/p/012.jpg"))
    with Index.open(directory) as index:
        counted = Counted(index, monkeypatch)
        assert push(index, sink) == Pushed(len(LIVE), 0, 1, False)
        assert sorted(counted.times.values())[-2:] == [1, 2]  # the path of the one that died
    is_as_the_index(directory, sink)


def test_the_order_of_calls_makes_the_cursor_true(directory):
    """What the cursor says is there was flushed before."""
    sink = NumpySink()
    pushed(directory, sink)
    kept = [call.split()[0] for call in sink.calls]
    assert kept[:3] == ["create", "describe", "create"] or kept[:2] == ["create", "describe"]
    for i, call in enumerate(kept):
        if call == "describe" and "upsert" in kept[:i]:
            assert kept[i - 1] == "flush"


def test_batches_hold_to_points_and_bytes(directory):
    sink = NumpySink()
    sink.most_points = 3
    pushed(directory, sink)
    assert {call for call in sink.calls if call.startswith("upsert")} <= {"upsert 1", "upsert 2", "upsert 3"}
    sink = NumpySink()
    sink.most_bytes = 900
    pushed(directory, sink)
    is_as_the_index(directory, sink)
    assert "upsert 8" not in sink.calls
    sink = NumpySink()
    sink.most_bytes = 100
    with pytest.raises(SinkError, match=r"the point of .* has \d+ bytes; the collection in memory takes 100"):
        pushed(directory, sink)


def test_metadata_that_a_database_does_not_take_is_left_out_of_its_point_and_counted(tmp_path):
    """And then the longest fields; the path and the digest stay, so the next push sends nothing."""
    said: list[dict[str, Any]] = [{"caption": f"picture {i}", "year": i} for i in range(40)]
    said[7]["notes"] = {"long": "x" * 3_000}
    said[9]["tags"] = ["y" * 900] * 3
    texts = [json.dumps(each) for each in said]
    directory = drawn_index(tmp_path / "x.clipdex", metadata=texts)
    sink = NumpySink()
    sink.most_payload = 2_000
    assert pushed(directory, sink) == Pushed(40, 40, 0, False, shortened=2)
    payloads = {point.payload["path"]: dict(point.payload) for point in sink.points.values()}
    without = payloads["/p/odd/007.jpg"]
    assert "metadata" not in without and without["meta_caption"] == "picture 7" and without["meta_year"] == 7
    without = payloads["/p/odd/009.jpg"]
    assert "metadata" not in without and "meta_tags" not in without and without["meta_year"] == 9
    assert payloads["/p/odd/011.jpg"]["metadata"] == texts[11]
    assert pushed(directory, sink) == Pushed(40, 0, 0, False)
    with IndexWriter(directory) as writer:
        writer.annotate(b"/p/even/012.jpg", "{}")
    assert pushed(directory, sink) == Pushed(40, 1, 0, True)


def test_a_collection_of_another_model_is_refused_and_unchanged(directory, tmp_path):
    sink = NumpySink()
    pushed(drawn_index(tmp_path / "other.clipdex", fingerprint="e" * 64), sink)
    before = dict(sink.points)
    with pytest.raises(FingerprintMismatch, match="push into another collection"):
        pushed(directory, sink)
    assert sink.points == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", -1),
        ("rows", "4"),
        ("rows", True),
        ("rows", 1 << 48),
        ("sum", 0.5),
        ("complete", 1),
        ("dead", 7),
        ("dead", "!"),
    ],
)
def test_a_cursor_that_counts_nothing_is_refused(directory, name, value):
    sink = NumpySink()
    pushed(directory, sink)
    said = json.loads(present(sink.text))
    said["cursor"][name] = value
    sink.text = json.dumps(said)
    with pytest.raises(SinkError, match="choose another collection"):
        pushed(directory, sink)


def test_a_cursor_far_beyond_the_index_compares_and_takes_no_memory(directory):
    sink = NumpySink()
    pushed(directory, sink)
    said = json.loads(present(sink.text))
    said["cursor"]["rows"] = (1 << 48) - 1
    sink.text = json.dumps(said)
    assert pushed(directory, sink) == Pushed(len(LIVE), 0, 0, True)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"format": "other"}', '{"format": "clipdex-collection", "format_version": 1}', "\x00"],
)
def test_a_description_that_clipdex_did_not_write_is_refused(directory, text):
    sink = NumpySink()
    sink.text = text
    with pytest.raises(SinkError, match="choose another collection"):
        pushed(directory, sink)
    assert not sink.points


def test_a_newer_format_says_so(directory):
    sink = NumpySink()
    sink.text = '{"format": "clipdex-collection", "format_version": 3}'
    with pytest.raises(SinkError, match="newer version"):
        pushed(directory, sink)


@pytest.mark.slow
def test_the_description_fits_with_many_dead_rows(directory):
    sink = NumpySink()
    pushed(directory, sink)
    found = described_there(sink)
    assert found.cursor.complete and found.cursor.rows == 40
    assert present(found.cursor.dead_rows()).tolist() == [3, 39]
    some = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < 0.5)
    assert Cursor.packed(some) is None
    assert len(present(Cursor.packed(np.arange(0, 1_000_000, 101)))) < 16 << 10


@pytest.mark.slow
def test_an_index_of_parts_is_pushed_as_one_and_later_what_changed_in_any_part(directory, tmp_path):
    parts = tmp_path / "x.parts"
    split_index(directory, parts, 3)
    sink = NumpySink()
    assert pushed(parts, sink) == Pushed(len(LIVE), len(LIVE), 0, False)
    assert pushed(parts, sink) == Pushed(len(LIVE), 0, 0, False)
    one = next(part for part in sorted(parts.glob("part-*")) if b"/p/012.jpg" in paths_of(part))
    changed(one, lambda writer: writer.remove(b"/p/012.jpg"))
    assert pushed(parts, sink) == Pushed(len(LIVE) - 1, 0, 1, False)
    changed(one, lambda writer: new_row(writer, b"/p/012.jpg"))
    again = pushed(parts, sink)
    assert (again.pictures, again.upserted, again.deleted) == (len(LIVE), 1, 0)
    is_as_the_index(parts, sink)


def paths_of(directory: Path) -> list[bytes]:
    with Index.open(directory) as index:
        return [path for _, path in index.live_paths()]


def test_with_too_many_dead_rows_to_keep_every_point_is_compared(directory, monkeypatch):
    sink = NumpySink()
    pushed(directory, sink)
    monkeypatch.setattr(Cursor, "packed", staticmethod(lambda dead: None))
    changed(directory, lambda writer: writer.remove(b"/p/012.jpg"))
    assert pushed(directory, sink) == Pushed(len(LIVE) - 1, 0, 1, False)
    assert pushed(directory, sink) == Pushed(len(LIVE) - 1, 0, 0, True)
    is_as_the_index(directory, sink)


def test_ids_and_digests_stay_what_they_are():
    """They are in databases: another one would send everything again."""
    picture = Picture(b"/p/a.jpg", 10, 20, b"0123456789abcdef", 30, 40, '{"a":1}')
    assert point_id(picture.path) == "a7ba3d31-fe20-840e-bab1-118902620b3d"
    assert digest_of(picture) == "f08a0c88a1df3500"
    assert digest_of(replace(picture, exif=Exif())) == "f08a0c88a1df3500"
    assert digest_of(replace(picture, exif=Exif(rating=3))) == "cba73826329b5bad"


def test_what_a_file_says_changed_in_place_is_found_and_sent_alone(directory):
    """As `clipdex index --refresh-metadata` changes it."""
    sink = NumpySink()
    pushed(directory, sink)
    with Index.open(directory) as index:
        told = replace(index.picture(10), exif=Exif.of(rating=3, taken="2024-06-01T17:30:00"))
    changed(directory, lambda writer: writer.touch(told))
    assert pushed(directory, sink) == Pushed(len(LIVE), 1, 0, True)
    said = sink.points[point_id(told.path)].payload
    assert (said["rating"], said["taken"], said["taken_at"]) == (3, "2024-06-01T17:30:00", 20240601173000)
    is_as_the_index(directory, sink)


def test_progress_counts_the_rows(directory):
    seen: list[tuple[int, int]] = []
    with Index.open(directory) as index:
        push(index, NumpySink(), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(LIVE), len(LIVE)) and seen == sorted(seen)


def test_manifests_with_other_profiles_are_not_mixed(directory, tmp_path):
    sink = NumpySink()
    pushed(directory, sink)
    with Index.open(directory) as index:
        other = Manifest(index.manifest.fingerprint, "drawn", 8, icc="srgb")
        with pytest.raises(FingerprintMismatch):
            described_there(sink).require(other, sink.place)
