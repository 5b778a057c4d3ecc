"""One request with nothing else to do: answered in the thread that asks, with no other to be woken."""

import asyncio
import os
import signal
import threading
import time

import numpy as np
import pytest
from fake_server import serving
from proofs.calls import GRACE_S

import clipdex
import clipdex.aio
from clipdex.wire import FakeTransport
from clipdex.wire.servers.failover import ResilientTransport

pytestmark = pytest.mark.thin

PIXELS = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.fixture
def told():
    return []


@pytest.fixture
def hook(told):
    """Notes the thread in which each request ended."""
    return lambda timing: told.append(threading.current_thread())


def test_it_is_answered_in_the_asking_thread(hook, told):
    with serving() as server, clipdex.connect(server.address, on_request=hook) as client:
        server.delay_s = 0.1  # none is answered before it is waited for
        assert np.array_equal(client.embed_pixels(PIXELS), client.submit_pixels(PIXELS).result())
        ours, other = told[-2:]
        client.embed_texts(["a"])
    assert ours is told[-1] is threading.current_thread()
    assert other is not ours


def test_several_are_under_way_together(hook, told):
    fake = FakeTransport(max_batch_size=2)
    with serving(fake) as server, clipdex.connect(server.address, on_request=hook) as client:
        many = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        told.clear()
        server.delay_s = 0.1  # none is answered before it is waited for
        vectors = client.embed_pixels(many)
        assert len(told) == 3 and threading.current_thread() not in told
        server.delay_s = 0
        assert np.array_equal(vectors, np.concatenate([client.embed_pixels(row[None]) for row in many]))


def test_an_event_loop_is_never_blocked(hook, told):
    async def ask(address):
        async with clipdex.aio.connect(address, on_request=hook) as client:
            await client.embed_pixels(PIXELS)
            return threading.current_thread()

    with serving() as server:
        loop = asyncio.run(ask(server.address))
    assert told[-1] is not loop


def test_it_is_sent_again_where_the_first_attempt_fails(hook, told):
    failures = iter([clipdex.ServerUnreachable("gone for a moment"), None])
    fake = FakeTransport(fault=lambda model, inputs: next(failures) if model.endswith("_image") else None)
    with clipdex.Client(ResilientTransport([fake], clipdex.RetryPolicy())) as client:
        assert client.embed_pixels(PIXELS).shape == (2, 8)
    assert [model for model, _ in fake.requests].count("fake_image") == 2


def test_closing_ends_it():
    with serving() as server:
        client = clipdex.connect(server.address, timeout_s=60)
        server.delay_s = 5
        threading.Timer(0.3, client.close).start()
        began = time.monotonic()
        with pytest.raises(clipdex.Closed, match="closed"):
            client.embed_pixels(PIXELS)
    assert time.monotonic() - began < 0.3 + GRACE_S


def test_its_deadline_is_kept():
    with serving() as server, clipdex.connect(server.address, timeout_s=0.5) as client:
        server.delay_s = 5
        began = time.monotonic()
        with pytest.raises(clipdex.DeadlineExceeded):
            client.embed_pixels(PIXELS)
    assert time.monotonic() - began < 0.5 + GRACE_S


def test_ctrl_c_ends_it_and_the_client_goes_on():
    with serving() as server, clipdex.connect(server.address, timeout_s=60) as client:
        server.delay_s = 5
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.embed_pixels(PIXELS)
        assert time.monotonic() - began < 0.3 + GRACE_S
        server.delay_s = 0
        assert client.embed_pixels(PIXELS).shape == (2, 8)
