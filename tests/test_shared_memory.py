"""Memory that a server on this machine maps by name, and what becomes of its name."""

import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from clipdex.wire import shared_memory
from clipdex.wire.regions import Regions
from clipdex.wire.shared_memory import PREFIX, SharedMemory, remove_left_overs

pytestmark = [
    pytest.mark.thin,
    pytest.mark.skipif(not shared_memory.DIRECTORY.is_dir(), reason="needs /dev/shm, as on Linux"),
]


@pytest.fixture(autouse=True)
def directory(tmp_path_factory, monkeypatch):
    """A /dev/shm of the test's own: other tests use the machine's at the same time."""
    directory = tmp_path_factory.mktemp("shm")
    monkeypatch.setattr(shared_memory, "DIRECTORY", directory)
    return directory


def test_it_is_there_while_it_is_open(directory):
    with SharedMemory(1000, named=True) as memory:
        memory.array[:3] = 7
        assert os.listdir(directory) == [memory.name]
        assert memory.path.read_bytes() == b"\x07\x07\x07" + bytes(997)
        assert memory.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(directory) == []
    memory.close()


def test_arrays_outlive_it():
    memory = SharedMemory(100, named=True)
    array = memory.array
    array[:] = 5
    memory.close()
    assert array.sum() == 500


def test_without_a_name_nothing_can_be_left(directory):
    with SharedMemory(1000, named=False) as memory:
        memory.array[999] = 1
        assert os.listdir(directory) == []


def test_where_an_array_lies():
    with SharedMemory(1200, named=False) as memory:
        rows = memory.array.reshape(100, 4, 3)
        assert memory.offset_of(rows) == 0
        assert memory.offset_of(rows[7:9]) == 84
        assert memory.offset_of(rows[99]) == 1188
        assert memory.offset_of(rows[:, 0]) is None  # has gaps
        assert memory.offset_of(rows[7].copy()) is None
        assert memory.offset_of(rows[7:7]) is None
        assert memory.offset_of(np.zeros(3)) is None


def test_no_room_is_said_at_once_and_leaves_nothing(directory):
    """Not by SIGBUS when it is written to."""
    with pytest.raises(OSError, match=r"space|large|memory"):
        SharedMemory(1 << 60, named=True)
    assert os.listdir(directory) == []


def in_another_process(directory, then):
    """Run a program that has a memory open; it prints its name, then does as told."""
    program = f"""
import os, signal, sys
from pathlib import Path
from clipdex.wire import shared_memory
shared_memory.DIRECTORY = Path({str(directory)!r})
memory = shared_memory.SharedMemory(1000, named=True)
print(memory.name, flush=True)
{then}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_what_a_killed_process_left_is_removed_by_the_next(directory):
    process, name = in_another_process(directory, "os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(directory) == [name]
    with SharedMemory(1000, named=True) as memory:
        assert os.listdir(directory) == [memory.name]


def test_what_a_living_process_uses_stays(directory):
    process, name = in_another_process(directory, "sys.stdin.read(); memory.close()")
    remove_left_overs()
    assert os.listdir(directory) == [name]
    process.communicate("")
    assert process.returncode == 0
    assert os.listdir(directory) == []


class Triton:
    """A server's side of `Regions`: what it was asked, and the answers that it has not given yet."""

    def __init__(self):
        self.asked, self.waiting = [], []

    def ask(self, method, request, timeout_s):
        self.asked.append((method.removeprefix("SystemSharedMemory"), getattr(request, "name", "")))
        return service_pb2.SystemSharedMemoryStatusResponse()

    def start(self, method, request, timeout_s, done):
        self.ask(method, request, timeout_s)
        self.waiting.append(done)

    def answer(self, code=None):
        answered: Future[Any] = Future()
        if code is None:
            answered.set_result(None)
        else:
            error = grpc.RpcError()
            error.code = lambda: code
            answered.set_exception(error)
        self.waiting.pop(0)(answered)


def test_a_server_that_was_restarted_is_told_again_and_every_request_in_flight_knows_why():
    triton = Triton()
    regions = Regions(triton.ask, triton.start)
    with SharedMemory(1000, named=True) as memory:
        assert regions.add(memory, 1)
        lost = f"Unable to find shared memory region: '{memory.name}'"
        assert regions.lost(lost) and regions.lost(lost)  # two were in flight
        assert not regions.mapped
        assert len(triton.waiting) == 1
        triton.answer()
        assert regions.mapped == (memory,)
        assert not regions.lost("Unable to find shared memory region: 'another'")


@pytest.mark.parametrize(
    ("code", "there"), [(grpc.StatusCode.ALREADY_EXISTS, True), (grpc.StatusCode.UNAVAILABLE, False)]
)
def test_memory_that_the_server_has_already_is_used(code, there):
    """The answer to a request from before the restart may come when the memory has been registered again."""
    triton = Triton()
    regions = Regions(triton.ask, triton.start)
    with SharedMemory(1000, named=True) as memory:
        assert regions.add(memory, 1)
        assert regions.lost(f"'{memory.name}'")
        triton.answer(code)
        assert regions.mapped == ((memory,) if there else ())


def test_memory_that_is_removed_while_a_server_is_told_again_does_not_come_back():
    triton = Triton()
    regions = Regions(triton.ask, triton.start)
    with SharedMemory(1000, named=True) as memory:
        assert regions.add(memory, 1)
        regions.lost(f"'{memory.name}'")
        regions.remove(memory)
        triton.asked.clear()
        triton.answer()
        assert not regions.mapped
        assert triton.asked == [("Unregister", memory.name)]


def test_other_files_stay(directory):
    (directory / "someone-elses").write_text("")
    (directory / f"{PREFIX}folder").mkdir()
    (directory / f"{PREFIX}link").symlink_to(directory / "someone-elses")
    remove_left_overs()
    assert len(os.listdir(directory)) == 3
