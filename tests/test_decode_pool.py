"""Decoding in worker processes, which may be lost one at a time."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import noise

import clipdex
from clipdex.images import open_image, to_pixels
from clipdex.index import Failure
from clipdex.pipeline.decode import DecodePool
from clipdex.pipeline.limits import Limits
from clipdex.pipeline.scan import FoundFile, scan
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

SPEC = FakeTransport().card.image


def decode(folder, **options):
    with DecodePool(SPEC, **options) as pool:
        return list(pool.decode(scan(folder, pytest.fail)))


def test_pixels_are_those_of_this_process_in_the_order_of_the_files(tmp_path):
    for i in range(30):
        noise(i, size=(20 + 9 * (i % 5), 33)).save(tmp_path / f"{i:02}.png")
    results = decode(tmp_path, workers=3, ahead=7)
    assert [os.path.basename(r.picture.path) for r in results] == [b"%02d.png" % i for i in range(30)]
    for i, result in enumerate(results):
        path = tmp_path / f"{i:02}.png"
        assert np.array_equal(result.pixels, to_pixels(open_image(path), SPEC))
        assert result.picture.size == path.stat().st_size
        assert result.picture.mtime_ns == path.stat().st_mtime_ns
        assert (result.picture.width, result.picture.height) == (20 + 9 * (i % 5), 33)


def test_a_bad_file_is_a_failure_in_its_place(tmp_path):
    noise(1).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("no picture")
    (tmp_path / "c.png").write_bytes(b"")
    noise(2).save(tmp_path / "d.png")
    results = decode(tmp_path, workers=2)
    assert [r.reason if isinstance(r, Failure) else "" for r in results] == ["", "not_a_picture", "empty", ""]
    assert "known format" in results[1].detail
    assert results[1].size == len("no picture")


def test_a_file_that_vanished_since_the_scan_is_a_failure(tmp_path):
    files = [FoundFile(os.fsencode(tmp_path / "gone.jpg"), 10, 20)]
    with DecodePool(SPEC, workers=1) as pool:
        (result,) = pool.decode(iter(files))
    assert (result.reason, result.size, result.mtime_ns) == ("vanished", 10, 20)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    noise(1).save(tmp_path / "a.png")
    (result,) = decode(tmp_path, workers=1, limits=Limits(max_file_bytes=100))
    assert result.reason == "too_large"


def hanging(tmp_path):
    """A folder whose second file blocks its reader: a FIFO, put there as if after the scan."""
    files = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        if i == 1:
            os.mkfifo(path)
        else:
            noise(i).save(path)
        files.append(FoundFile(os.fsencode(path), 1, 2))
    return files


def test_a_file_that_takes_too_long_costs_only_itself(tmp_path):
    with DecodePool(SPEC, workers=1, limits=Limits(file_timeout_s=1.0)) as pool:
        results = list(pool.decode(iter(hanging(tmp_path))))
    assert [getattr(r, "reason", "") for r in results] == ["", "timeout", "", "", "", ""]


def test_a_worker_that_dies_costs_only_the_file_it_was_at(tmp_path):
    with DecodePool(SPEC, workers=1) as pool:
        results = pool.decode(iter(hanging(tmp_path)))
        first = next(results)
        victim = pool._workers[0].process.pid
        threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
        rest = list(results)
    assert first.picture.width == 40
    assert [getattr(r, "reason", "") for r in rest] == ["worker_died", "", "", "", ""]
    assert "signal 9" in rest[0].detail


def test_workers_that_cannot_run_at_all_are_not_the_pictures_fault(tmp_path, monkeypatch):
    for i in range(40):
        noise(i).save(tmp_path / f"{i}.png")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(clipdex.ClipdexError, match="workers in a row ended"):
        decode(tmp_path, workers=2)


def test_no_process_is_left_when_the_reader_stops_early(tmp_path):
    for i in range(20):
        noise(i).save(tmp_path / f"{i}.png")
    with DecodePool(SPEC, workers=2) as pool:
        next(pool.decode(scan(tmp_path, pytest.fail)))
        pids = [worker.process.pid for worker in pool._workers]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_more_than_ahead_is_decoded_before_it_is_asked_for(tmp_path):
    drawn = []

    def files():
        for i in range(100):
            path = tmp_path / f"{i}.png"
            noise(i % 3).save(path)
            drawn.append(i)
            yield FoundFile(os.fsencode(path), 1, 2)

    with DecodePool(SPEC, workers=2, ahead=10) as pool:
        results = pool.decode(files())
        next(results)
        time.sleep(0.5)  # time enough to draw all hundred, were there no bound
        assert len(drawn) <= 1 + 10 + 1
        assert len(list(results)) == 99


def test_a_fault_of_the_source_reaches_the_reader(tmp_path):
    def files():
        raise clipdex.SourceError("gone")
        yield

    with DecodePool(SPEC, workers=1) as pool, pytest.raises(clipdex.SourceError, match="gone"):
        list(pool.decode(files()))


def test_workers_must_be_at_least_one():
    with pytest.raises(clipdex.InvalidArgument, match="workers is 0"):
        DecodePool(SPEC, workers=0)
