"""What a run keeps in memory beside its ring, the threads it starts, and what it tells meanwhile."""

import logging
import os
import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from conftest import present

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.base.records import Failure
from clipdex.index.writer import IndexWriter
from clipdex.pipeline import run as running
from clipdex.pipeline import standing
from clipdex.sources import open_source
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


class Captions:
    """A folder's files with something new to say of each, and as many that cannot be looked at. Counts them."""

    def __init__(self, folder):
        self.folder, self.told = open_source(folder), 0

    def files(self, on_failure):
        self.told = 0
        for file in self.folder.files(on_failure):
            self.told += 2
            on_failure(Failure(file.path + b".gone", "vanished", "", 0, 0))
            yield replace(file, metadata='{"caption": "new"}')

    def vanished(self, paths):
        return []

    def nothing_found(self):
        return self.folder.nothing_found()


@pytest.fixture
def indexed(pictures, tmp_path):
    """An index of the pictures, whose next run finds none changed."""
    with Client(FakeTransport()) as client:
        index_pictures(client, pictures, tmp_path / "x", workers=1)
    return tmp_path / "x"


def test_what_is_said_of_unchanged_files_waits_within_bounds(pictures, indexed, fake, monkeypatch):
    """Where no file is decoded, it was kept until the end: of ten million rows, all captions at once."""
    source, heard, most = Captions(pictures), 0, 0

    def counted(method):
        def call(*arguments):
            nonlocal heard, most
            heard, most = heard + 1, max(most, source.told - heard)
            return method(*arguments)

        return call

    monkeypatch.setattr(running, "_MOST_NOTES", 2)
    monkeypatch.setattr(standing, "_LOOKED_UP", 1)  # files that the scan looks up together are in its hands, too
    monkeypatch.setattr(IndexWriter, "annotate", counted(IndexWriter.annotate))
    monkeypatch.setattr(IndexWriter, "fail", counted(IndexWriter.fail))
    report = index_pictures(fake, source, indexed, workers=1)
    assert (report.unchanged, report.failed, heard) == (12, 12, 24)
    assert most <= 6  # two of each kind, and those that the scan is at
    with Index.open(indexed) as opened:
        hits = opened.search(fake.embed_texts(["a"]), 12)[0]
    assert {present(hit.metadata)["caption"] for hit in hits} == {"new"}


def test_a_scan_that_waits_to_be_heard_does_not_keep_a_run_from_ending(pictures, indexed, fake, monkeypatch):
    def full(*arguments):
        raise clipdex.IndexWriteError("the disk is full")

    monkeypatch.setattr(running, "_MOST_NOTES", 2)
    monkeypatch.setattr(IndexWriter, "annotate", full)
    with pytest.raises(clipdex.IndexWriteError, match="the disk is full"):
        index_pictures(fake, Captions(pictures), indexed, workers=1)


@pytest.mark.parametrize("progress", [None, lambda progress: None], ids=["alone", "watched"])
def test_pictures_are_counted_only_for_one_who_is_told(pictures, tmp_path, fake, monkeypatch, progress):
    started = []
    start = threading.Thread.start

    def noted(thread):
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    index_pictures(fake, pictures, tmp_path / "x", workers=1, progress=progress)
    counting = [thread for thread in started if thread.name == "clipdex-count"]
    assert len(counting) == (progress is not None)
    assert not any(thread.is_alive() for thread in counting)


def test_the_time_that_each_stage_took_is_told_during_the_run(pictures, tmp_path):
    told: list[Any] = []
    with Client(FakeTransport(max_batch_size=4)) as client:
        report = index_pictures(client, pictures, tmp_path / "x", workers=1, progress=told.append)
    assert len(told) > 2
    for before, after in pairwise(told):
        assert all(after.stage_seconds[stage] >= seconds for stage, seconds in before.stage_seconds.items())
    first = next(each for each in told if each.indexed)
    assert first.stage_seconds["decode"] > 0
    assert first.stage_seconds["append"] > 0
    assert told[-1].stage_seconds == report.stage_seconds


def test_a_ring_too_small_for_what_the_server_takes_is_said(pictures, tmp_path, fake, caplog):
    caplog.set_level(logging.WARNING, "clipdex")
    fake.in_flight = 8
    index_pictures(fake, pictures, tmp_path / "x", workers=1)
    assert caplog.text == ""
    tray = fake.max_batch_size * 32 * 32 * 3
    index_pictures(fake, pictures, tmp_path / "y", workers=1, max_ring_bytes=4 * tray)
    assert "room for 4 trays: 3 requests in flight instead of 8" in caplog.text


def test_a_worker_that_cannot_be_started_leaves_no_descriptor(pictures, tmp_path, fake, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(clipdex.ClipdexError, match="a decode worker could not be started"):
        index_pictures(fake, pictures, tmp_path / "x", workers=1)
    assert len(os.listdir("/proc/self/fd")) <= before
