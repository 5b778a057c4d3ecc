"""Ctrl-C that comes where a library drops what a handler raises: the run ends all the same."""

import signal
import threading
from typing import Any

import numpy as np
import pytest
from fake_server import serving
from grpc import _channel
from PIL import Image

import clipdex
from clipdex.base.interrupts import interrupts_noted
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(60):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:02}.png")
    return folder


def lose(kind):
    """As a callback of gRPC's or SQLite's does."""
    try:
        signal.raise_signal(kind)
    except KeyboardInterrupt:
        return
    pytest.fail("the handler raised nothing")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_ends_although_the_interrupt_was_lost(folder, tmp_path, workers):
    # Slow to decode: with two workers, the second picture comes to the joining thread together with the first.
    noise = np.random.default_rng(60).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "00.png", compress_level=1)
    index = tmp_path / "it.clipdex"
    told = []

    def progress(state):
        if state.indexed:
            told.append(state)
            if len(told) == 1:
                lose(signal.SIGINT)

    with clipdex.Client(FakeTransport(max_batch_size=4)) as client:
        with pytest.raises(KeyboardInterrupt):
            clipdex.index_pictures(client, folder, index, workers=workers, max_ring_bytes=1, progress=progress)
        assert len(told) == 1
        with clipdex.Index.open(index) as opened:
            assert 0 < len(opened) < 60
        assert clipdex.index_pictures(client, folder, index, workers=1).rows == 60
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_a_call_begins_leaves_none_that_nobody_looks_after(monkeypatch):
    """gRPC's channel would wait for it for ever when it is closed."""
    spin = _channel._run_channel_spin_thread

    def interrupted(state):
        signal.raise_signal(signal.SIGINT)
        spin(state)

    with serving() as server:
        client = clipdex.connect(server.address)
        monkeypatch.setattr(_channel, "_run_channel_spin_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.submit_pixels(PIXELS).result()
        monkeypatch.undo()
        assert client.submit_pixels(PIXELS).result(timeout=10).shape == (1, 8)
        closing = threading.Thread(target=client.close, daemon=True)
        closing.start()
        closing.join(10)
        assert not closing.is_alive()


def test_what_was_lost_comes_once():
    with interrupts_noted() as stop_if_told:
        stop_if_told()
        lose(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop_if_told()
        stop_if_told()


def test_other_threads_leave_the_handlers_alone():
    def work():
        with interrupts_noted() as stop_if_told:
            found.append(signal.getsignal(signal.SIGINT))
            stop_if_told()

    found: list[Any] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
