"""An index of parts is written: resumed after a kill, synced, shared by processes; its plan never changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import noise

import clipdex
from clipdex import Client, Collection, Index, PathList, plan_run
from clipdex.index.part_plan import PartPlan
from clipdex.sources.part import Divided
from clipdex.sources.tar_shards import TarShards
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

N = 3


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder in which each of three parts has at least two of `pictures`: parts follow from paths."""
    names = [*(f"pictures/{i}.png" for i in range(9)), *(f"pictures/more/{i}.jpg" for i in range(9, 12))]
    part_of = PartPlan(3, "f", "m", 8).part_of
    for number in range(10_000):
        place = tmp_path / str(number)
        held = [part_of(os.fsencode(place / name)) for name in names]
        if min(held.count(part) for part in range(3)) >= 2:
            place.mkdir()
            return place
    raise AssertionError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "x.parts"


def make(client: Client, source: Any, out: Path, **options: Any) -> clipdex.RunReport:
    return clipdex.index_pictures(client, source, out, workers=1, **options)


def content(index: Path) -> dict[bytes, bytes]:
    """Each path with its vector."""
    with Index.open(index) as opened:
        return {path: opened.vectors[row].tobytes() for row, path in opened.live_paths()}


def there(out: Path) -> list[str]:
    return sorted(each.name for each in out.iterdir() if not each.name.endswith(".lock"))


def in_part(out: Path, number: int, folder: Path) -> list[Path]:
    plan = PartPlan.read(out)
    return [each for each in sorted(folder.rglob("*.*g")) if plan.part_of(os.fsencode(each)) == number]


ALL = ["part-00000.clipdex", "part-00001.clipdex", "part-00002.clipdex", "plan.json"]


def test_all_parts_have_what_one_index_has_bit_for_bit(
    fake: Client, pictures: Path, out: Path, tmp_path: Path
) -> None:
    (pictures / "bad.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_bytes(b"passed over")
    one = make(fake, pictures, tmp_path / "one")
    heard: list[clipdex.Progress] = []
    all_of_them = make(fake, pictures, out, parts=N, progress=heard.append)
    for name in ("discovered", "indexed", "unchanged", "failed", "rows", "passed_over"):
        assert getattr(all_of_them, name) == getattr(one, name), name
    assert there(out) == ALL
    assert content(out) == content(tmp_path / "one")
    assert (heard[-1].done, heard[-1].total) == (13, 13)
    assert [p.done for p in heard] == sorted(p.done for p in heard)
    with Index.open(out) as opened:
        assert [failure.reason for failure in opened.failures()] == ["not_a_picture"]
        plan = PartPlan.read(out)
        for number, (_, part) in enumerate(opened.pieces()):
            assert all(plan.part_of(path) == number for _, path in part.live_paths())
    assert clipdex.verify_index(out).damages == []


@pytest.mark.slow
def test_a_later_run_needs_no_number_and_keeps_all_parts_up_to_date(
    fake: Client, transport: FakeTransport, pictures: Path, out: Path
) -> None:
    make(fake, pictures, out, parts=N)
    assert make(fake, pictures, out).unchanged == 12
    (pictures / "0.png").unlink()
    noise(50).save(pictures / "1.png")
    (pictures / "2.png").rename(pictures / "moved.png")
    noise(51).save(pictures / "new.png")
    plan = plan_run(pictures, out)
    assert (plan.new, plan.changed, plan.unchanged, plan.vanished) == (2, 1, 9, 2)
    report = make(fake, pictures, out)
    assert (report.indexed, report.changed, report.unchanged, report.removed, report.rows) == (3, 1, 9, 2, 12)
    names = {os.path.basename(path) for path in content(out)}
    assert {b"0.png", b"2.png"}.isdisjoint(names) and {b"moved.png", b"new.png", b"1.png"} <= names
    assert content(out)[os.fsencode(pictures / "moved.png")]


@pytest.mark.slow
def test_parts_are_made_one_by_one_and_an_incomplete_index_names_the_missing_one(
    fake: Client, pictures: Path, out: Path
) -> None:
    counts = []
    for number in (2, 0):
        counts.append(make(fake, pictures, out, parts=N, part=number).rows)
    with pytest.raises(clipdex.IndexNotFound, match=r"part-00001\.clipdex of 3 parts is missing.*--part 1"):
        Index.open(out)
    with Index.open(out, allow_missing=True) as opened:
        assert opened.missing == ["part-00001.clipdex"]
        assert len(opened) == sum(counts)
        last = make(fake, pictures, out, part=1)
        assert not opened.is_current()
        opened.refresh()
        assert (opened.missing, len(opened), sum(counts) + last.rows) == ([], 12, 12)


def test_a_part_that_goes_missing_is_an_error_of_a_reader_and_of_verify(
    fake: Client, pictures: Path, out: Path, tmp_path: Path
) -> None:
    make(fake, pictures, out, parts=N)
    with Index.open(out) as opened:
        (out / "part-00001.clipdex").rename(tmp_path / "away")
        assert not opened.is_current()
        with pytest.raises(clipdex.IndexFault, match="part-00001"):
            opened.refresh()
        assert not opened.is_open
    assert [each.what for each in clipdex.verify_index(out).damages] == ["part-00001.clipdex: is missing"]
    for command in (clipdex.compact_index, lambda index: clipdex.merge_indexes([index], tmp_path / "one")):
        with pytest.raises(clipdex.IndexNotFound, match="part-00001"):
            command(out)
    assert not (tmp_path / "one").exists()


@pytest.mark.slow
def test_a_part_of_another_model_is_an_error_that_names_it(
    fake: Client, pictures: Path, out: Path, tmp_path: Path
) -> None:
    make(fake, pictures, out, parts=N)
    with Client(FakeTransport(embedding_dim=4)) as other:
        make(other, pictures, tmp_path / "other")
        with pytest.raises(clipdex.FingerprintMismatch):
            make(other, pictures, out)
    (out / "part-00001.clipdex").rename(tmp_path / "away")
    (tmp_path / "other").rename(out / "part-00001.clipdex")
    with pytest.raises(clipdex.FingerprintMismatch, match="part-00001"):
        Index.open(out)
    assert any("part-00001" in each.what for each in clipdex.verify_index(out).damages)


@pytest.mark.slow
def test_the_plan_is_frozen(fake: Client, pictures: Path, out: Path) -> None:
    make(fake, pictures, out, parts=N)
    before = (out / "plan.json").read_bytes()
    with pytest.raises(clipdex.InvalidArgument, match="has 3 parts, and 4 are asked for"):
        make(fake, pictures, out, parts=4)
    with pytest.raises(clipdex.InvalidArgument, match="has 3 parts, and 4 are asked for"):
        plan_run(pictures, out, parts=4)
    with pytest.raises(clipdex.InvalidArgument, match="icc"):
        make(fake, pictures, out, icc="srgb")
    with pytest.raises(clipdex.InvalidArgument, match=r"no part 3 .* expected 0 to 2"):
        make(fake, pictures, out, part=3)
    assert (out / "plan.json").read_bytes() == before
    changed = json.loads(before) | {"parts": 2}
    (out / "plan.json").write_text(json.dumps(changed))
    with pytest.raises(clipdex.IndexDamaged, match=r"plan\.json"):
        Index.open(out)
    assert clipdex.verify_index(out).damages


def test_what_cannot_become_an_index_of_parts_is_refused_in_a_sentence(
    fake: Client, pictures: Path, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(clipdex.InvalidArgument, match="give their number"):
        make(fake, pictures, out, part=0)
    for wrong in (0, 10_001, True):
        with pytest.raises(clipdex.InvalidArgument, match="number of parts"):
            make(fake, pictures, out, parts=wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(clipdex.SourceError, match="holds no picture"):
        make(fake, tmp_path / "empty", out, parts=N)
    assert not out.exists()
    make(fake, pictures, tmp_path / "one")
    with pytest.raises(clipdex.IndexFormatError, match="clipdex split"):
        make(fake, pictures, tmp_path / "one", parts=N)
    with pytest.raises(clipdex.IndexFormatError, match="other things"):
        make(fake, pictures, pictures, parts=N)
    with pytest.raises(clipdex.InvalidArgument, match="inside the index"):
        make(fake, pictures, tmp_path / "one" / "in", parts=N)


@pytest.mark.slow
def test_a_writer_and_a_collection_refuse_an_index_of_parts(fake: Client, pictures: Path, out: Path) -> None:
    make(fake, pictures, out, parts=N)
    with pytest.raises(clipdex.IndexFormatError, match="index of parts"):
        clipdex.IndexWriter(out)
    with pytest.raises(clipdex.InvalidArgument, match="read_only=True"):
        Collection.open(out, client=fake)
    with Collection.open(out, client=fake, read_only=True) as collection:
        hits = collection.search(image=noise(3), top_k=3)
        assert hits[0].path == str(pictures / "3.png") and hits[0].score > 0.99
        assert len(collection) == 12 and {each.path for each in collection} == {
            h for h in map(os.fsdecode, content(out))
        }
        (pictures / "3.png").unlink()
        make(fake, pictures, out)
        assert collection.search(image=noise(3), top_k=3)[0].path != str(pictures / "3.png")
    assert there(out) == ALL


def test_a_part_without_pictures_is_an_empty_index(fake: Client, tmp_path: Path, out: Path) -> None:
    noise(1).save(tmp_path / "only.png")
    assert make(fake, tmp_path / "only.png", out, parts=N).rows == 1
    assert there(out) == ALL
    with Index.open(out) as opened:
        assert sorted(len(part) for _, part in opened.pieces()) == [0, 0, 1]
        assert len(opened.search(opened.vector(0))[0]) == 1
    assert clipdex.verify_index(out).damages == []


def tars(folder: Path, count: int = 6) -> list[Path]:
    """Tars with three pictures each."""
    made = []
    for number in range(count):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for i in range(3):
                noise(10 * number + i).save(folder / "p.png")
                tar.add(folder / "p.png", f"{i}.png")
        made.append(folder / f"{number}.tar")
    (folder / "p.png").unlink()
    return made


@pytest.mark.slow
def test_a_part_reads_the_headers_of_its_own_tars_only(
    fake: Client, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tars").mkdir()
    shards = tars(tmp_path / "tars")
    make(fake, TarShards(shards), out, parts=N)
    plan = PartPlan.read(out)
    assert len(content(out)) == 18
    from clipdex.sources import tar_shards

    read: list[bytes] = []
    listed = tar_shards._listed
    monkeypatch.setattr(tar_shards, "_listed", lambda shard: read.append(shard) or listed(shard))
    for number in range(N):
        read.clear()
        make(fake, TarShards(shards), out, part=number)
        mine = [os.fsencode(shard) for shard in shards if plan.part_of(os.fsencode(shard)) == number]
        # a named tar is looked at once more by the check that the source has a picture at all
        assert set(read) - {os.fsencode(shards[0])} == set(mine) - {os.fsencode(shards[0])}
    shards[2].unlink()
    assert make(fake, TarShards(below=tmp_path / "tars"), out).removed == 3


def test_what_a_folder_of_tars_skipped_is_counted_once(tmp_path: Path) -> None:
    tars(tmp_path, 2)
    (tmp_path / ".hidden.tar").write_bytes((tmp_path / "0.tar").read_bytes())
    whole = TarShards(below=tmp_path)
    list(whole.files(lambda failure: None))
    divided = Divided(TarShards(below=tmp_path), 4, PartPlan(4, "f", "m", 8).part_of)
    counts = []
    for number in range(4):
        part = divided.of(number)
        list(part.files(lambda failure: None))
        counts.append(part.passed_over())  # type: ignore[attr-defined]
    assert clipdex.PassedOver.sum(counts) == whole.passed_over()


def test_each_file_and_failure_of_a_source_is_in_one_part(tmp_path: Path, pictures: Path) -> None:
    names = [*map(os.fsencode, sorted(pictures.rglob("*.*g"))), b"/nowhere.png", b"http://x/y.png"]
    divided = Divided(PathList(names, "list"), 4, PartPlan(4, "f", "m", 8).part_of)
    found: list[bytes] = []
    failed: list[clipdex.Failure] = []
    for number in range(4):
        found += [file.path for file in divided.of(number).files(failed.append)]
        assert divided.of(number).size() is not None
    assert sorted([*found, *(failure.path for failure in failed)]) == sorted(names)
    assert sum(divided.sizes.values()) == len(names)


_ONE_PART = """
import pathlib, sys, time, clipdex
from clipdex.pipeline import run
from clipdex.wire import FakeTransport
run._COMMIT_S = 0
slow = lambda model, inputs: time.sleep(float(sys.argv[4]))
with clipdex.Client(FakeTransport(max_batch_size=1, fault=slow)) as client:
    clipdex.index_pictures(client, pathlib.Path(sys.argv[1]), sys.argv[2], workers=1, parts=3,
                           part=int(sys.argv[3]) if sys.argv[3] != "all" else None)
"""


def start(pictures: Path, out: Path, part: int | str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _ONE_PART, str(pictures), str(out), str(part), str(seconds)])


@pytest.mark.slow
def test_processes_make_parts_at_the_same_time(pictures: Path, out: Path) -> None:
    running = [start(pictures, out, part) for part in (0, 1, 2, 2)]
    codes = [process.wait(60) for process in running]
    assert codes[:2] == [0, 0] and 0 in codes[2:]  # of two for one part, one is refused or finds it done
    assert there(out) == ALL
    assert len(content(out)) == 12


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(
    fake: Client, transport: FakeTransport, pictures: Path, out: Path
) -> None:
    running = start(pictures, out, "all", 0.6)
    building = out / ".part-00000.building"
    deadline = time.monotonic() + 30
    committed = 0
    while time.monotonic() < deadline and not committed:
        if (building / "manifest.json").exists():
            with Index.open(building) as opened:
                committed = len(opened)
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert committed and not (out / "part-00000.clipdex").exists()
    with Index.open(building) as opened:
        committed = len(opened)
    assert plan_run(pictures, out).unchanged == committed
    report = make(fake, pictures, out)
    assert (report.indexed, report.unchanged) == (12 - committed, committed)
    assert there(out) == ALL


def test_a_part_that_another_process_makes_is_refused(fake: Client, pictures: Path, out: Path) -> None:
    make(fake, pictures, out, parts=N, part=0)
    noise(80).save(pictures / "new.png")
    heard: list[str] = []

    def meanwhile(progress: clipdex.Progress) -> None:
        if not heard:
            with pytest.raises(clipdex.IndexLocked) as raised:
                make(fake, pictures, out, part=1)
            heard.append(str(raised.value))

    make(fake, pictures, out, part=1, progress=meanwhile)
    assert "part 1 of" in heard[0] and "another process" in heard[0]


@pytest.mark.slow
def test_forget_compact_and_retry_reach_every_part(fake: Client, pictures: Path, out: Path) -> None:
    (pictures / "bad.png").write_bytes(b"no picture")
    make(fake, pictures, out, parts=N)
    named = [pictures / "1.png", pictures / "more", pictures / "bad.png"]
    assert clipdex.forget_pictures(out, named, dry_run=True) == clipdex.forget_pictures(out, named)
    assert len(content(out)) == 8
    with pytest.raises(clipdex.InvalidArgument, match="nothing at or below"):
        clipdex.forget_pictures(out, [pictures / "none.png"])
    with Index.open(out) as opened:
        assert len(opened.tombstones) == 4 and opened.failures() == []
        generation = opened.generation
        assert clipdex.compact_index(out) == 4
        opened.refresh()
        assert len(opened.vectors) == 8 and opened.generation is not generation
    assert len(content(out)) == 8 and clipdex.verify_index(out).damages == []


@pytest.mark.slow
def test_damage_is_named_with_its_part_and_made_again(fake: Client, pictures: Path, out: Path) -> None:
    make(fake, pictures, out, parts=N)
    with (out / "part-00001.clipdex" / "vectors.f16").open("r+b") as file:
        file.write(b"\xff\xff")
    (damage,) = clipdex.verify_index(out).damages
    assert damage.what.startswith("part-00001.clipdex: ")
    with Index.open(out) as opened:
        first = opened.pieces()[1][0]
        assert damage.rows is not None and damage.rows[0] == first
        with pytest.raises(clipdex.IndexDamaged, match=f"row {first} is damaged"):
            opened.search(opened.vector(first + len(opened.pieces()[1][1]) - 1), 12)
    mine = len(in_part(out, 1, pictures))
    assert make(fake, pictures, out).indexed == mine
    clipdex.compact_index(out)
    assert clipdex.verify_index(out).damages == [] and len(content(out)) == 12


@pytest.mark.slow
def test_split_changes_the_number_of_parts_and_merge_makes_one_index_of_them(
    fake: Client, transport: FakeTransport, pictures: Path, out: Path, tmp_path: Path
) -> None:
    (pictures / "bad.png").write_bytes(b"no picture")
    make(fake, pictures, out, parts=N)
    before = content(out)
    clipdex.split_index(out, tmp_path / "five", 5)
    clipdex.merge_indexes([tmp_path / "five"], tmp_path / "one")
    assert content(tmp_path / "five") == content(tmp_path / "one") == before
    for made in ("five", "one"):
        report = make(fake, pictures, tmp_path / made)
        assert (report.indexed, report.unchanged, report.failed) == (0, 12, 1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["five", "one", "pictures", "x.parts"]
    with pytest.raises(clipdex.InvalidArgument, match="exists already"):
        clipdex.split_index(out, tmp_path / "five", 5)
    with pytest.raises(clipdex.InvalidArgument, match="number of parts"):
        clipdex.split_index(out, tmp_path / "none", 0)
    (out / "part-00002.clipdex" / "vectors.f16").write_bytes(b"")
    with pytest.raises(clipdex.IndexDamaged):
        clipdex.split_index(out, tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()


GOLDEN_PLAN = b"""{
  "format": "clipdex-parts",
  "format_version": 1,
  "parts": 4,
  "hash": "blake2b-64",
  "fingerprint": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  "model": "demo",
  "embedding_dim": 4,
  "dtype": "float16",
  "icc": "off",
  "source": "/photos",
  "crc32c": 4090691127
}
"""


def test_the_plan_byte_by_byte_and_which_part_a_path_is_in(tmp_path: Path) -> None:
    manifest = clipdex.Manifest("f" * 64, "demo", 4)
    plan = PartPlan.of(4, manifest, "/photos").write(tmp_path / "x")
    assert (tmp_path / "x" / "plan.json").read_bytes() == GOLDEN_PLAN
    assert PartPlan.read(tmp_path / "x") == plan
    paths = [b"/photos/a.jpg", b"/photos/b.jpg", b"/0.tar!/a.jpg", b"/0.tar!/b.jpg", b"/0.tar", b"/t.csv!/image/7"]
    assert [plan.part_of(path) for path in paths] == [3, 0, 2, 2, 2, 3]
