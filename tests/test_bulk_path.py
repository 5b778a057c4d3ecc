"""The bulk path through a real Triton: the same rows whichever way pixels go, and nothing left in /dev/shm."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY, noise

import clipdex
from clipdex import Index, index_pictures
from clipdex.wire import shared_memory
from clipdex.wire.shared_memory import PREFIX

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not shared_memory.DIRECTORY.is_dir(), reason="needs /dev/shm, as on Linux"),
]


@pytest.fixture
def own_rings(monkeypatch):
    """The names of the shared memory that this process makes; other runs on the machine have theirs."""
    names, new_file = [], shared_memory._new_file

    def noted():
        name, descriptor = new_file()
        names.append(name)
        return name, descriptor

    monkeypatch.setattr(shared_memory, "_new_file", noted)
    return names


def rings_of(process):
    """The shared memory that a process has open."""
    with suppress(OSError):  # it has just been closed
        folder = f"/proc/{process.pid}/fd"
        opened = {Path(os.readlink(f"{folder}/{number}")) for number in os.listdir(folder)}
        ours = {path for path in opened if path.name.startswith(PREFIX)}
        return {path.name for path in ours if path.parent == shared_memory.DIRECTORY}
    return set()


def left(names):
    return [name for name in names if (shared_memory.DIRECTORY / name).exists()]


@pytest.fixture
def folder(tmp_path):
    """150 pictures, some of which cannot be decoded, some the same as others."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(150):
        path = folder / f"{i:03}.png"
        if i % 7 == 3:
            path.write_bytes(b"no picture")
        else:
            noise(i - 130 if i % 11 == 5 and i > 130 else i).save(path)
    return folder


def index_of(address, folder, out, **options):
    with clipdex.connect(address, model="demo", **options) as client:
        report = index_pictures(client, folder, out, workers=2)
    with Index.open(out) as index:
        paths = [path for _, path in index.live_paths()]
        return report, paths, np.array(index.vectors)


@pytest.mark.slow
def test_rows_are_the_same_whichever_way_pixels_go(triton, folder, tmp_path, own_rings):
    shared, paths, vectors = index_of(triton.address, folder, tmp_path / "a", shared_memory="always")
    wire, wire_paths, wire_vectors = index_of(triton.address, folder, tmp_path / "b", shared_memory="never")
    inproc, own_paths, own_vectors = index_of(f"inproc:{MODEL_REPOSITORY}", folder, tmp_path / "c")
    assert (shared.transfer, wire.transfer, inproc.transfer) == ("shared memory", "wire", "in process")
    assert paths == wire_paths == own_paths
    assert np.array_equal(vectors, wire_vectors)
    np.testing.assert_allclose(vectors.astype(np.float32), own_vectors.astype(np.float32), atol=1e-3)
    assert shared.recognised == wire.recognised > 0
    assert shared.failed == 21
    assert len(own_rings) == 1
    assert left(own_rings) == []


@pytest.mark.slow
def test_no_picture_is_sent_when_memory_is_shared(triton, folder, tmp_path, monkeypatch):
    from clipdex.wire import triton as transport

    sent = []
    request = transport.infer_request  # type: ignore[attr-defined]

    def spy(*arguments, **options):
        made = request(*arguments, **options)
        sent.append((made.model_name, made.ByteSize()))
        return made

    monkeypatch.setattr(transport, "infer_request", spy)
    index_of(triton.address, folder, tmp_path / "a")
    batches = [size for name, size in sent if name == "demo_image"]
    assert len(batches) == 3
    assert max(batches) < 1000


@pytest.mark.slow
def test_a_batch_of_pictures_is_one_executed_batch(triton, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(128):
        noise(i).save(folder / f"{i:03}.png")
    with clipdex.connect(triton.address, model="demo") as client:
        before = client.statistics("image")
        index_pictures(client, folder, tmp_path / "x", workers=2)
        wait_for(lambda: client.statistics("image").since(before).batches == {64: 2})  # counted after the answer


def run_in_a_process(address, folder, out):
    """A run over pictures that never end, for its process to be ended in the middle."""
    program = f"""
import itertools, os, clipdex
from clipdex.sources.scan import FoundFile
class Endless:
    def files(self, on_failure):
        names = sorted(os.listdir({str(folder)!r}))
        for i in itertools.count():
            path = os.path.join({str(folder)!r}, names[i % len(names)])
            yield FoundFile(os.fsencode(path), i, i)
    def vanished(self, paths):
        return []
with clipdex.connect({address!r}, model="demo") as client:
    clipdex.index_pictures(client, Endless(), __import__("pathlib").Path({str(out)!r}), workers=1)
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to pass in 30 s")


@contextmanager
def running(address, folder, out):
    """A run in a process, in the middle of its work -> the process, and the names of its shared memory."""
    process = run_in_a_process(address, folder, out)
    try:
        wait_for(lambda: rings_of(process) and out.exists())
        names = rings_of(process)
        time.sleep(0.3)  # let it get going
        yield process, names
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_run_leaves_its_memory_to_the_next_start(triton, folder, tmp_path):
    with running(triton.address, folder, tmp_path / "x") as (process, names):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(names) == 1  # another run on this machine may have removed it by now
    index_of(triton.address, folder, tmp_path / "y")
    assert left(names) == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(triton, folder, tmp_path):
    with running(triton.address, folder, tmp_path / "x") as (process, names):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
    assert len(names) == 1
    assert left(names) == []


@pytest.mark.slow
def test_sigterm_ends_the_command_as_ctrl_c_does(triton, folder, tmp_path):
    """`docker stop` and systemd send it; systemd to the workers too, whose files are not at fault."""
    noise(1000, size=(1500, 1000)).save(folder / "large.png", compress_level=1)
    for i in range(200):  # more than it gets done
        (folder / f"large{i}.png").hardlink_to(folder / "large.png")
    words = ["index", folder, "-o", tmp_path / "x", "-s", triton.address, "--model", "demo", "--workers", "1"]
    command = [sys.executable, "-m", "clipdex", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: rings_of(process) and (tmp_path / "x").exists())
        names = rings_of(process)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143
    assert "clipdex: stopped; " in err and "Traceback" not in err
    assert left(names) == []
    with Index.open(tmp_path / "x") as index:
        assert "worker_died" not in {failure.reason for failure in index.failures()}


def test_a_run_that_cannot_start_leaves_nothing(triton, folder, tmp_path, monkeypatch, own_rings):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(clipdex.ClipdexError, match="in a row did not start"):
        index_of(triton.address, folder, tmp_path / "x", shared_memory="always")
    assert len(own_rings) == 1
    assert left(own_rings) == []


@pytest.mark.slow
def test_where_there_is_no_room_pixels_go_over_the_wire(triton, folder, tmp_path, monkeypatch):
    """A container's /dev/shm is small; here it is a folder that does not exist."""
    from clipdex.pipeline import ring

    monkeypatch.setattr(shared_memory, "DIRECTORY", tmp_path / "none")
    monkeypatch.setattr(ring, "DIRECTORY", tmp_path / "none")
    report, paths, _ = index_of(triton.address, folder, tmp_path / "x")
    assert report.transfer == "wire"
    assert len(paths) == 129
    with pytest.raises(clipdex.ServerError, match=r"no room for shared memory in .*/none: No such"):
        index_of(triton.address, folder, tmp_path / "y", shared_memory="always")


def test_a_server_forgets_what_a_killed_client_shared(triton):
    """It would keep the memory until it ends."""
    from clipdex.wire.triton import TritonTransport

    transport = TritonTransport(triton.address)
    left = shared_memory.SharedMemory(1 << 20, named=True)
    assert transport.share(left, 5)
    left.close()  # its name is gone, and nobody has told the server
    with shared_memory.SharedMemory(1 << 20, named=True) as memory:
        assert not transport.share(left, 5)  # there is no such file
        assert transport.share(memory, 5)
        found = registered(triton.address)
        assert memory.name in found and left.name not in found
        transport.unshare(memory)
    assert memory.name not in registered(triton.address)
    transport.close()


def registered(address):
    from tritonclient.grpc import InferenceServerClient

    from clipdex.wire.local_key import key_headers

    with InferenceServerClient(address) as client:
        regions = client.get_system_shared_memory_status(headers=dict(key_headers(address))).regions
        return {name for name in regions if name.startswith(PREFIX)}
