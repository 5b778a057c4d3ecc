"""A client and its process: forks, Ctrl-C, waiting for a server, sockets."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from fake_server import serving
from proofs.calls import GRACE_S

import clipdex
from clipdex.wire.triton import TritonTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

PIXELS = np.zeros((2, 32, 32, 3), np.uint8)

FORK = """
import os, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, clipdex
client = clipdex.connect(sys.argv[1], timeout_s=20)
client.embed_texts(["a"])
child = os.fork()
if not child:
    for call in (
        lambda: client.embed_texts(["a"]),
        lambda: client.submit_pixels(np.zeros((1, 32, 32, 3), np.uint8)),
        lambda: client.statistics("image"),
    ):
        try:
            call()
            print("no error", flush=True)
        except clipdex.ClipdexError as exc:
            print(type(exc).__name__, exc, flush=True)
    client.close()
    sys.exit(7) if sys.argv[2] == "exit" else os._exit(7)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), client.embed_texts(["a"]).shape)
client.close()
"""


@pytest.mark.parametrize("end", ["exit", "_exit"])
def test_a_forked_child_is_told_to_connect_itself(end):
    with serving() as server:
        done = subprocess.run(
            [sys.executable, "-c", FORK, server.address, end], capture_output=True, text=True, timeout=60
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done
    assert all("forked" in line and "connect in the child" in line for line in lines[:3]), lines
    assert lines[3] == "7 (1, 8)"


INTERRUPTED = """
import sys, numpy as np, clipdex
with clipdex.connect(sys.argv[1]) as client:
    print("ready", flush=True)
    try:
        client.embed_pixels(np.zeros((1000, 32, 32, 3), np.uint8))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(client.embed_texts(["it goes on"]).shape, flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_withdraws_what_is_under_way():
    with serving(delay_s=1.0) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.5)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - began < GRACE_S
            assert process.stdout.readline() == "(1, 8)\n"
        assert process.returncode == 0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.slow
def test_a_server_that_starts_is_waited_for():
    port = free_port()
    began = time.monotonic()
    connected = []

    def connect():
        with clipdex.connect(f"127.0.0.1:{port}", wait_s=20) as client:
            connected.append(client.embed_texts(["a"]).shape)

    thread = threading.Thread(target=connect)
    thread.start()
    time.sleep(0.7)
    with serving(port=port, ready=False) as server:
        time.sleep(0.4)
        assert not connected
        server.ready = True
        thread.join(timeout=15)
    assert connected == [(1, 8)]
    assert time.monotonic() - began > 1


def test_waiting_ends():
    began = time.monotonic()
    with pytest.raises(clipdex.ServerUnreachable, match=r"no server answers.*\(waited 0.6 s\)"):
        clipdex.connect(f"127.0.0.1:{free_port()}", wait_s=0.6)
    assert 0.5 < time.monotonic() - began < 0.6 + GRACE_S


def test_a_wait_below_zero_is_refused():
    with pytest.raises(clipdex.InvalidArgument, match="wait_s"):
        clipdex.connect("127.0.0.1:9", wait_s=-1)


def test_a_unix_socket_is_an_address(tmp_path):
    address = f"unix:{os.path.relpath(tmp_path)}/triton.sock"
    with serving(address=address) as server:
        assert server.address == address
        with clipdex.connect(address) as client:
            assert client.embed_texts(["a"]).shape == (1, 8)


def test_an_attempts_time_is_told_to_the_server():
    with serving() as server, clipdex.connect(server.address, timeout_s=7) as client:
        client.embed_pixels(PIXELS)
    model, rows, timeout_us, _ = server.requests[-1]
    assert (model, rows) == ("fake_image", 2)
    assert 6e6 < timeout_us <= 7e6


def test_the_hook_is_told_what_was_sent():
    told: list[Any] = []
    with serving() as server, clipdex.connect(server.address, on_request=told.append) as client:
        client.embed_pixels(PIXELS)
    assert told[-1].sent_bytes == PIXELS.nbytes
    assert told[-1].endpoint == server.address


def test_closing_in_the_middle_ends_what_is_under_way():
    with serving(delay_s=0.5) as server:
        client = clipdex.connect(server.address)
        waiting = client.submit_pixels(PIXELS)
        client.close()
        with pytest.raises(clipdex.Closed, match="closed"):
            waiting.result(timeout=GRACE_S)


def test_two_clients_of_one_process_do_not_disturb_each_other():
    with serving() as server, clipdex.connect(server.address) as one:
        with clipdex.connect(server.address) as two:
            assert np.array_equal(one.embed_texts(["a"]), two.embed_texts(["a"]))
        assert one.embed_texts(["a"]).shape == (1, 8)


@pytest.mark.parametrize("wait", [False, True])
def test_a_connection_that_another_request_has_closed_is_lost_and_no_error_of_grpc(wait):
    """As happens to a request that begins at the moment when a dead connection is replaced."""
    with serving() as server, closing(TritonTransport(server.address)) as transport:
        transport._connection.close()
        inputs = {"pixels": PIXELS}
        with pytest.raises(clipdex.ServerUnreachable, match="closed by another request"):
            transport.submit("fake_image", inputs, "embedding", 5, wait=wait).result(5)
