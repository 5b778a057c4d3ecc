"""The asyncio client: the same answers, many tasks, cancellation, no thread of the event loop kept."""

import asyncio
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from conftest import noise
from fake_server import serving
from proofs.calls import GRACE_S

import clipdex
from clipdex.aio import AsyncClient
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


def over(transport):
    return AsyncClient(lambda: clipdex.Client(transport))


def test_the_answers_are_those_of_the_blocking_client(fake):
    pictures, texts = [noise(i) for i in range(40)], [str(i) for i in range(70)]
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    async def main():
        async with over(FakeTransport()) as clip:
            assert clip.card == fake.card
            return await asyncio.gather(
                clip.embed_images(pictures), clip.embed_texts(texts), clip.embed_pixels(pixels)
            )

    images, words, rows = asyncio.run(main())
    assert np.array_equal(images, fake.embed_images(pictures))
    assert np.array_equal(words, fake.embed_texts(texts))
    assert np.array_equal(rows, fake.embed_pixels(pixels))


def test_many_tasks_over_a_real_connection():
    with serving(delay_s=0.002) as server:

        async def main():
            async with clipdex.aio.connect(server.address) as clip:
                return await asyncio.gather(*(clip.embed_texts([str(i)]) for i in range(200)))

        answers = asyncio.run(main())
    with clipdex.Client(FakeTransport()) as client:
        assert np.array_equal(np.concatenate(answers), client.embed_texts([str(i) for i in range(200)]))


@pytest.mark.parametrize(
    ("images", "error"),
    [([b"no picture"], clipdex.ImageError), ("one.jpg", clipdex.InvalidArgument), ([None], clipdex.ClipdexError)],
)
def test_errors_are_those_of_the_blocking_client(images, error):
    async def main():
        async with over(FakeTransport()) as clip:
            with pytest.raises(error):
                await clip.embed_images(images)
            assert (await clip.embed_texts(["it goes on"])).shape == (1, 8)

    asyncio.run(main())


def test_nobody_there_is_said_when_the_block_begins():
    async def main():
        async with clipdex.aio.connect("127.0.0.1:9"):
            pass

    with pytest.raises(clipdex.ServerUnreachable, match="no server answers"):
        asyncio.run(main())


def test_outside_its_block_it_says_so():
    async def main():
        await clipdex.aio.connect("127.0.0.1:9").embed_texts(["a"])

    with pytest.raises(clipdex.ClipdexError, match="async with"):
        asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("call", ["embed_texts", "embed_pixels"])
def test_a_cancelled_task_withdraws_its_requests(call):
    told: list[Any] = []
    argument = {"embed_texts": ["a"] * 200, "embed_pixels": np.zeros((200, 32, 32, 3), np.uint8)}[call]
    with serving(delay_s=0.3) as server:

        async def main():
            async with clipdex.aio.connect(server.address, on_request=told.append) as clip:
                task = asyncio.create_task(getattr(clip, call)(argument))
                await asyncio.sleep(0.15)
                began = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - began < GRACE_S
                assert (await clip.embed_texts(["it goes on"])).shape == (1, 8)

        asyncio.run(main())
    outcomes = [timing.outcome for timing in told if not timing.model.endswith("_assets")]
    assert outcomes.count("Cancelled") >= 1
    assert outcomes[-1] == "ok"
    # The rest of the list was never sent.
    assert len(server.requests) < 6


def test_a_task_that_is_cancelled_while_it_connects_leaves_no_connection():
    may_connect, closed = threading.Event(), threading.Event()

    class Closing(FakeTransport):
        def close(self):
            closed.set()

    def connect():
        may_connect.wait(10)
        return clipdex.Client(Closing())

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(AsyncClient(connect).__aenter__(), 0.05)
        assert not closed.is_set()
        may_connect.set()
        assert await asyncio.to_thread(closed.wait, 10)

    asyncio.run(main())


@pytest.mark.slow
def test_a_deadline_is_kept():
    with serving(delay_s=1.0) as server:

        async def main():
            async with clipdex.aio.connect(server.address, timeout_s=0.3) as clip:
                began = time.monotonic()
                with pytest.raises(clipdex.DeadlineExceeded):
                    await clip.embed_texts(["a"])
                assert time.monotonic() - began < 0.3 + GRACE_S

        with clipdex.connect(server.address):
            pass  # its card is in the cache now
        asyncio.run(main())


def test_asyncio_is_loaded_only_when_it_is_used():
    script = (
        "import sys, clipdex\n"
        "assert 'asyncio' not in sys.modules and 'clipdex.aio' not in sys.modules\n"
        "assert clipdex.aio.connect and 'grpc' not in sys.modules\n"
        "try: clipdex.nothing\n"
        "except AttributeError as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'clipdex' has no attribute 'nothing'\n"
