"""Perceptual signatures: what is in them, and that every row has one."""

import sqlite3

import google_crc32c
import numpy as np
import pytest
from conftest import noise
from damage import dump
from PIL import Image

import clipdex
from clipdex.index import Index, IndexWriter, Manifest, Picture, compact_index, verify_index
from clipdex.looks.signature import FREQUENCIES, SIGNATURE_BYTES, perceptual_signature

pytestmark = pytest.mark.thin

VECTORS = np.eye(4, dtype=np.float32)[:3]


def scene(size=(96, 64)):
    """A bright disc before a slope: smooth, with something in every corner of the signature."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float64) / np.array(size)[::-1, None, None]
    grey = 60 + 80 * x + 40 * y
    grey[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.05] = 230
    return Image.fromarray(np.stack([grey, grey * 0.8, 255 - grey], axis=-1).astype(np.uint8))


def frequencies(signature):
    return np.frombuffer(signature[8:152], dtype=np.int8).reshape(FREQUENCIES, FREQUENCIES).astype(int)


def bits_apart(one, other):
    return bin(int.from_bytes(one[:8], "big") ^ int.from_bytes(other[:8], "big")).count("1")


def test_a_plain_grey_has_one_frequency():
    signature = perceptual_signature(Image.new("RGB", (50, 40), (100, 100, 100)))
    assert len(signature) == SIGNATURE_BYTES == 158
    found = frequencies(signature)
    assert found[0, 0] == round(2 * np.sqrt(100 * 32))  # the mean, times the side of the square
    found[0, 0] = 0
    assert not found.any()
    assert signature[152:] == bytes(6)


def test_a_ramp_lies_along_its_axis():
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, axis=0)
    across = frequencies(perceptual_signature(Image.fromarray(ramp).convert("RGB")))
    down = frequencies(perceptual_signature(Image.fromarray(ramp.T).convert("RGB")))
    assert across[0, 1] < -80 and np.array_equal(across, down.T)
    assert not across[1:].any()


def test_colours_are_told_apart():
    red, blue = (perceptual_signature(Image.new("RGB", (9, 9), c)) for c in ((200, 0, 0), (0, 0, 200)))
    (red_cb, red_cr), (blue_cb, blue_cr) = (np.frombuffer(s[152:], np.int8)[[0, 3]] for s in (red, blue))
    assert red_cr > 20 and red_cb < 0 < blue_cb and blue_cr < 0


@pytest.mark.parametrize("size", [(48, 32), (300, 200), (960, 640)], ids=str)
def test_the_size_hardly_matters(size):
    one, other = perceptual_signature(scene()), perceptual_signature(scene(size))
    assert bits_apart(one, other) <= 6
    assert np.abs(frequencies(one) - frequencies(other)).mean() <= 2


@pytest.mark.parametrize("size", [(60, 50), (127, 127), (20, 90)], ids=str)
def test_the_first_bytes_of_a_small_picture_are_the_phash_of_the_imagehash_library(size):
    imagehash = pytest.importorskip("imagehash")
    for picture in (*(noise(seed, size) for seed in range(5)), scene(size)):
        assert perceptual_signature(picture)[:8].hex() == str(imagehash.phash(picture))


@pytest.mark.parametrize("size", [(128, 128), (640, 480), (2000, 1500)], ids=str)
def test_those_of_a_larger_one_which_is_halved_first_are_close_to_it(size):
    imagehash = pytest.importorskip("imagehash")
    theirs = bytes.fromhex(str(imagehash.phash(scene(size))))
    assert bits_apart(perceptual_signature(scene(size)), theirs) <= 6


def test_the_first_bytes_are_the_phash_as_it_is_defined():
    """Written out: the 8 × 8 lowest frequencies of an unscaled DCT-II, above their median or not."""
    picture = noise(1, (60, 50))
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    table = np.cos(np.pi * np.outer(np.arange(8), np.arange(32) + 0.5) / 32)
    low = table @ grey @ table.T
    bits = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    assert perceptual_signature(picture)[:8] == int(bits, 2).to_bytes(8, "big")


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (5000, 3), (33, 31)], ids=str)
def test_every_shape_has_a_signature(size):
    assert len(perceptual_signature(noise(0, size))) == SIGNATURE_BYTES


# In the index


def picture(i, phash=None):
    return Picture(b"/photos/%d.jpg" % i, 100 + i, 10**18 + i, bytes([i] * 16), 640, 480, None, phash)


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", 4)) as writer:
        writer.append([picture(0, b"a" * 158), picture(1), picture(2, b"c" * 158)], VECTORS)
    return path


def phashes(path):
    db = sqlite3.connect(path / "rows.sqlite")
    found = db.execute("SELECT * FROM phashes ORDER BY row").fetchall()
    db.close()
    return found


def test_signatures_through_sqlite_alone(index):
    written = [(0, b"i1:0b158:" + b"a" * 158), (2, b"i1:2b158:" + b"c" * 158)]
    assert phashes(index) == [(row, text[-158:], google_crc32c.value(text)) for row, text in written]


def test_a_run_signs_every_row(fake, pictures, tmp_path):
    clipdex.index_pictures(fake, pictures, tmp_path / "x")
    found = phashes(tmp_path / "x")
    assert [row for row, *_ in found] == list(range(12))
    with Index.open(tmp_path / "x") as index:
        path = index.picture(0).path.decode()
    assert bits_apart(found[0][1], perceptual_signature(Image.open(path).convert("RGB"))) <= 2


def test_compaction_carries_them(index):
    with IndexWriter(index) as writer:
        writer.remove(b"/photos/0.jpg")
    assert compact_index(index) == 1
    assert [(row, phash) for row, phash, _ in phashes(index)] == [(1, b"c" * 158)]
    assert not verify_index(index).damages


def test_a_row_can_be_signed_later(index):
    with IndexWriter(index) as writer:
        writer.sign(b"/photos/1.jpg", b"b" * 158)
        writer.sign(b"/photos/nobody.jpg", b"x" * 158)
    assert [(row, phash[:1]) for row, phash, _ in phashes(index)] == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert not verify_index(index).damages


def test_an_index_of_before_signatures_opens_is_sound_and_gets_them(index, fake, pictures):
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute("DROP TABLE phashes")
    db.close()
    before = dump(index)
    with Index.open(index) as opened:
        assert opened.search(VECTORS[0], top_k=1)[0][0].row == 0
    assert not verify_index(index).damages
    assert dump(index) == before
    with IndexWriter(index) as writer:
        writer.touch(picture(0, b"t" * 158))
        writer.append([picture(3, b"d" * 158)], VECTORS[:1])
    assert [(row, phash[:1]) for row, phash, _ in phashes(index)] == [(0, b"t"), (3, b"d")]
    assert not verify_index(index).damages


def test_a_flipped_bit_in_a_signature_is_found_and_the_signature_not_used(index):
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute("UPDATE phashes SET phash = ?", (b"a" * 157 + b"b",))
    db.execute(
        "UPDATE phashes SET phash = ?, crc32c = ? WHERE row = 2",
        (b"z" * 158, google_crc32c.value(b"i1:2b158:" + b"z" * 158)),
    )
    db.commit()
    db.close()
    assert [damage.what for damage in verify_index(index).damages] == [
        "rows.sqlite: the record 0 of phashes is damaged"
    ]
    with IndexWriter(index) as writer:
        ((live, _),) = writer.live_blocks(10)
    assert [one.phash for one in live] == [None, None, b"z" * 158]
