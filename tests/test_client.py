"""The client over a fake server: splitting, gathering, choosing a model, refusing."""

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import noise
from PIL import Image

import clipdex
from clipdex.client.discovery import served_models
from clipdex.wire import FakeTransport, open_transport

pytestmark = pytest.mark.thin


def test_images_of_every_kind_give_the_same_vector(fake, tmp_path):
    picture = noise(1)
    path = tmp_path / "a.png"
    picture.save(path)
    vectors = fake.embed_images([path, str(path), path.read_bytes(), picture, np.asarray(picture)])
    assert vectors.shape == (5, 8)
    assert vectors.dtype == np.float32
    assert (vectors == vectors[0]).all()


def test_a_long_list_is_sent_in_full_batches_and_comes_back_in_order():
    transport = FakeTransport(max_batch_size=16)
    with clipdex.Client(transport) as client:
        pictures = [noise(i) for i in range(40)]
        together = client.embed_images(pictures)
        apart = np.concatenate([client.embed_images([picture]) for picture in pictures])
    assert np.array_equal(together, apart)
    sent = [rows for model, rows in transport.requests if model == "fake_image"]
    assert sent[:3] == [16, 16, 8]


def test_texts_are_split_as_well():
    transport = FakeTransport(max_batch_size=4)
    with clipdex.Client(transport) as client:
        assert client.embed_texts([str(i) for i in range(10)]).shape == (10, 8)
    assert [rows for model, rows in transport.requests if model == "fake_text"] == [4, 4, 2]


def test_nothing_in_nothing_out(fake):
    assert fake.embed_images([]).shape == (0, 8)
    assert fake.embed_texts([]).shape == (0, 8)


@pytest.mark.parametrize("call", [lambda c: c.embed_texts("one text"), lambda c: c.embed_images("one.jpg")])
def test_a_single_string_is_not_taken_for_a_list(fake, call):
    with pytest.raises(clipdex.InvalidArgument, match="is a single str"):
        call(fake)


def test_a_text_that_is_none_is_refused(fake):
    with pytest.raises(clipdex.InvalidArgument, match="NoneType"):
        fake.embed_texts(["fine", None])


def test_pixels_of_another_size_are_refused(fake):
    with pytest.raises(clipdex.InvalidArgument, match=r"\(N, 32, 32, 3\)"):
        fake.embed_pixels(np.zeros((1, 64, 64, 3), np.uint8))


def test_a_picture_that_cannot_be_read_is_named(fake, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(clipdex.ImageError, match=r"bad\.jpg"):
        fake.embed_images([Image.new("RGB", (4, 4)), bad])


def test_a_fault_of_the_server_reaches_the_caller():
    def fault(model, inputs):
        return clipdex.ServerFault("broken") if model == "fake_text" else None

    with (
        clipdex.Client(FakeTransport(fault=fault)) as client,
        pytest.raises(clipdex.ServerFault, match="broken"),
    ):
        client.embed_texts(["a"])


class Answers(FakeTransport):
    """A fake whose towers answer what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def submit(self, model, inputs, output, timeout_s, *, wait=False):
        if output == "bytes":
            return super().submit(model, inputs, output, timeout_s)
        future: Future[Any] = Future()
        future.set_result(self.answer)
        return future


@pytest.mark.parametrize(
    "answer",
    [
        np.ones((1, 8), np.float32),
        np.full((1, 8), np.nan, np.float32),
        np.zeros((1, 8), np.float32),
        np.full((1, 4), 0.5, np.float32),
        np.full((1, 8), 8**-0.5, np.float64),
    ],
    ids=["norm", "nan", "zero", "width", "dtype"],
)
def test_what_is_no_embedding_is_not_passed_on(answer):
    with clipdex.Client(Answers(answer)) as client, pytest.raises(clipdex.ServerFault):
        client.embed_texts(["a"])


class Several(FakeTransport):
    def models(self, timeout_s):
        return [f"{name}_{part}" for name in ("fake", "other") for part in ("assets", "image", "text")]


def test_several_models_must_be_told_apart():
    with pytest.raises(clipdex.ModelNotFound, match="fake, other"):
        clipdex.Client(Several())
    assert clipdex.Client(Several(), model="fake").card.name == "fake"


def test_an_unknown_model_is_answered_with_those_there_are():
    with pytest.raises(clipdex.ModelNotFound, match="'nope'; it has fake"):
        clipdex.Client(FakeTransport(), model="nope")


def test_only_whole_models_are_served():
    assert served_models(["a_image", "a_text", "a_assets", "b_image", "b_text", "resnet"]) == ["a"]


def test_the_card_is_fetched_once_and_then_kept(cache):
    for expected in (1, 0):
        transport = FakeTransport()
        clipdex.Client(transport).close()
        assert len([m for m, _ in transport.requests if m == "fake_assets"]) == expected


def test_a_tokenizer_that_is_not_the_cards_is_refused(monkeypatch):
    transport = FakeTransport()
    card = replace(transport.card, text=replace(transport.card.text, tokenizer_sha256="0" * 64))
    transport.card = card
    monkeypatch.setattr(transport, "_assets", clipdex.model.assets.pack_assets(card, b"{}"))
    with pytest.raises(clipdex.CardError, match="tokenizer"):
        clipdex.Client(transport)


@pytest.mark.parametrize(
    "address",
    ["localhost", "http://localhost:8001", "localhost:", "localhost:port", "localhost:99999", "", "inproc:"],
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(clipdex.InvalidArgument):
        open_transport(address)


def test_no_server_is_said_in_one_sentence():
    with pytest.raises(clipdex.ServerUnreachable, match=r"no server answers at 127\.0\.0\.1:9"):
        clipdex.connect("127.0.0.1:9")


def test_a_timeout_must_be_positive():
    with pytest.raises(clipdex.InvalidArgument, match="timeout_s"):
        clipdex.Client(FakeTransport(), timeout_s=0)
