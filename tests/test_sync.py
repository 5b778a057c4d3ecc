"""An index keeps up with its source: new, changed, touched, moved, copied, vanished files, and lists of paths."""

import os
import shutil

import pytest
from conftest import noise, present

import clipdex
from clipdex import Client, Folder, Index, PathList, plan_run
from clipdex.sources import ledger_source
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]


def indexed(tmp_path):
    with Index.open(tmp_path / "x") as index:
        return {os.path.basename(path): index.vectors[row].tobytes() for row, path in index.live_paths()}


def test_a_moved_file_is_not_embedded_again(update, pictures, tmp_path):
    update(pictures)
    before = indexed(tmp_path)
    (pictures / "3.png").rename(pictures / "more" / "moved.png")
    report, sent = update(pictures)
    assert (report.indexed, report.recognised, report.removed, report.unchanged) == (1, 1, 1, 11)
    assert sent == 0
    after = indexed(tmp_path)
    assert after[b"moved.png"] == before[b"3.png"]
    assert b"3.png" not in after


@pytest.mark.slow
def test_a_moved_folder_is_not_embedded_again(update, pictures, tmp_path):
    update(pictures)
    moved = tmp_path / "elsewhere"
    pictures.rename(moved)
    report, sent = update(moved)
    assert (report.indexed, report.recognised, sent) == (12, 12, 0)
    assert report.rows == 24  # the old folder's rows go when the old folder is asked for


@pytest.mark.slow
def test_a_copy_is_a_row_of_its_own_with_the_same_vector(update, pictures, tmp_path):
    update(pictures)
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    report, sent = update(pictures)
    assert (report.indexed, report.recognised, report.rows, sent) == (1, 1, 13, 0)
    after = indexed(tmp_path)
    assert after[b"copy.png"] == after[b"1.png"]


@pytest.mark.slow
def test_a_touched_file_keeps_its_row_and_is_not_read_twice(update, pictures, tmp_path):
    update(pictures)
    os.utime(pictures / "1.png", ns=(1, 1))
    report, sent = update(pictures)
    assert (report.indexed, report.unchanged, sent) == (0, 12, 0)
    with Index.open(tmp_path / "x") as index:
        assert len(index.tombstones) == 0
        known = index.known(os.fsencode(pictures / "1.png"))
    assert present(known).mtime_ns == 1
    assert plan_run(pictures, tmp_path / "x").changed == 0


def test_a_picture_that_comes_back_is_recognised(update, pictures, tmp_path):
    update(pictures)
    (pictures / "1.png").rename(tmp_path / "away.png")
    update(pictures)
    (tmp_path / "away.png").rename(pictures / "1.png")
    report, sent = update(pictures)
    assert (report.indexed, report.recognised, report.rows, sent) == (1, 1, 12, 0)


@pytest.mark.slow
def test_the_order_is_the_sources_with_recognised_files_among_new_ones(update, pictures, tmp_path):
    update(pictures)
    other = tmp_path / "other"
    other.mkdir()
    for i in range(6):
        if i % 2:
            shutil.copy(pictures / f"{i}.png", other / f"{i}.png")
        else:
            noise(100 + i).save(other / f"{i}.png")
    report, sent = update(other)
    assert (report.indexed, report.recognised, sent) == (6, 3, 3)
    with Index.open(tmp_path / "x") as index, Client(FakeTransport()) as client:
        tail = index.live_paths()[12:]
        assert [os.path.basename(path) for _, path in tail] == [b"%d.png" % i for i in range(6)]
        expected = client.embed_images([os.fsdecode(path) for _, path in tail])
        assert abs(index.vectors[12:] - expected).max() < 1e-3


@pytest.mark.parametrize("again", ["by the folder", "by the ledger"])
def test_a_folder_that_may_not_be_looked_into_loses_no_rows(update, pictures, tmp_path, monkeypatch, again):
    update(pictures)
    real = os.lstat

    def refuse(path, *args, **kwargs):
        if b"more" in os.fsencode(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    listed = os.scandir

    def no_list(path):
        if os.fsencode(path).endswith(b"more"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "lstat", refuse)  # root may look anywhere
    monkeypatch.setattr(os, "scandir", no_list)
    report, _ = update(pictures)
    assert (report.removed, report.failed, report.rows) == (0, 1, 12)
    with Index.open(tmp_path / "x") as index:
        ledger = index.failures()
    assert [f.path for f in ledger] == [os.fsencode(pictures / "more")]
    report, _ = update(ledger_source(ledger, "the ledger"), retry_failures=True)
    assert (report.discovered, report.failed) == (1, 1)
    monkeypatch.undo()
    source = ledger_source(ledger, "the ledger") if again == "by the ledger" else pictures
    report, _ = update(source, retry_failures=True)
    assert (report.unchanged, report.failed, report.rows) == (3 if again == "by the ledger" else 12, 0, 12)
    with Index.open(tmp_path / "x") as index:
        assert index.failures() == []


def test_a_picture_whose_place_a_folder_took_is_gone(update, pictures):
    update(pictures)
    (pictures / "1.png").unlink()
    (pictures / "1.png").mkdir()
    report, _ = update(pictures)
    assert (report.removed, report.rows) == (1, 11)


def test_a_plan_says_what_a_run_then_does(update, pictures, tmp_path, transport):
    index = tmp_path / "x"
    plan = plan_run(pictures, index)
    assert (plan.discovered, plan.new) == (12, 12)
    assert not index.exists()
    update(pictures)
    noise(70).save(pictures / "new.png")
    noise(71, size=(9, 9)).save(pictures / "2.png")
    (pictures / "3.png").unlink()
    sent = len(transport.requests)
    plan = plan_run(pictures, index)
    assert (plan.discovered, plan.new, plan.changed, plan.unchanged, plan.vanished) == (12, 1, 1, 10, 1)
    assert len(transport.requests) == sent
    report, _ = update(pictures)
    assert (report.indexed, report.unchanged, report.removed) == (2, 10, 1)


@pytest.mark.slow
def test_a_plan_foresees_what_is_embedded_again_because_it_is_damaged(update, pictures, tmp_path):
    index = tmp_path / "x"
    update(pictures)
    with (index / "vectors.f16").open("r+b") as file:
        file.write(b"\xff")
    plan = plan_run(pictures, index)
    assert (plan.discovered, plan.new, plan.damaged, plan.unchanged) == (12, 0, 12, 0)
    report, _ = update(pictures)
    assert (report.indexed, report.unchanged) == (12, 0)
    assert plan_run(pictures, index).damaged == 0


def test_a_list_of_paths_is_indexed_in_its_order_each_once(update, pictures, tmp_path):
    names = [pictures / "5.png", pictures / "1.png", pictures / "5.png", pictures / "gone.png", pictures]
    source = PathList.parse(b"\n".join(os.fsencode(name) for name in names) + b"\n", "the list")
    report, _ = update(source)
    assert (report.discovered, report.indexed, report.failed) == (4, 2, 2)
    with Index.open(tmp_path / "x") as index:
        assert [os.path.basename(path) for _, path in index.live_paths()] == [b"5.png", b"1.png"]
        assert {f.reason for f in index.failures()} == {"vanished", "not_a_file"}


def test_a_list_forgets_nothing_it_does_not_name(update, pictures):
    update(pictures)
    (pictures / "1.png").unlink()
    report, _ = update(PathList([os.fsencode(pictures / "2.png")], "the list"))
    assert (report.removed, report.rows) == (0, 12)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"/a.jpg\n/b.jpg\n", [b"/a.jpg", b"/b.jpg"]),
        (b"/a.jpg\r\n/b.jpg", [b"/a.jpg", b"/b.jpg"]),
        (b"/a\nb.jpg\0/c.jpg\0", [b"/a\nb.jpg", b"/c.jpg"]),
        (b"/caf\xe9.jpg\n\n\n", [b"/caf\xe9.jpg"]),
    ],
)
def test_lists_by_line_or_by_nul(data, expected):
    assert list(PathList.parse(data, "x")._paths) == expected


def test_a_list_that_cannot_be_read_or_is_empty(update, tmp_path):
    with pytest.raises(clipdex.SourceError, match="cannot be read"):
        PathList.read(tmp_path / "nothing")
    with pytest.raises(clipdex.SourceError, match="names no file"):
        update(PathList.parse(b"\n", "the list"))
    assert not (tmp_path / "x").exists()


def test_a_folder_can_be_given_as_text_path_or_source(update, pictures):
    for source in (str(pictures), pictures, Folder(pictures)):
        report, _ = update(source)
        assert report.discovered == 12
