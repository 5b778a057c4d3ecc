"""The batcher: single items of many threads in few requests, each with its own answer."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import noise

import clipdex
from clipdex import Batcher
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


def rows_of(transport, part):
    return [rows for model, rows in transport.requests if model == f"fake_{part}"]


def test_items_of_many_threads_share_requests(fake):
    transport = FakeTransport()
    answers = {}
    with clipdex.Client(transport) as client, Batcher(client, max_wait_s=0.2) as batcher:
        threads = [
            threading.Thread(target=lambda i=i: answers.update({i: batcher.text(str(i)).result()}))
            for i in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = rows_of(transport, "text")
    assert sum(rows) == 40
    assert len(rows) <= 6
    assert max(rows) <= client.max_texts
    expected = fake.embed_texts([str(i) for i in range(40)])
    assert all(np.array_equal(answers[i], expected[i]) for i in range(40))


def test_a_full_batch_does_not_wait():
    transport = FakeTransport()
    with clipdex.Client(transport) as client, Batcher(client, max_batch_size=3, max_wait_s=60) as batcher:
        futures = [batcher.image(noise(i)) for i in range(6)]
        assert np.stack([future.result(timeout=1) for future in futures]).shape == (6, 8)
    assert rows_of(transport, "image") == [3, 3]


def test_what_is_alone_waits_no_longer_than_asked():
    with clipdex.Client(FakeTransport()) as client, Batcher(client, max_wait_s=0.05) as batcher:
        began = time.monotonic()
        assert batcher.text("alone").result(timeout=5).shape == (8,)
        assert time.monotonic() - began >= 0.04


def test_closing_sends_what_waits_and_takes_no_more():
    with clipdex.Client(FakeTransport()) as client:
        batcher = Batcher(client, max_wait_s=60)
        waiting = batcher.text("a")
        batcher.close()
        batcher.close()
        assert waiting.result(timeout=1).shape == (8,)
        with pytest.raises(clipdex.ClipdexError, match="closed"):
            batcher.text("b")


def test_what_is_cancelled_in_time_is_not_sent():
    transport = FakeTransport()
    with clipdex.Client(transport) as client, Batcher(client, max_wait_s=60) as batcher:
        first, second = batcher.text("a"), batcher.text("b")
        assert first.cancel()
        batcher.close()
        assert second.result(timeout=1).shape == (8,)
        assert not second.cancel()
    assert rows_of(transport, "text") == [1]


def test_a_picture_that_cannot_be_decoded_concerns_its_caller_only():
    with clipdex.Client(FakeTransport()) as client, Batcher(client) as batcher:
        with pytest.raises(clipdex.ImageError):
            batcher.image(b"no picture")
        assert batcher.image(noise(1)).result(timeout=5).shape == (8,)


def test_an_item_that_is_refused_takes_no_other_with_it():
    def fault(model, inputs):
        pixels = inputs.get("pixels")
        bad = pixels is not None and (pixels[:, 0, 0, 0] == 7).any()
        return clipdex.RequestRefused("seven") if bad else None

    pictures = [np.full((32, 32, 3), value, np.uint8) for value in range(10)]
    transport = FakeTransport(fault=fault)
    with clipdex.Client(transport) as client, Batcher(client, max_batch_size=10, max_wait_s=60) as batcher:
        futures = [batcher.image(picture) for picture in pictures]
        for value, future in enumerate(futures):
            if value == 7:
                with pytest.raises(clipdex.RequestRefused, match="seven"):
                    future.result(timeout=5)
            else:
                assert future.result(timeout=5).shape == (8,)


def test_a_lost_server_is_told_to_all():
    transport = FakeTransport(
        fault=lambda model, inputs: clipdex.ServerUnreachable("x") if "text" in model else None
    )
    with clipdex.Client(transport) as client, Batcher(client, max_batch_size=2) as batcher:
        futures = [batcher.text("a"), batcher.text("b")]
        for future in futures:
            with pytest.raises(clipdex.ServerUnreachable):
                future.result(timeout=5)


def test_in_a_forked_child_it_refuses():
    """Its timer's thread is not there: what waits would wait for ever."""
    program = """
import os, clipdex
from clipdex.wire import FakeTransport
client = clipdex.Client(FakeTransport())
batcher = clipdex.Batcher(client, max_wait_s=0.01)
batcher.text("a").result()
if not os.fork():
    try: batcher.text("b").result(timeout=5)
    except clipdex.ClipdexError as exc: print(exc, flush=True)
    batcher.close()
    os._exit(0)
os.wait()
print(batcher.text("c").result(timeout=5).shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "forked from it: connect in the child" in done.stdout
    assert done.stdout.endswith("(8,)\n")


@pytest.mark.parametrize("settings", [{"max_batch_size": 0}, {"max_wait_s": 0}])
def test_settings_are_checked(fake, settings):
    with pytest.raises(clipdex.InvalidArgument):
        Batcher(fake, **settings)
