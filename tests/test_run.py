"""A whole indexing run over a fake server: counting, resuming, keeping up with the folder."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import no_failure, noise
from killed_run import kill_a_run

import clipdex
from clipdex import Client, Index, PathList, index_pictures, plan_run
from clipdex.pipeline.run import Run
from clipdex.sources.scan import scan
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]


def run(folder, index, transport=None, **options):
    with Client(transport or FakeTransport()) as client:
        return index_pictures(client, folder, index, workers=2, **options)


def paths(index):
    with Index.open(index) as opened:
        return [os.path.basename(path) for _, path in opened.live_paths()]


def assert_sums(report, files):
    """files: how many there are on disk."""
    assert files == report.discovered == report.indexed + report.unchanged + report.failed


def test_a_folder_becomes_an_index(pictures, tmp_path):
    report = run(pictures, tmp_path / "x")
    assert (report.discovered, report.indexed, report.rows) == (12, 12, 12)
    assert paths(tmp_path / "x") == [b"%d.png" % i for i in range(9)] + [b"10.jpg", b"11.jpg", b"9.jpg"]
    with Index.open(tmp_path / "x") as index, Client(FakeTransport()) as client:
        vectors = client.embed_images([os.fsdecode(path) for _, path in index.live_paths()])
        np.testing.assert_allclose(index.vectors, vectors, atol=1e-3)


@pytest.mark.slow
def test_the_order_in_the_index_is_the_folders_whatever_the_batches(pictures, tmp_path):
    run(pictures, tmp_path / "a", FakeTransport(max_batch_size=1))
    run(pictures, tmp_path / "b", FakeTransport(max_batch_size=5))
    assert paths(tmp_path / "a") == paths(tmp_path / "b")
    assert (tmp_path / "a" / "vectors.f16").read_bytes() == (tmp_path / "b" / "vectors.f16").read_bytes()


def test_the_second_run_embeds_nothing(pictures, tmp_path):
    run(pictures, tmp_path / "x")
    transport = FakeTransport()
    report = run(pictures, tmp_path / "x", transport)
    assert (report.indexed, report.unchanged, report.rows) == (0, 12, 12)
    assert "fake_image" not in [model for model, _ in transport.requests]
    assert_sums(report, 12)


@pytest.mark.slow
def test_new_changed_and_vanished_files(pictures, tmp_path):
    run(pictures, tmp_path / "x")
    noise(100).save(pictures / "new.png")
    noise(101, size=(50, 50)).save(pictures / "3.png")
    (pictures / "more" / "9.jpg").unlink()
    report = run(pictures, tmp_path / "x")
    assert (report.indexed, report.unchanged, report.removed, report.rows) == (2, 10, 1, 12)
    assert sorted(paths(tmp_path / "x")) == sorted(
        [b"new.png", *(b"%d.png" % i for i in range(9)), b"10.jpg", b"11.jpg"]
    )


def test_a_file_that_vanishes_during_a_run_is_in_the_ledger_until_the_next(pictures, tmp_path):
    class Shrinking(clipdex.Folder):
        def files(self, on_failure):
            for file in super().files(on_failure):
                if os.path.basename(file.path) == b"3.png" and os.path.exists(file.path):
                    os.unlink(file.path)
                yield file

    report = run(Shrinking(pictures), tmp_path / "x")
    assert (report.indexed, report.failed) == (11, 1)
    with Index.open(tmp_path / "x") as index:
        assert [(os.path.basename(each.path), each.reason) for each in index.failures()] == [
            (b"3.png", "vanished")
        ]
    assert run(pictures, tmp_path / "x").failed == 0
    with Index.open(tmp_path / "x") as index:
        assert index.failures() == []


@pytest.mark.slow
def test_files_of_another_folder_stay(pictures, tmp_path):
    run(pictures / "more", tmp_path / "x")
    other = tmp_path / "other"
    other.mkdir()
    noise(5).save(other / "a.png")
    report = run(other, tmp_path / "x")
    assert (report.discovered, report.removed, report.rows) == (1, 0, 4)


def test_a_bad_file_is_in_the_ledger_and_ends_nothing(pictures, tmp_path):
    (pictures / "2.png").write_text("no picture")
    (pictures / "5.png").write_bytes(b"")
    os.mkfifo(pictures / "fifo.jpg")
    report = run(pictures, tmp_path / "x")
    assert (report.discovered, report.indexed, report.failed) == (13, 10, 3)
    assert_sums(report, 13)
    with Index.open(tmp_path / "x") as index:
        ledger = {os.path.basename(f.path): f.reason for f in index.failures()}
    assert ledger == {b"2.png": "not_a_picture", b"5.png": "empty", b"fifo.jpg": "not_a_file"}


@pytest.mark.slow
def test_a_bad_file_is_tried_again_when_asked_or_when_it_changed(pictures, tmp_path):
    (pictures / "2.png").write_text("no picture")
    run(pictures, tmp_path / "x")
    report = run(pictures, tmp_path / "x")
    assert (report.failed, report.unchanged) == (1, 11)
    assert_sums(report, 12)
    report = run(pictures, tmp_path / "x", retry_failures=True)
    assert (report.failed, report.unchanged) == (1, 11)
    noise(2).save(pictures / "2.png")
    report = run(pictures, tmp_path / "x")
    assert (report.indexed, report.failed, report.rows) == (1, 0, 12)
    with Index.open(tmp_path / "x") as index:
        assert index.failures() == []


def test_a_bad_file_that_is_deleted_leaves_the_ledger(pictures, tmp_path):
    (pictures / "2.png").write_text("no picture")
    run(pictures, tmp_path / "x")
    (pictures / "2.png").unlink()
    run(pictures, tmp_path / "x")
    with Index.open(tmp_path / "x") as index:
        assert index.failures() == []


def test_a_lost_server_loses_nothing_that_was_embedded(pictures, tmp_path):
    sent = []

    def fault(model, inputs):
        if model == "fake_image":
            sent.append(1)
            if len(sent) > 3:
                return clipdex.ServerUnreachable("the server is gone")
        return None

    with pytest.raises(clipdex.ServerUnreachable):
        run(pictures, tmp_path / "x", FakeTransport(max_batch_size=2, fault=fault))
    assert paths(tmp_path / "x") == [b"%d.png" % i for i in range(6)]
    report = run(pictures, tmp_path / "x")
    assert (report.indexed, report.unchanged, report.rows) == (6, 6, 12)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """SIGKILL in the middle, five times; in the end every picture is there once."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(60):
        noise(i).save(folder / f"{i:02}.png")
    index, before = tmp_path / "x", 0
    for _ in range(5):
        rows = kill_a_run(folder, index, after=before)
        assert rows >= before
        before = rows
    assert before > 0
    report = run(folder, index)
    assert report.indexed + report.unchanged == 60
    assert report.unchanged >= before
    assert paths(index) == [b"%02d.png" % i for i in range(60)]


def test_ctrl_c_commits_what_is_embedded(pictures, tmp_path):
    sent = []

    def fault(model, inputs):
        sent.extend([model] if model == "fake_image" else [])
        if len(sent) == 5:  # two are in flight
            os.kill(os.getpid(), signal.SIGINT)
        return None

    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "x", FakeTransport(max_batch_size=2, fault=fault))
    kept = len(paths(tmp_path / "x"))
    assert 4 <= kept < 12
    report = run(pictures, tmp_path / "x")
    assert (report.unchanged, report.rows) == (kept, 12)


class Listed:
    """FoundFiles as a source."""

    def __init__(self, files):
        self.files = lambda on_failure: files()

    def vanished(self, paths):
        return []


def test_ctrl_c_ends_a_scan_of_unchanged_files(pictures, tmp_path):
    run(pictures, tmp_path / "x")
    known = list(scan(pictures, no_failure))
    drawn = []

    def files():
        for i in range(1_000_000):
            drawn.append(i)
            if len(drawn) == 500:
                os.kill(os.getpid(), signal.SIGINT)
            yield known[i % 12]

    with pytest.raises(KeyboardInterrupt):
        run(Listed(files), tmp_path / "x")
    assert len(drawn) < 1_000_000


@pytest.mark.parametrize("stage", ["_place", "_fail"])
def test_a_file_that_is_dropped_on_the_way_is_noticed(pictures, tmp_path, monkeypatch, stage):
    (pictures / "2.png").write_text("no picture")
    original, calls = getattr(Run, stage), []

    def forgetful(self, *args):
        calls.append(args)
        if len(calls) > 1:
            original(self, *args)
        elif stage == "_place":  # a first call may bring any number of the twelve
            results, batch = args
            original(self, results[1:], batch)

    monkeypatch.setattr(Run, stage, forgetful)
    with pytest.raises(clipdex.ClipdexError, match=r"12 files came from the source, but \d+ are accounted for"):
        run(pictures, tmp_path / "x")


@pytest.mark.parametrize("how", ["EIO", "no folder", "no file", "link to no folder"])
def test_a_listed_file_loses_its_row_only_if_it_is_gone_for_certain(pictures, tmp_path, monkeypatch, how):
    listed = pictures / "more" / "9.jpg"
    if how == "link to no folder":
        listed = tmp_path / "link.jpg"
        listed.symlink_to(pictures / "more" / "9.jpg")
    source = PathList([os.fsencode(pictures / "1.png"), os.fsencode(listed)], "the list")
    run(source, tmp_path / "x")
    if how == "EIO":
        stat = os.stat

        def fail(path, **options):
            if path == os.fsencode(listed):
                raise OSError(errno.EIO, "Input/output error")
            return stat(path, **options)

        monkeypatch.setattr(os, "stat", fail)
    elif how == "no file":
        listed.unlink()
    else:
        (pictures / "more").rename(tmp_path / "not mounted")
    gone = how == "no file"
    plan = plan_run(source, tmp_path / "x")
    assert (plan.unchanged, plan.failed) == (2 - gone, gone)
    report = run(source, tmp_path / "x")
    assert (report.unchanged, report.unseen, report.failed) == (2 - gone, 1 - gone, gone)
    assert report.rows == 2 - gone
    assert_sums(report, 2)


def test_a_second_writer_is_refused_before_the_source_is_listed(pictures, tmp_path):
    run(pictures, tmp_path / "x")
    with clipdex.IndexWriter(tmp_path / "x"), pytest.raises(clipdex.IndexLocked):
        run(Listed(lambda: pytest.fail("listed")), tmp_path / "x")


def test_progress_is_told_up_to_the_end(pictures, tmp_path):
    told: list[Any] = []
    run(pictures, tmp_path / "x", FakeTransport(max_batch_size=4), progress=told.append)
    assert told[-1].done == 12
    assert told[-1].indexed == 12
    assert all(p.total in (None, 12) for p in told)
    assert [p.done for p in told] == sorted(p.done for p in told)


def test_an_index_of_another_model_is_refused_with_both_fingerprints(pictures, tmp_path):
    first, second = FakeTransport(), FakeTransport(weights="others")
    run(pictures, tmp_path / "x", first)
    before = (tmp_path / "x" / "vectors.f16").read_bytes()
    with pytest.raises(clipdex.FingerprintMismatch) as caught:
        run(pictures, tmp_path / "x", second)
    assert first.card.fingerprint[:12] in str(caught.value)
    assert second.card.fingerprint[:12] in str(caught.value)
    assert (tmp_path / "x" / "vectors.f16").read_bytes() == before


@pytest.mark.parametrize("folder", ["missing", "empty", "texts"])
def test_a_folder_without_pictures_makes_no_index(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello")
    with pytest.raises(clipdex.SourceError, match=folder):
        run(tmp_path / folder, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_place_that_is_no_index_is_left_alone(pictures, tmp_path):
    with pytest.raises(clipdex.IndexFormatError):
        run(pictures, Path(pictures))
    assert "writer.lock" not in os.listdir(pictures)
