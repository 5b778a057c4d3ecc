"""An answer is measured against the request it is for, on every way that vectors come in."""

import asyncio
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from conftest import noise

import clipdex
from clipdex.aio import AsyncClient
from clipdex.apps.bench.load import Window
from clipdex.apps.bench.measure_server import measure_point
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

SPOILT = {
    "one too many": lambda answer: np.concatenate([answer[:1], answer]),
    "one too few": lambda answer: answer[1:],
    "none": lambda answer: answer[:0],
    "float64": lambda answer: answer.astype(np.float64),
    "float16": lambda answer: answer.astype(np.float16),
    "too wide": lambda answer: np.pad(answer, ((0, 0), (0, 1))),
    "too narrow": lambda answer: answer[:, :1] / np.abs(answer[:, :1]),
    "NaN": lambda answer: np.where(np.arange(len(answer)) == len(answer) - 1, np.nan, answer.T).T.astype(
        np.float32
    ),
    "twice as long": lambda answer: 2 * answer,
    "zeros": lambda answer: 0 * answer,
    "three axes": lambda answer: answer[None],
    "one axis": lambda answer: answer.ravel(),
}

every_way_to_spoil = pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)


def ways_to_spoil(*names):
    return pytest.mark.parametrize("spoil", [SPOILT[name] for name in names], ids=names)


def a_fault():
    return pytest.raises(clipdex.ServerFault, match="fake at fake:fake answered")


class Spoiling(FakeTransport):
    """Spoils what it answers to pictures and texts."""

    def __init__(self, spoil, **settings):
        super().__init__(**settings)
        self._spoil = spoil

    def submit(self, model, inputs, output, timeout_s, *, wait=False):
        answer = super().submit(model, inputs, output, timeout_s, wait=wait)
        if output == "bytes" or answer.exception() is not None:
            return answer
        spoilt: Future[Any] = Future()
        spoilt.set_result(self._spoil(answer.result()))
        return spoilt


def pixels_of(*values):
    return np.stack([np.full((32, 32, 3), value, np.uint8) for value in values])


def refuses(value):
    """The fault of a server that refuses each request with this pixel value."""

    def fault(model, inputs):
        bad = any((array[:, 0, 0, 0] == value).any() for array in inputs.values() if array.ndim == 4)
        return clipdex.RequestRefused("no such colour") if bad else None

    return fault


@every_way_to_spoil
def test_embedding_takes_only_the_embeddings_of_what_it_sent(spoil):
    with clipdex.Client(Spoiling(spoil)) as client:
        for ask in (
            lambda: client.embed_images([noise(0), noise(1)]),
            lambda: client.embed_pixels(pixels_of(1, 2)),
            lambda: client.embed_texts(["a", "b"]),
            lambda: client.classify([noise(0)], ["a cat", "a dog"]),
        ):
            with a_fault():
                ask()


@every_way_to_spoil
def test_so_does_the_asyncio_client(spoil):
    async def main():
        async with AsyncClient(lambda: clipdex.Client(Spoiling(spoil))) as clip:
            for ask in (clip.embed_images([noise(0), noise(1)]), clip.embed_texts(["a", "b"])):
                with a_fault():
                    await ask

    asyncio.run(main())


@every_way_to_spoil
def test_so_does_a_batcher(spoil):
    with (
        clipdex.Client(Spoiling(spoil)) as client,
        clipdex.Batcher(client, max_batch_size=2, max_wait_s=60) as batcher,
    ):
        for futures in (
            [batcher.text("a"), batcher.text("b")],
            [batcher.image(noise(0)), batcher.image(noise(1))],
        ):
            for future in futures:
                with a_fault():
                    future.result(timeout=5)


@every_way_to_spoil
def test_so_do_the_halves_of_a_batch_that_was_refused(spoil):
    """None of the halves but those without the refused item are answered at all."""
    with clipdex.Client(Spoiling(spoil, fault=refuses(7))) as client, a_fault():
        client.embed_pixels(pixels_of(1, 2, 3, 7))


@ways_to_spoil("one too many", "one too few", "float64", "too wide", "NaN", "twice as long", "three axes")
def test_so_does_a_bulk_run(spoil, pictures, tmp_path):
    with clipdex.Client(Spoiling(spoil, max_batch_size=4)) as client, a_fault():
        clipdex.index_pictures(client, pictures, tmp_path / "x", workers=1)
    with clipdex.Index.open(tmp_path / "x") as index:
        assert len(index.vectors) == 0


@ways_to_spoil("one too many", "one too few", "twice as long")
def test_so_does_a_bulk_run_over_the_halves_of_a_batch_that_was_refused(spoil, pictures, tmp_path):
    refused: list[Any] = []

    def fault(model, inputs):
        if model.endswith("_image") and not refused:
            refused.append(model)
            return clipdex.RequestRefused("too long")
        return None

    with clipdex.Client(Spoiling(spoil, fault=fault)) as client, a_fault():
        clipdex.index_pictures(client, pictures, tmp_path / "x", workers=1)
    assert refused
    with clipdex.Index.open(tmp_path / "x") as index:
        assert len(index.vectors) == 0


@every_way_to_spoil
def test_so_does_a_measurement(spoil):
    with clipdex.Client(Spoiling(spoil)) as client, a_fault():
        measure_point(client, "image", "wire", pixels_of(1, 2, 3), 2, 1, Window(0.01, 1, 0.0))


def test_the_error_says_how_many_were_sent_and_how_many_came():
    with (
        clipdex.Client(Spoiling(SPOILT["one too many"])) as client,
        pytest.raises(clipdex.ServerFault, match=r"answered float32 \(3, 8\) for 2 items; .* float32 \(2, 8\)$"),
    ):
        client.embed_texts(["a", "b"])


class Pending(FakeTransport):
    """Fails the request of this number, and leaves those that come after it waiting."""

    def __init__(self, failing=0, **settings):
        super().__init__(**settings)
        self._failing = failing
        self._sent = 0
        self.waiting = []

    def submit(self, model, inputs, output, timeout_s, *, wait=False):
        if output == "bytes":
            return super().submit(model, inputs, output, timeout_s, wait=wait)
        number, self._sent = self._sent, self._sent + 1
        answer: Future[Any] = Future()
        if number < self._failing:
            answer.set_exception(clipdex.RequestRefused("too long"))
        elif number == self._failing:
            answer.set_exception(clipdex.ServerFault("broken"))
        else:
            self.waiting.append(answer)
        return answer


def test_requests_under_way_are_withdrawn_where_embedding_fails():
    transport = Pending(max_batch_size=2)
    with clipdex.Client(transport) as client:
        client.in_flight = 4
        with pytest.raises(clipdex.ServerFault, match="broken"):
            client.embed_texts([str(i) for i in range(20)])
    assert [answer.cancelled() for answer in transport.waiting] == [True] * 3


def test_requests_under_way_are_withdrawn_where_half_of_a_refused_batch_fails():
    transport = Pending(failing=1)
    with clipdex.Client(transport) as client, pytest.raises(clipdex.ServerFault, match="broken"):
        client.embed_texts([str(i) for i in range(4)])
    assert [answer.cancelled() for answer in transport.waiting] == [True]


def test_requests_under_way_are_withdrawn_where_a_bulk_run_fails(pictures, tmp_path):
    transport = Pending(max_batch_size=2)
    with clipdex.Client(transport) as client:
        client.in_flight = 4
        with pytest.raises(clipdex.ServerFault, match="broken"):
            clipdex.index_pictures(client, pictures, tmp_path / "x", workers=1)
    assert [answer.cancelled() for answer in transport.waiting] == [True] * 3
