"""Decoding in worker processes, which may be lost one at a time."""

import errno
import math
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import no_failure, noise
from hazards import many_scans, png_of, zlib_zeros
from waiting import wait_until

import clipdex
from clipdex.base.arrays import Pixels
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.records import Picture
from clipdex.index import Failure
from clipdex.model.images import open_image, to_pixels
from clipdex.pipeline import decode as decode_module
from clipdex.pipeline.decode import Decoded, DecodePool
from clipdex.pipeline.ring import PixelRing
from clipdex.pipeline.worker_process import worker_environment
from clipdex.sources.scan import FoundFile, scan
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

SPEC = FakeTransport().card.image


class Kept(NamedTuple):
    picture: Picture
    pixels: Pixels


@contextmanager
def pool_of(workers, rows=16, trays=2, **options):
    with PixelRing(SPEC.size, rows, trays) as ring, DecodePool(SPEC, ring, workers=workers, **options) as pool:
        yield pool


def all_of(pool, files):
    """Every result; a picture with its pixels, which outlive their tray."""
    results = []
    for order, result in enumerate(pool.decode(files)):
        kept = isinstance(result, Decoded)
        results.append(Kept(result.picture, pool._ring.at(order).copy()) if kept else result)
        if len(results) % pool._ring.rows == 0:
            pool.release_tray()
    return results


def decode(folder, **options):
    with pool_of(**options) as pool:
        return all_of(pool, scan(folder, no_failure))


def test_pixels_are_those_of_this_process_in_the_order_of_the_files(tmp_path):
    for i in range(30):
        noise(i, size=(20 + 9 * (i % 5), 33)).save(tmp_path / f"{i:02}.png")
    results = decode(tmp_path, workers=3, rows=4)
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
    with pool_of(1) as pool:
        (result,) = pool.decode(iter(files))
    assert (result.reason, result.size, result.mtime_ns) == ("vanished", 10, 20)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    noise(1).save(tmp_path / "a.png")
    (result,) = decode(tmp_path, workers=1, limits=Limits(max_file_bytes=100))
    assert result.reason == "too_large"


def found(path):
    return FoundFile(os.fsencode(path), 1, 2)


def decode_paths(paths, **options):
    with pool_of(1, **options) as pool:
        return all_of(pool, iter([found(path) for path in paths]))


def reasons(results):
    return [getattr(result, "reason", "") for result in results]


def test_what_is_no_file_any_more_is_known_at_once(tmp_path):
    """As after a swap between scan and read. A FIFO would make its reader wait for a writer, for ever."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
        paths = [tmp_path / f"{kind}.jpg" for kind in ("fifo", "folder", "socket")] + ["/dev/zero"]
        results = decode_paths(paths, limits=Limits(file_timeout_s=30))
    assert reasons(results) == ["not_a_file"] * 4


def test_a_file_that_grew_since_the_scan_is_read_whole(tmp_path):
    noise(1, size=(300, 200)).save(tmp_path / "a.png")
    (result,) = decode_paths([tmp_path / "a.png"])
    assert (result.picture.width, result.picture.height) == (300, 200)
    assert result.picture.size == (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize(("grown_to", "reason"), [(900, ""), (1000, ""), (1001, "too_large"), (5000, "too_large")])
def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path, grown_to, reason):
    path = tmp_path / "a"
    path.write_bytes(bytes(700))
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        path.write_bytes(bytes(grown_to))
        if reason:
            with pytest.raises(clipdex.ImageError, match="beyond the limit") as caught:
                ReadRequest(os.fsencode(path)).read(file, info, 1000)
            assert caught.value.reason == reason
        else:
            assert len(ReadRequest(os.fsencode(path)).read(file, info, 1000)) == grown_to


def test_a_picture_that_takes_too_much_memory_costs_only_itself(tmp_path):
    """Large enough for the limit on pixels, too large for this worker, which goes on."""
    for i in (0, 2):
        noise(i).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(png_of(9_000, 9_000, zlib_zeros(9_000 * 27_001)))
    with pool_of(1, limits=Limits(worker_memory_bytes=256 << 20, large_memory_bytes=0)) as pool:
        results = pool.decode(iter([found(tmp_path / f"{i}.png") for i in range(3)]))
        first = next(results)
        worker = pool._workers[0].process.pid
        rest = list(results)
        assert pool._workers[0].process.pid == worker
    assert reasons([first, *rest]) == ["", "out_of_memory", ""]


@pytest.mark.slow
def test_a_large_photograph_fits_a_worker(tmp_path):
    """Its pixels take 4 bytes each, 187 MiB, and there is no copy beside them."""
    (tmp_path / "a.png").write_bytes(png_of(7_000, 7_000, zlib_zeros(7_000 * 21_001)))
    (result,) = decode_paths(
        [tmp_path / "a.png"], limits=Limits(worker_memory_bytes=320 << 20, large_memory_bytes=0)
    )
    assert result.picture.width == 7_000


def test_a_higher_limit_on_pixels_counts(tmp_path):
    """So this one is looked into, and found to have no pixels."""
    (tmp_path / "a.png").write_bytes(png_of(16_400, 16_400, zlib.compress(b""), bits=1, colour=0))
    default, higher = (
        decode_paths([tmp_path / "a.png"], limits=Limits(**more))[0]
        for more in ({}, {"max_pixels": 270_000_000, "worker_memory_bytes": 2 << 30})
    )
    assert default.reason == "too_many_pixels"
    assert higher.reason == "truncated"


@pytest.mark.slow
def test_two_hundred_megapixels_are_decoded_by_default(tmp_path):
    """As a telephone takes them, 16,320 × 12,240, and in one bit that the test is quick. Pillow stops at 179."""
    (tmp_path / "a.png").write_bytes(png_of(16_320, 12_240, zlib_zeros(12_240 * 2_041), bits=1, colour=0))
    (result,) = decode_paths([tmp_path / "a.png"])
    assert (result.picture.width, result.picture.height) == (16_320, 12_240)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_large_picture_gets_more_memory_than_the_workers_have(tmp_path):
    """To lay one over white takes twice its 96 MiB."""
    for i in range(2):
        zeros = png_of(5_000, 5_000 + i, zlib_zeros((5_000 + i) * 20_001), colour=6)
        (tmp_path / f"{i}.png").write_bytes(zeros)
    noise(4).save(tmp_path / "2.png")
    limits = Limits(worker_memory_bytes=160 << 20, large_memory_bytes=420 << 20, file_timeout_s=900)
    with pool_of(2, limits=limits) as pool:
        results = list(pool.decode(iter([found(tmp_path / f"{i}.png") for i in range(3)])))
        peaks = [resident_at_most(worker.process.pid) for worker in pool._workers]
        assert (pool._ring.at(0) == 255).all()
    assert reasons(results) == [""] * 3
    assert 250 << 20 < max(peaks) < 420 << 20
    none = decode_paths([tmp_path / "0.png"], limits=Limits(worker_memory_bytes=160 << 20, large_memory_bytes=0))
    assert reasons(none) == ["out_of_memory"]


@pytest.mark.slow
def test_waiting_for_a_turn_is_not_counted_as_decoding(tmp_path):
    """The lock is held by another process for longer than a file may take."""
    (tmp_path / "0.png").write_bytes(png_of(5_000, 5_000, zlib_zeros(5_000 * 20_001), colour=6))
    limits = Limits(worker_memory_bytes=160 << 20, large_memory_bytes=420 << 20, file_timeout_s=20)
    with pool_of(1, limits=limits) as pool:
        shared = pool._ring.open_for_workers()
        lock = "fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)"
        hold = f"import fcntl, sys; {lock}; print(1, flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", hold, str(shared)]
        holder = subprocess.Popen(command, pass_fds=[shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline()
        results = pool.decode_within(0.2, iter([found(tmp_path / "0.png")]))
        while not (pool._workers and pool._workers[0].since == math.inf):
            assert next(results) == []
        pool._watch()
        assert pool._workers[0].process.poll() is None
        holder.communicate()  # ends it
        os.close(shared)
        decoded = [result for some in results for result in some]
    assert reasons(decoded) == [""]


def test_a_small_machine_gives_a_large_picture_half_of_its_memory():
    assert Limits().within(3 << 30).large_memory_bytes == 3 << 29
    assert Limits().within(1 << 40).large_memory_bytes == Limits().large_memory_bytes
    assert not Limits().within(1 << 30).allows_larger


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_worker_starts_small(tmp_path):
    """One thread, whatever the number of cores, and far below the least limit."""
    noise(1).save(tmp_path / "a.png")
    with pool_of(1, limits=Limits(worker_memory_bytes=128 << 20)) as pool:
        results = list(pool.decode(iter([found(tmp_path / "a.png")])))
        with open(f"/proc/{pool._workers[0].process.pid}/status") as status:
            said = dict(line.split(":\t", 1) for line in status)
    assert reasons(results) == [""]
    assert said["Threads"].strip() == "1"
    assert int(said["VmHWM"].split()[0]) < 80 * 1024
    assert int(said["VmData"].split()[0]) < 60 * 1024


def resident_at_most(pid):
    with open(f"/proc/{pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def slow_and_quick(tmp_path):
    """Six files, of which the second keeps a decoder busy for most of a minute."""
    for i in range(6):
        noise(i).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(many_scans(2000))
    return [found(tmp_path / f"{i}.png") for i in range(6)]


@pytest.mark.slow
def test_a_file_that_takes_too_long_costs_only_itself(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)  # not the machine's, which may be busy with other things for seconds
    monkeypatch.setattr(decode_module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=time.sleep))
    with pool_of(1, limits=Limits(file_timeout_s=2.0)) as pool:
        results = pool.decode(iter(slow_and_quick(tmp_path)))
        first = next(results)  # so the worker is at the slow one
        clock.now = 1.9
        time.sleep(0.3)
        assert pool._workers[0].given[0][0] == 1
        clock.now = 2.1
        rest = list(results)
    assert reasons([first, *rest]) == ["", "timeout", "", "", "", ""]
    assert "longer than 2 s" in rest[0].detail


@pytest.mark.slow
def test_the_time_a_worker_takes_to_start_is_not_the_files(tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\nsleep 2\nexec {sys.executable} "$@"\n')
    slow.chmod(0o700)
    noise(1).save(tmp_path / "a.png")
    monkeypatch.setattr("sys.executable", str(slow))
    (result,) = decode_paths([tmp_path / "a.png"], limits=Limits(file_timeout_s=1.5))
    assert reasons([result]) == [""]


@pytest.mark.slow
def test_a_worker_that_dies_costs_only_the_file_it_was_at(tmp_path):
    with pool_of(1) as pool:
        results = pool.decode(iter(slow_and_quick(tmp_path)))
        first = next(results)
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        rest = list(results)
    assert first.picture.width == 40
    assert reasons(rest) == ["worker_died", "", "", "", ""]
    assert "signal 9" in rest[0].detail


def test_a_worker_that_dies_idle_costs_no_file(tmp_path):
    """As by the kernel's hand, when memory is short."""
    for i in range(6):
        noise(i).save(tmp_path / f"{i}.png")
    with pool_of(1, rows=3, trays=1) as pool:
        results = pool.decode(iter([found(tmp_path / f"{i}.png") for i in range(6)]))
        before = [next(results) for _ in range(3)]
        pool._workers[0].process.kill()
        pool._workers[0].process.wait()
        pool.release_tray()
        pool.release_tray()  # so that it looks whether there is a seventh
        assert reasons([*before, *results]) == [""] * 6


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE])
@pytest.mark.parametrize("started", [0, 1, 2])
def test_a_worker_that_cannot_be_started_is_one_sentence(tmp_path, monkeypatch, number, started):
    """The first, the second, and one that takes the place of another. The others do not stay behind."""
    popen, processes = subprocess.Popen, list[Any]()

    def refuse(*args, **options):
        if len(processes) == started:
            raise OSError(number, os.strerror(number))
        processes.append(popen(*args, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with (
        pool_of(2) as pool,
        pytest.raises(clipdex.ClipdexError, match=r"could not be started: .*--workers") as caught,
    ):
        results = pool.decode(iter(slow_and_quick(tmp_path)))
        next(results)
        for process in processes:
            process.kill()
        list(results)
    assert "\n" not in str(caught.value)
    assert all(process.returncode is not None for process in processes)


def test_many_deaths_cost_as_many_files_and_not_the_run(tmp_path, monkeypatch):
    """A folder full of pictures made to crash a decoder."""
    crashing = tmp_path / "crashing"
    program = (
        "import os, sys; pipe = int(sys.argv[3]); os.write(pipe, bytes(4)); os.read(pipe, 1)"  # ready; given; end
    )
    crashing.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    crashing.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(crashing))
    results = decode_paths([tmp_path / f"{i}.png" for i in range(30)])
    assert reasons(results) == ["worker_died"] * 30


def test_workers_that_cannot_run_at_all_are_not_the_pictures_fault(tmp_path, monkeypatch):
    for i in range(40):
        noise(i).save(tmp_path / f"{i}.png")
    monkeypatch.setattr("sys.executable", "/bin/false")
    handed_out = []
    with pool_of(2) as pool, pytest.raises(clipdex.ClipdexError, match="in a row did not start"):
        handed_out.extend(pool.decode(scan(tmp_path, no_failure)))
    assert handed_out == []


def test_no_process_is_left_when_the_reader_stops_early(tmp_path):
    for i in range(20):
        noise(i).save(tmp_path / f"{i}.png")
    with pool_of(2) as pool:
        next(pool.decode(scan(tmp_path, no_failure)))
        pids = [worker.process.pid for worker in pool._workers]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_no_more_is_decoded_than_the_ring_has_room_for(tmp_path):
    drawn = []

    def files():
        for i in range(100):
            path = tmp_path / f"{i}.png"
            noise(i % 3).save(path)
            drawn.append(i)
            yield FoundFile(os.fsencode(path), 1, 2)

    with pool_of(2, rows=5, trays=2) as pool:
        results = pool.decode(files())
        for _ in range(5):
            next(results)
        wait_until(lambda: len(drawn) >= 10)
        time.sleep(0.3)  # time enough to draw more, were there no bound
        assert len(drawn) == 10
        pool.release_tray()
        wait_until(lambda: len(drawn) >= 15)
        time.sleep(0.3)
        assert len(drawn) == 15


def test_a_fault_of_the_source_reaches_the_reader(tmp_path):
    def files():
        raise clipdex.SourceError("gone")
        yield

    with pool_of(1) as pool, pytest.raises(clipdex.SourceError, match="gone"):
        list(pool.decode(files()))


def test_workers_must_be_at_least_one():
    with pytest.raises(clipdex.InvalidArgument, match="workers is 0"), pool_of(0):
        pass


def test_workers_keep_the_memory_of_a_large_picture_unless_the_user_says_otherwise():
    made = worker_environment({"A": "b", "OMP_NUM_THREADS": "7"})
    assert (made["A"], made["OMP_NUM_THREADS"], made["MALLOC_TRIM_THRESHOLD_"]) == ("b", "1", "134217728")
    assert worker_environment({"MALLOC_TRIM_THRESHOLD_": "5"})["MALLOC_TRIM_THRESHOLD_"] == "5"


def test_a_worker_is_started_with_that(tmp_path):
    noise(1).save(tmp_path / "a.png")
    with pool_of(1) as pool:
        all_of(pool, scan(tmp_path, no_failure))
        variables = Path(f"/proc/{pool._workers[0].process.pid}/environ").read_bytes().split(b"\0")
    assert b"MALLOC_TRIM_THRESHOLD_=134217728" in variables
