"""A proxy in the environment: not for this machine's own servers, and named where it is in the way."""

import contextlib
import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import MODEL_REPOSITORY, noise
from fake_server import serving

import clipdex
from clipdex.wire import address as proxy

VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
EXEMPT = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


@contextlib.contextmanager
def refusing_proxy():
    """A proxy that refuses whatever is asked of it -> its URL, and the first lines that it was sent."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        asked.append(connection.recv(4096).split(b"\r\n")[0].decode())
                        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def behind_a_proxy(monkeypatch):
    for name in EXEMPT:
        monkeypatch.delenv(name, raising=False)
    with refusing_proxy() as (url, asked):
        for name in VARIABLES:
            monkeypatch.setenv(name, url)
        yield asked


@pytest.mark.thin
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "dns:///localhost"])
def test_loopback_never_goes_through_a_proxy(behind_a_proxy, host):
    with serving() as server:
        port = server.address.rpartition(":")[2]
        with clipdex.connect(f"{host}:{port}", timeout_s=20) as client:
            assert client.embed_texts(["a"]).shape == (1, 8)
    assert behind_a_proxy == []


@pytest.mark.thin
def test_a_socket_never_goes_through_a_proxy(behind_a_proxy, tmp_path):
    with serving(address=f"unix:{tmp_path}/s") as server, clipdex.connect(server.address, timeout_s=20) as client:
        assert client.embed_texts(["a"]).shape == (1, 8)
    assert behind_a_proxy == []


@pytest.mark.thin
def test_ipv6_loopback_never_goes_through_a_proxy(behind_a_proxy):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        port = probe.getsockname()[1]
    with serving(address=f"[::1]:{port}") as server, clipdex.connect(server.address, timeout_s=20) as client:
        assert client.embed_texts(["a"]).shape == (1, 8)
    assert behind_a_proxy == []


@pytest.mark.thin
def test_a_remote_host_that_the_proxy_blocks_is_told_with_the_variable_and_the_way_out(behind_a_proxy):
    with pytest.raises(clipdex.ServerUnreachable) as blocked:
        clipdex.connect("triton.example:8001", timeout_s=5)
    assert behind_a_proxy and behind_a_proxy[0].startswith("CONNECT triton.example:8001")
    assert "the proxy in $grpc_proxy" in str(blocked.value)
    assert "no_proxy=triton.example" in str(blocked.value)
    assert "secret" not in str(blocked.value)


@pytest.mark.thin
@pytest.mark.parametrize(
    ("environment", "address", "hinted"),
    [
        ({}, "triton.example:1", ""),
        ({"http_proxy": "http://p"}, "triton.example:1", "$http_proxy"),
        ({"https_proxy": "http://p", "http_proxy": "x"}, "triton.example:1", "$https_proxy"),
        ({"HTTP_PROXY": "http://p"}, "triton.example:1", ""),  # gRPC takes no notice of it
        ({"http_proxy": "http://p", "no_proxy": "other, .Example"}, "triton.example:1", ""),
        (
            {"http_proxy": "http://p", "no_grpc_proxy": "else", "no_proxy": "triton.example"},
            "triton.example:1",
            "$",
        ),
        ({"http_proxy": "http://p"}, "127.0.0.1:1", ""),
        ({"http_proxy": "http://p"}, "[::1]:1", ""),
        ({"http_proxy": "http://p"}, "unix:/tmp/x", ""),
    ],
)
def test_the_hint_names_the_variable_that_grpc_takes(monkeypatch, environment, address, hinted):
    for name in (*VARIABLES, *EXEMPT):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (hinted in proxy.proxy_hint(address)) if hinted else proxy.proxy_hint(address) == ""


@pytest.mark.slow
@pytest.mark.triton
def test_case_01_serve_and_search_work_behind_a_proxy_that_is_not_for_this_machine(behind_a_proxy, tmp_path):
    (tmp_path / "pictures").mkdir()
    noise(1).save(tmp_path / "pictures" / "a.png")
    clipdex_command = [sys.executable, "-m", "clipdex"]
    serve = subprocess.Popen(
        [
            *clipdex_command,
            "serve",
            "--repository",
            str(MODEL_REPOSITORY),
            "--port",
            "0",
            "--startup-timeout",
            "60",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert serve.stdout is not None
        said = serve.stdout.readline()
        assert " serves demo at " in said, serve.communicate()
        address = said.partition(" at ")[2].partition(";")[0]
        for words in (
            ["index", "pictures", "-o", "x.clipdex", "--workers", "1"],
            ["search", "a red circle", "-i", "x.clipdex", "-k", "1"],
        ):
            command = [*clipdex_command, *words, "-s", address, "-m", "demo"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        assert "a.png" in done.stdout
    finally:
        serve.terminate()
        serve.communicate(timeout=60)
    assert behind_a_proxy == []
