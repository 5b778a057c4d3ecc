"""`clipdex web` as a process: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, noise, present, unit_vectors
from test_docs import blocks

import clipdex
from clipdex import Collection, Item
from clipdex.wire import FakeTransport

pytest.importorskip("fastapi", reason="clipdex web needs the extra web")
httpx = pytest.importorskip("httpx")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of three vectors."""
    with clipdex.Client(FakeTransport()) as client, Collection.open(tmp_path / "x.clipdex", client=client) as pets:
        pets.add([Item(str(i), vector=vector) for i, vector in enumerate(unit_vectors(3, 8))])
    return tmp_path / "x.clipdex"


@contextmanager
def started(*words: object, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Start the command at a free port -> (the process, what it says in JSON); ended if it still runs."""
    command = [sys.executable, "-m", "clipdex", "web", *map(str, words), "--port", "0", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        said = ""
        while not said.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        yield process, json.loads(said)
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def test_it_answers_once_it_has_printed_its_address_and_ends_with_the_signal(index: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with started(index, "--server", "none") as (process, said):
            assert said["server"] is None and said["allow_write"] is False
            answer = httpx.get(f"{said['address']}/v1/info")
            assert answer.json()["pictures"] == 3
            assert "server" not in answer.headers
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
            assert (process.returncode, out) == (0, "")
            assert err == "stopped\n"


@pytest.mark.slow
def test_an_open_request_is_finished_before_the_end(index: Path) -> None:
    """While a client reads a long list slowly, the signal comes."""
    with started(index, "--server", "none") as (process, said):
        host, port = said["address"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/search HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            body = json.dumps({"row": 0}).encode()
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body[5:])
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["pictures"] == 3
        process.wait(20)
        assert process.returncode == 0


@pytest.mark.slow
def test_a_head_that_is_too_long_is_refused(index: Path) -> None:
    with started(index, "--server", "none") as (_, said):
        try:
            answer = httpx.get(f"{said['address']}/v1/info", headers={"x": "y" * 600_000})
        except httpx.TransportError:
            pass  # the server hung up while we were sending
        else:
            assert answer.status_code in (400, 431)
        assert httpx.get(f"{said['address']}/v1/info").status_code == 200


@pytest.mark.slow
def test_a_slow_head_is_given_up(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from web_server import settings_of

    from clipdex.web import running

    monkeypatch.setattr(running, "_HEAD_S", 0.3)
    listening = running.bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server: list[Any] = []
    monkeypatch.setattr(running._Server, "handle_exit", lambda *_: None)
    kept = running._Server.startup

    async def startup(self: Any, sockets: Any = None) -> None:
        server.append(self)
        await kept(self, sockets)

    monkeypatch.setattr(running._Server, "startup", startup)
    ready = threading.Event()
    settings = settings_of(index, fake=False)
    thread = threading.Thread(target=running.serve, args=(settings, listening, lambda _: ready.set()))
    thread.start()
    try:
        assert ready.wait(20)
        for first in (b"", b"GET /v1/info HTTP/1.1\r\nHo", None):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.settimeout(10)
                if first is None:  # after a request that was answered
                    connection.sendall(b"GET /v1/info HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
                    answer = b""
                    while not answer.endswith(b"}"):
                        answer += connection.recv(65536)
                    assert answer.startswith(b"HTTP/1.1 200 ")
                    first = b"GET /v1/in"
                if first:
                    connection.sendall(first)
                assert connection.recv(65536) == b"", "it was closed without an answer"
    finally:
        server[0].should_exit = True
        thread.join(20)


def refusals(index: Path, tmp_path: Path) -> Iterator[tuple[list[object], str]]:
    """Words of a command line, and what is said about them."""
    none = ["--server", "none"]
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with taken:
        yield [index, *none, "--port", port], f"port {port} of 127.0.0.1 is taken: choose another with --port"
    yield [index, *none, "--host", "nowhere.invalid"], "--host 'nowhere.invalid' cannot be resolved"
    yield [index, *none, "--host", "192.0.2.1"], "192.0.2.1 is not an address of this machine"
    yield [index, *none, "--host", ""], "--host is empty"
    yield [*none], "there is no index; name one with --index X.clipdex, or set CLIPDEX_INDEX"
    yield [index, *none, "--index", index], "the index is given twice"
    yield [index, tmp_path / "x", *none], "are both named 'x'; rename one of them"
    yield [tmp_path / "y.clipdex", *none], "there is no such index"
    yield [tmp_path / "y.clipdex", "--allow-write", *none], "there is no model to create it for: name an index"
    yield [index, "--server", "127.0.0.1:9"], "no server answers at 127.0.0.1:9"
    yield [index, "--model", "m", *none], "--model m is given, but with --server none there is no model"
    yield [index, *none, "--token-file", tmp_path / "none.txt"], "none.txt cannot be read: No such file"
    (tmp_path / "short.txt").write_text("short\n")
    yield [index, *none, "--token-file", tmp_path / "short.txt"], "short.txt: expected a token of 16 to 512"
    (tmp_path / "spaced.txt").write_text("twenty letters and blanks\n")
    yield [index, *none, "--token-file", tmp_path / "spaced.txt"], "spaced.txt: expected a token of"
    (tmp_path / "long.txt").write_text("x" * 513)
    yield [index, *none, "--token-file", tmp_path / "long.txt"], "long.txt: expected a token of 16 to 512"
    yield [index, *none, "--behind-proxy", "127.0.0.1, proxy"], "'proxy' is not an IP address; expected"


def test_what_prevents_the_start_is_one_sentence(index: Path, tmp_path: Path, run: Run) -> None:
    for words, expected in refusals(index, tmp_path):
        if "--port" not in words:
            words += ["--port", 0]
        status, out, err = run("web", *words)
        assert (status, out) == (1, ""), words
        assert expected in err and err.startswith("clipdex: ") and err.count("\n") == 1, err


def test_another_writer_at_the_start_is_one_sentence(index: Path, run: Run) -> None:
    with clipdex.IndexWriter(index):
        status, out, err = run("web", index, "--server", "none", "--allow-write", "--port", 0)
    assert (status, out) == (1, "")
    assert err.startswith("clipdex: ") and "is being written to by process" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_token_is_made_and_printed_once_where_others_reach_the_server(index: Path) -> None:
    with started(index, "--server", "none", "--host", "0.0.0.0") as (process, said):
        assert "token" not in said and said["address"].startswith("http://127.0.0.1:")
        process.terminate()
        _, err = process.communicate(timeout=20)
    lines = [line for line in err.splitlines() if "token" in line]
    assert len(lines) == 1 and len(lines[0].rpartition(" ")[2]) == 43
    with started(
        index,
        "--server",
        "none",
        "--host",
        "0.0.0.0",
        env={"CLIPDEX_WEB_TOKEN": "a" * 20},
    ) as (process, said):
        process.terminate()
        assert "a" * 20 not in process.communicate(timeout=20)[1]


@pytest.mark.slow
def test_commits_of_others_are_seen_while_it_serves_and_its_own_by_others(index: Path) -> None:
    with started(index, "--server", "none", "--allow-write") as (_, said), httpx.Client() as http:
        address = said["address"]
        with Collection.open(index) as pets:
            pets.add(Item("theirs", vector=np.eye(8, dtype=np.float32)[0]))
        assert http.get(f"{address}/v1/items/theirs").status_code == 200
        body = {"vector": np.eye(8)[1].tolist(), "metadata": {"n": 1}}
        assert http.put(f"{address}/v1/items/ours", json=body).status_code == 200
        with Collection.open(index, read_only=True) as pets:
            assert present(pets.get("ours")).metadata == {"n": 1}


@pytest.mark.slow
@pytest.mark.triton
def test_the_requests_of_the_page_run(tmp_path: Path, triton: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    folder = tmp_path / "demo" / "pictures"
    folder.mkdir(parents=True)
    for i in range(4):
        noise(i, (200, 150)).save(folder / f"{i:04}.jpg")
    monkeypatch.chdir(tmp_path)
    with clipdex.connect(triton.address) as client:
        clipdex.index_pictures(client, folder, "shapes.clipdex", workers=1)
    lines = [line for block in blocks(ROOT / "docs" / "web.md", "bash") for line in block.splitlines()]
    assert len(lines) >= 12
    with started("shapes.clipdex", "--allow-write", "--server", triton.address) as (_, said):
        for line in lines:
            words = shlex.split(line.replace("http://127.0.0.1:8080", said["address"]))
            done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{line}: {done.stdout} {done.stderr}"
            assert str(tmp_path) not in done.stdout
        assert httpx.get(f"{said['address']}/v1/info").json()["pictures"] == 4
        found = httpx.get(f"{said['address']}/v1/search", params={"text": "a red circle"}).json()
        assert [hit["path"] for hit in found["hits"]] == [None] * 4
        assert {hit["name"] for hit in found["hits"]} == {f"{i:04}.jpg" for i in range(4)}
