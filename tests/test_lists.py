"""What a caller gives for a list: anything that can be gone through, but for a lone picture or text."""

import array
import asyncio
import io
import tempfile

import numpy as np
import pytest
from conftest import noise

import clipdex
from clipdex.aio import AsyncClient
from clipdex.model.images import open_image
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

TEXTS = ["a cat", "a dog", "a bird"]


def over_asyncio(method, *given, **settings):
    async def main():
        async with AsyncClient(lambda: clipdex.Client(FakeTransport())) as clip:
            return await getattr(clip, method)(*given, **settings)

    return asyncio.run(main())


ITERABLES = {
    "tuple": tuple,
    "generator": lambda texts: (text for text in texts),
    "map": lambda texts: map(str, texts),
    "keys": lambda texts: dict.fromkeys(texts).keys(),
    "array": np.array,
}

every_iterable = pytest.mark.parametrize("made", ITERABLES.values(), ids=ITERABLES)


@every_iterable
def test_texts_come_in_anything_that_can_be_gone_through(fake, made):
    expected = fake.embed_texts(TEXTS)
    assert expected.shape == (3, 8)
    assert np.array_equal(fake.embed_texts(made(TEXTS)), expected)
    assert np.array_equal(over_asyncio("embed_texts", made(TEXTS)), expected)
    assert np.array_equal(fake.tokenize(made(TEXTS)), fake.tokenize(TEXTS))


@every_iterable
def test_labels_and_templates_do_too(fake, made):
    templates = ["a photo of {}", "{}"]
    expected = fake.classify([noise(0)], TEXTS, templates=templates)
    assert expected.shape == (1, 3)
    given = {"labels": made(TEXTS), "templates": made(templates)}
    assert np.array_equal(fake.classify([noise(0)], **given), expected)
    given = {"labels": made(TEXTS), "templates": made(templates)}
    assert np.array_equal(over_asyncio("classify", (noise(0) for _ in range(1)), **given), expected)


@pytest.mark.parametrize("given", ["a text", b"a text", 7, None, ["a", 7], [b"a"]], ids=repr)
def test_what_is_no_list_of_texts_is_refused_by_its_name(fake, given):
    with pytest.raises(clipdex.InvalidArgument, match=r"^texts "):
        fake.embed_texts(given)
    for name in ("labels", "templates"):
        with pytest.raises(clipdex.InvalidArgument, match=rf"^{name} "):
            fake.classify([noise(0)], **({"labels": TEXTS} | {name: given}))


def test_a_generator_that_gives_something_else_is_refused(fake):
    with pytest.raises(clipdex.InvalidArgument, match="texts contains NoneType"):
        fake.embed_texts(text for text in ["a", None])


def png():
    file = io.BytesIO()
    noise(1).save(file, "PNG")
    return file


LONE = {
    "path": lambda folder: str(folder / "a.png"),
    "path object": lambda folder: folder / "a.png",
    "bytes": lambda folder: png().getvalue(),
    "bytearray": lambda folder: bytearray(png().getvalue()),
    "memoryview": lambda folder: memoryview(png().getvalue()),
    "Pillow image": lambda folder: noise(1),
    "array (H, W, 3)": lambda folder: np.asarray(noise(1)),
    "array (H, W, 4)": lambda folder: np.asarray(noise(1).convert("RGBA")),
    "array (H, W)": lambda folder: np.asarray(noise(1).convert("L")),
    "array ()": lambda folder: np.array(7, np.uint8),
    "BytesIO": lambda folder: png(),
    "open file": lambda folder: (folder / "a.png").open("rb"),
    "None": lambda folder: None,
    "number": lambda folder: 7,
}


@pytest.mark.parametrize("lone", LONE.values(), ids=LONE)
def test_a_lone_picture_is_not_taken_for_a_list(fake, lone, tmp_path):
    noise(1).save(tmp_path / "a.png")
    picture = lone(tmp_path)
    for ask in (
        lambda: fake.embed_images(picture),
        lambda: fake.classify(picture, TEXTS),
        lambda: over_asyncio("embed_images", picture),
        lambda: over_asyncio("classify", picture, TEXTS),
    ):
        with pytest.raises(clipdex.InvalidArgument, match=r"^images is "):
            ask()
    if hasattr(picture, "close"):
        picture.close()


def test_an_array_of_four_axes_is_a_batch(fake):
    batch = np.stack([np.asarray(noise(i)) for i in range(3)])
    expected = fake.embed_images(list(batch))
    assert expected.shape == (3, 8)
    assert np.array_equal(fake.embed_images(batch), expected)
    assert np.array_equal(over_asyncio("embed_images", batch), expected)
    assert fake.classify(batch, TEXTS).shape == (3, 3)


def test_items_that_are_no_pictures_are_refused(fake):
    for items in ([7], array.array("B", b"abc"), np.zeros(3, np.uint8), np.zeros((2, 3, 4, 5, 3), np.uint8)):
        with pytest.raises(clipdex.InvalidArgument, match="picture"):
            fake.embed_images(items)


def test_open_files_are_pictures(fake, tmp_path):
    noise(1).save(tmp_path / "a.png")
    written = png()  # stands at its end
    read = io.BytesIO(written.getvalue())
    read.read()
    with open(tmp_path / "a.png", "rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(written.getvalue())
        vectors = fake.embed_images([tmp_path / "a.png", written, read, file, spooled, written, Stream()])
    assert vectors.shape == (7, 8)
    assert (vectors == vectors[0]).all()
    with clipdex.Batcher(fake) as batcher:
        assert np.array_equal(batcher.image(written).result(), vectors[0])


class Stream:
    """What cannot go back, as an answer of HTTP cannot."""

    def __init__(self):
        self._file = io.BytesIO(png().getvalue())

    def read(self):
        return self._file.read()


def test_open_files_that_give_no_picture_are_refused_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with open(tmp_path / "a.png", "rb") as file, pytest.raises(clipdex.ImageError, match=r"a\.png"):
        open_image(file)
    with pytest.raises(clipdex.ImageError, match=r"a\.png: cannot be read: .*closed"):
        open_image(file)
    with pytest.raises(clipdex.ImageError, match="the open file given: the file is empty"):
        open_image(io.BytesIO())
    with (
        open(tmp_path / "a.png") as text,
        pytest.raises(clipdex.InvalidArgument, match=r"a\.png is opened as text"),
    ):
        open_image(text)  # type: ignore[arg-type]
    with (
        open(tmp_path / "b.png", "wb") as unreadable,
        pytest.raises(clipdex.ImageError, match=r"b\.png: cannot be read"),
    ):
        open_image(unreadable)
