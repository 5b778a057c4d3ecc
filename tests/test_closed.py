"""What is closed says so, whatever it is asked; what is open says what it is; an error is one sentence."""

import asyncio
import copy
import os
import pickle
import socket
import traceback

import numpy as np
import pytest
from conftest import noise, unit_vectors
from fake_server import serving

import clipdex
from clipdex import Index, IndexWriter, Manifest, Picture
from clipdex.aio import AsyncClient
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

PICTURES = [Picture(b"/%d.png" % i, 1, 1, bytes([i]) * 32, 4, 4) for i in range(3)]


@pytest.fixture
def writer(tmp_path):
    with IndexWriter.open_or_create(tmp_path / "x", Manifest.of(FakeTransport().card, "float32", "off")) as opened:
        opened.append(PICTURES, unit_vectors(3, 8))
        yield opened


USES_OF_A_CLIENT = {
    "embed_texts": lambda client: client.embed_texts(["a"]),
    "embed_images": lambda client: client.embed_images([noise(0)]),
    "embed_pixels": lambda client: client.embed_pixels(np.zeros((1, 32, 32, 3), np.uint8)),
    "embed_texts of none": lambda client: client.embed_texts([]),
    "embed_images of none": lambda client: client.embed_images([]),
    "embed_pixels of none": lambda client: client.embed_pixels(np.zeros((0, 32, 32, 3), np.uint8)),
    "embed_texts of what is none": lambda client: client.embed_texts(3),
    "classify": lambda client: client.classify([noise(0)], ["a cat", "a dog"]),
    "classify of none": lambda client: client.classify([], ["a cat", "a dog"]),
    "submit_pixels": lambda client: client.submit_pixels(np.zeros((1, 32, 32, 3), np.uint8)).result(),
    "submit_tokens": lambda client: client.submit_tokens(client.tokenize(["a"])).result(),
    "statistics": lambda client: client.statistics("image"),
    "share": lambda client: client.share(None),
    "with": lambda client: client.__enter__(),
}


@pytest.mark.parametrize("use", USES_OF_A_CLIENT.values(), ids=USES_OF_A_CLIENT)
def test_a_closed_client_says_so(use):
    client = clipdex.Client(FakeTransport())
    client.close()
    client.close()
    with pytest.raises(clipdex.Closed, match=r"^this client of fake:fake is closed: connect again$"):
        use(client)


def test_a_closed_client_of_a_real_connection_says_so():
    with serving() as server:
        client = clipdex.connect(server.address)
        client.close()
        with pytest.raises(clipdex.Closed, match=f"^this client of {server.address} is closed"):
            client.embed_texts(["a"])


def test_a_closed_batcher_says_so(fake):
    batcher = clipdex.Batcher(fake)
    batcher.close()
    for use in (lambda: batcher.text("a"), lambda: batcher.image(noise(0)), batcher.__enter__):
        with pytest.raises(clipdex.Closed, match="this batcher is closed"):
            use()


def test_a_closed_asyncio_client_says_so():
    async def main():
        clip = AsyncClient(lambda: clipdex.Client(FakeTransport()))
        async with clip:
            pass
        for use in (
            clip.embed_texts(["a"]),
            clip.embed_images([noise(0)]),
            clip.embed_pixels(np.zeros((0, 32, 32, 3), np.uint8)),
            clip.embed_texts([]),
            clip.embed_images([]),
            clip.classify([noise(0)], ["a cat", "a dog"]),
            clip.classify([], ["a cat", "a dog"]),
            clip.__aenter__(),
        ):
            with pytest.raises(clipdex.Closed, match="this client is closed"):
                await use

    asyncio.run(main())


def test_an_asyncio_client_says_so_whose_client_was_closed_below_it():
    async def main():
        async with AsyncClient(lambda: clipdex.Client(FakeTransport())) as clip:
            clip.client.close()
            for use in (clip.embed_texts([]), clip.embed_images([]), clip.embed_texts(["a"])):
                with pytest.raises(clipdex.Closed, match="this client of fake:fake is closed"):
                    await use

    asyncio.run(main())


USES_OF_AN_INDEX = {
    "with": lambda index: index.__enter__(),
    "search": lambda index: index.search(unit_vectors(1, 8)),
    "where": lambda index: index.where("size = 1"),
    "refresh": lambda index: index.refresh(),
    "row": lambda index: index.row(0),
    "row of a path": lambda index: index.row("/0.png"),
    "vector": lambda index: index.vector(0),
    "picture": lambda index: index.picture(0),
    "pictures": lambda index: index.pictures([0]),
    "known": lambda index: index.known(b"/0.png"),
    "live_paths": lambda index: index.live_paths(),
    "failures": lambda index: index.failures(),
    "info": lambda index: index.info(),
    "extents": lambda index: index.extents(),
    "contents": lambda index: index.contents(0, 3),
    "signatures": lambda index: index.signatures(0, 3),
}


@pytest.mark.parametrize("use", USES_OF_AN_INDEX.values(), ids=USES_OF_AN_INDEX)
def test_a_closed_index_says_so_and_not_that_it_is_damaged(writer, use, tmp_path):
    writer.commit()
    with Index.open(tmp_path / "x") as index:
        use(index)
        vectors = index.vectors
    with pytest.raises(clipdex.Closed, match=r"^this Index of .*x is closed"):
        use(index)
    assert vectors.shape == (3, 8)


USES_OF_A_WRITER = {
    "with": lambda writer: writer.__enter__(),
    "append": lambda writer: writer.append(PICTURES, unit_vectors(3, 8)),
    "commit": lambda writer: writer.commit(),
    "vector": lambda writer: writer.vector(0),
    "known": lambda writer: writer.known(b"/0.png"),
    "remove": lambda writer: writer.remove(b"/0.png"),
    "touch": lambda writer: writer.touch(PICTURES[0]),
    "annotate": lambda writer: writer.annotate(b"/0.png", "{}"),
    "failures": lambda writer: writer.failures(),
    "live_rows": lambda writer: writer.live_rows(),
    "live_paths": lambda writer: list(writer.live_paths(10)),
    "live_pictures": lambda writer: writer.live_pictures(0, 3),
}


@pytest.mark.parametrize("use", USES_OF_A_WRITER.values(), ids=USES_OF_A_WRITER)
def test_a_closed_writer_says_so(writer, use):
    writer.commit()
    writer.close()
    with pytest.raises(clipdex.Closed, match=r"^this IndexWriter of .*x is closed"):
        use(writer)


def test_a_closed_writer_writes_into_no_file_that_has_its_descriptors_number(writer, tmp_path):
    writer.commit()
    writer.close()
    others = [os.open(tmp_path / f"other{i}", os.O_RDWR | os.O_CREAT) for i in range(8)]
    try:
        with pytest.raises(clipdex.Closed, match="closed"):
            writer.append(PICTURES, unit_vectors(3, 8))
        assert [os.fstat(fd).st_size for fd in others] == [0] * 8
    finally:
        for fd in others:
            os.close(fd)


def test_each_says_what_it_is(writer, tmp_path):
    assert repr(writer) == f"<clipdex.IndexWriter '{tmp_path}/x': 0 rows, 3 changes to commit>"
    writer.commit()
    writer.close()
    assert repr(writer) == f"<clipdex.IndexWriter '{tmp_path}/x': closed>"
    with Index.open(tmp_path / "x") as index:
        assert repr(index) == f"<clipdex.Index '{tmp_path}/x': 3 pictures>"
    assert repr(index) == f"<clipdex.Index '{tmp_path}/x': closed>"
    with clipdex.Client(FakeTransport()) as client, clipdex.Batcher(client) as batcher:
        assert repr(client) == "<clipdex.Client of 'fake' at fake:fake>"
        assert repr(batcher) == "<clipdex.Batcher over <clipdex.Client of 'fake' at fake:fake>>"
    assert repr(client) == "<clipdex.Client of 'fake' at fake:fake, closed>"
    assert repr(batcher).endswith(", closed>")

    async def main():
        clip = AsyncClient(lambda: clipdex.Client(FakeTransport()))
        assert repr(clip) == "<clipdex.aio.AsyncClient not connected>"
        async with clip:
            assert repr(clip) == "<clipdex.aio.AsyncClient over <clipdex.Client of 'fake' at fake:fake>>"
        assert repr(clip) == "<clipdex.aio.AsyncClient, closed>"

    asyncio.run(main())


@pytest.mark.parametrize(
    "address", [8001, None, 1.5, b"localhost:8001", ["localhost:8001", 5], {"a": 1}], ids=repr
)
def test_what_is_no_address_is_refused_in_a_sentence(address):
    with pytest.raises(clipdex.InvalidArgument, match=r"^the address is .*give HOST:PORT"):
        clipdex.connect(address)


@pytest.mark.parametrize("setting", [{"timeout_s": "5"}, {"wait_s": None}, {"model": 5}], ids=repr)
def test_a_setting_of_another_type_is_refused_by_its_name(setting):
    (name,) = setting
    with pytest.raises(clipdex.InvalidArgument, match=rf"^{name} is "):
        clipdex.Client(FakeTransport(), **setting)


@pytest.mark.parametrize("settings", [{}, {"wait_s": 0.1}], ids=repr)
def test_a_refused_connection_is_shown_as_one_exception(settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(clipdex.ServerUnreachable, match="no server answers") as refused:
            clipdex.connect(f"127.0.0.1:{taken.getsockname()[1]}", **settings)
    shown = "".join(traceback.format_exception(refused.value))
    assert shown.count("Traceback") == 1
    assert "InactiveRpcError" not in shown


@pytest.mark.parametrize("move", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_what_is_open_cannot_be_sent_to_another_process(tmp_path, move):
    with (
        IndexWriter.open_or_create(tmp_path / "x", Manifest.of(FakeTransport().card, "float32", "off")) as writer,
        Index.open(tmp_path / "x") as index,
        clipdex.Client(FakeTransport()) as client,
        clipdex.Collection.open(tmp_path / "x", read_only=True) as collection,
    ):
        for each in (writer, index, client, collection, AsyncClient(lambda: client)):
            said = rf"^this {type(each).__name__} holds open files, .* open one in each process$"
            with pytest.raises(clipdex.InvalidArgument, match=said):
                move(each)
