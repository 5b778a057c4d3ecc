"""The key of a local server: for clients of its user alone, and what it opens is closed to all others."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import present

import clipdex
from clipdex.wire.local_key import HEADER, key_headers, new_key, write_key

ADDRESS = "127.0.0.1:8001"


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """The directory of the user's running programs."""
    directory = tmp_path / "runtime"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return directory


@pytest.mark.thin
@pytest.mark.parametrize("address", [ADDRESS, "localhost:8001", "127.0.0.1:8001"])
def test_a_client_of_the_same_user_finds_the_key(runtime, address):
    key = new_key()
    file = present(write_key("127.0.0.1", 8001, key))
    assert key_headers(address) == ((HEADER, key),)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.parent.parent == runtime


@pytest.mark.thin
def test_without_a_directory_of_the_user_s_the_key_lies_in_one_of_its_own(runtime, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", os.geteuid)
    key = new_key()
    file = present(write_key("127.0.0.1", 8001, key))
    if not Path(f"/run/user/{os.geteuid()}").is_dir():
        assert file.parent == tmp_path / f"clipdex-{os.geteuid()}"
    assert key_headers(ADDRESS) == ((HEADER, key),)
    file.unlink()


@pytest.mark.thin
def test_a_key_in_tmp_is_found_by_one_who_has_a_runtime_directory(runtime, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    key = new_key()
    file = present(write_key("127.0.0.1", 8001, key))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert key_headers(ADDRESS) == ((HEADER, key),)
    file.unlink()


@pytest.mark.thin
@pytest.mark.parametrize(
    "address", ["127.0.0.1:8002", "192.0.2.7:8001", "127.0.0.2:8001", "dns:///localhost:8001", "unix:/tmp/8001"]
)
def test_nobody_else_gets_it(runtime, address):
    write_key("127.0.0.1", 8001, new_key())
    assert key_headers(address) == ()


@pytest.mark.thin
def test_a_server_on_all_addresses_is_known_at_each_of_them(runtime):
    key = new_key()
    write_key("0.0.0.0", 8001, key)
    assert key_headers("127.0.0.2:8001") == key_headers(ADDRESS) == ((HEADER, key),)
    assert key_headers("192.0.2.7:8001") == ()


def spoil_mode(file):
    file.chmod(0o644)


def spoil_directory(file):
    file.parent.chmod(0o755)


def spoil_link(file):
    elsewhere = file.parent.parent / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def spoil_directory_link(file):
    elsewhere = file.parent.parent / "elsewhere"
    file.parent.rename(elsewhere)
    file.parent.symlink_to(elsewhere)


def spoil_fifo(file):
    file.unlink()
    os.mkfifo(file, 0o600)


def spoil_content(file):
    file.write_bytes(b"\xff" * 3000)


@pytest.mark.thin
@pytest.mark.parametrize(
    "spoil", [spoil_mode, spoil_directory, spoil_link, spoil_directory_link, spoil_fifo, spoil_content]
)
def test_a_key_that_others_may_have_laid_there_is_not_taken(runtime, spoil):
    file = write_key("127.0.0.1", 8001, new_key())
    assert key_headers(ADDRESS) != ()
    spoil(file)
    assert key_headers(ADDRESS) == ()


@pytest.mark.thin
def test_a_directory_of_another_user_s_is_neither_written_nor_read(runtime, tmp_path, monkeypatch):
    write_key("127.0.0.1", 8001, new_key())
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert key_headers(ADDRESS) == ()
    (tmp_path / "clipdex-12345").mkdir(mode=0o700)
    assert write_key("127.0.0.1", 8001, new_key()) is None


@pytest.mark.thin
def test_a_header_of_the_user_s_own_comes_first(runtime):
    from clipdex.wire.connection import Connection
    from clipdex.wire.credentials import Credentials

    key = new_key()
    write_key("127.0.0.1", 8001, key)
    for given, sent in (({}, key), ({HEADER: "mine"}, "mine")):
        connection = Connection(ADDRESS, Credentials(headers=given))
        assert dict(connection._metadata)[HEADER] == sent
        connection.close()


# --- a real Triton ---


@pytest.fixture
def stranger(monkeypatch):
    """From here on this process is as one without the key."""
    return lambda: monkeypatch.setattr("clipdex.wire.connection.key_headers", lambda address: ())


@pytest.mark.triton
def test_who_holds_the_key_shares_memory_and_others_go_over_the_wire_silently(
    triton, pictures, tmp_path, stranger, caplog, capfd
):
    with clipdex.connect(triton.address) as client:
        ours = clipdex.index_pictures(client, pictures, tmp_path / "a", workers=1)
    stranger()
    with clipdex.connect(triton.address) as client:
        theirs = clipdex.index_pictures(client, pictures, tmp_path / "b", workers=1)
        assert client.statistics("image").requests > 0
    assert (ours.transfer, theirs.transfer) == ("shared memory", "wire")
    assert theirs.indexed == 12
    assert caplog.text == "" and capfd.readouterr().err == ""
    refused = pytest.raises(clipdex.ServerError, match="as this user")
    with clipdex.connect(triton.address, shared_memory="always") as client, refused:
        clipdex.index_pictures(client, pictures, tmp_path / "c", workers=1)


@pytest.mark.triton
@pytest.mark.parametrize("key", [None, "wrong"])
def test_what_is_restricted_and_what_stays_open(triton, key):
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    closed = [
        ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=1)),
        ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()),
        ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="demo_text")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nobody")),
        ("LogSettings", pb.LogSettingsRequest()),
        ("TraceSetting", pb.TraceSettingRequest()),
    ]
    open_to_all = [
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="demo_text")),
        ("ModelConfig", pb.ModelConfigRequest(name="demo_text")),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="demo_text")),
    ]
    metadata = () if key is None else ((HEADER, key),)
    with grpc.insecure_channel(triton.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method, request in open_to_all:
            getattr(stub, method)(request, timeout=10, metadata=metadata)
        for method, request in closed:
            with pytest.raises(grpc.RpcError) as refused:
                getattr(stub, method)(request, timeout=10, metadata=metadata)
            assert "protocol is restricted" in refused.value.details(), method
        for method, request in closed[1:5]:
            getattr(stub, method)(request, timeout=10, metadata=key_headers(triton.address))


@pytest.mark.triton
def test_no_other_user_reads_the_server_s_memory_or_its_key(triton):
    directory = Path("/dev/shm")
    regions = [path for path in directory.iterdir() if path.name.startswith(triton._run.name)]
    assert regions
    assert {stat.S_IMODE(path.stat().st_mode) for path in regions} == {0o600}
    ((_, key),) = key_headers(triton.address)
    assert key == triton._key
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    assert any(triton._run.name.encode() in command for command in commands)
    assert not any(key.encode() in command for command in commands)
    assert key not in triton.log_file.read_text()


@pytest.mark.thin
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a filter of Linux's")
def test_what_the_server_s_processes_make_is_closed_to_others_from_the_first_moment(tmp_path):
    """Triton's Python backend opens its memory to all by fchmod; who had it open would keep it."""
    program = f"""
import os
from clipdex_server import supervisor
supervisor._keep_files_private()
if os.fork() == 0:  # as a stub is of Triton
    file = os.open({str(tmp_path / "region")!r}, os.O_CREAT | os.O_RDWR, 0o644)
    os.fchmod(file, 0o644)
    os.write(file, b"x")
    os._exit(0)
os.wait()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / "region").stat().st_mode) == 0o600
    assert (tmp_path / "region").read_bytes() == b"x"


@pytest.mark.slow
@pytest.mark.triton
def test_a_server_whose_memory_nobody_shall_share_leaves_no_key_and_one_that_ends_takes_it(tmp_path, runtime):
    from conftest import MODEL_REPOSITORY

    from clipdex_server import LocalTriton

    with LocalTriton(MODEL_REPOSITORY, stop_timeout_s=0, allow_client_shm=False) as server:
        assert key_headers(server.address) == ()
        with clipdex.connect(server.address) as client:
            assert client.embed_texts(["a"]).shape == (1, 128)
    with LocalTriton(MODEL_REPOSITORY, stop_timeout_s=0, http_port=0) as server:
        assert len(key_headers(server.address)) == 1
        # In another process, which knows the address alone.
        program = f"""
import clipdex
from clipdex.wire import SharedMemory
with clipdex.connect({server.address!r}) as client, SharedMemory(4096, named=True) as memory:
    print(client.share(memory))
    client.unshare(memory)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert done.stdout == "True\n", done.stderr
        http = f"http://127.0.0.1:{server.http_port}"
        with urllib.request.urlopen(f"{http}/v2/health/ready") as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{http}/v2/systemsharedmemory/status")
    assert key_headers(server.address) == ()
    assert list(runtime.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.triton
def test_the_supervisor_takes_the_key_along_when_its_parent_is_killed(runtime, tmp_path):
    from conftest import MODEL_REPOSITORY

    program = f"""
import time
from clipdex_server import LocalTriton
with LocalTriton({str(MODEL_REPOSITORY)!r}, stop_timeout_s=0) as server:
    print(server.address, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    address = parent.stdout.readline().strip()
    assert len(key_headers(address)) == 1
    parent.kill()
    parent.communicate()
    for _ in range(200):
        if not key_headers(address):
            break
        time.sleep(0.05)
    assert list(runtime.rglob("*.key")) == []
