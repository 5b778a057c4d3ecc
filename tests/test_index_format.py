"""The index on disk, byte by byte: what docs/index-format.md promises to other programs."""

import json
import random
import sqlite3
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import pytest

from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture
from clipdex.index.checksum import record_crc32c, record_crc32cs
from clipdex.index.stored import whole_among
from clipdex.looks.signature import SIGNATURE_BYTES

pytestmark = pytest.mark.thin

MANIFEST = Manifest(fingerprint="f" * 64, model="demo", embedding_dim=4)
VECTORS = np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)

GOLDEN_MANIFEST = b"""{
  "format": "clipdex-index",
  "format_version": 1,
  "fingerprint": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
  "model": "demo",
  "embedding_dim": 4,
  "dtype": "float16",
  "crc32c": 900398396
}
"""

# IEEE 754 half precision, little-endian: 1 is 3C00, -1 is BC00, 0.5 is 3800.
GOLDEN_VECTORS = bytes.fromhex("003c000000000000000000bc000000000038003800380038")


def picture(i):
    return Picture(b"/photos/%d.jpg" % i, 100 + i, 1_700_000_000_000_000_000 + i, bytes([i] * 16), 640, 480)


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "golden.clipdex"
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        writer.append([picture(0), picture(1)], VECTORS[:2])
        writer.commit()
        writer.append([picture(2)], VECTORS[2:])
        writer.fail(Failure(b"/photos/bad\xff.jpg", "truncated", "half of it", 7, 8))
    return path


def test_the_manifest(index):
    assert (index / "manifest.json").read_bytes() == GOLDEN_MANIFEST


def test_the_vectors(index):
    assert (index / "vectors.f16").read_bytes() == GOLDEN_VECTORS


def test_float32_vectors_have_their_own_file(tmp_path):
    manifest = Manifest("f" * 64, "demo", 4, dtype="float32")
    with IndexWriter.open_or_create(tmp_path / "x", manifest) as writer:
        writer.append([picture(0)], VECTORS[2:])
    assert (tmp_path / "x" / "vectors.f32").read_bytes() == bytes.fromhex("0000003f" * 4)


def test_the_rows_through_sqlite_alone(index):
    db = sqlite3.connect(index / "rows.sqlite")
    assert db.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"clpx", "big"),)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    rows = db.execute(
        "SELECT row, path, size, mtime_ns, content_hash, width, height, deleted_at FROM rows"
    ).fetchall()
    assert rows[2] == (2, b"/photos/2.jpg", 102, 1_700_000_000_000_000_002, bytes([2] * 16), 640, 480, None)
    extents = db.execute("SELECT first_row, row_count, vectors_crc32c FROM extents ORDER BY 1").fetchall()
    assert extents == [
        (0, 2, google_crc32c.value(GOLDEN_VECTORS[:16])),
        (2, 1, google_crc32c.value(GOLDEN_VECTORS[16:])),
    ]
    failures = db.execute("SELECT path, reason, detail, size, mtime_ns FROM failures").fetchall()
    assert failures == [(b"/photos/bad\xff.jpg", "truncated", "half of it", 7, 8)]
    db.close()


def test_crc32c_is_the_castagnoli_one():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720, B.4


def test_the_vectors_through_numpy_alone(index):
    """The two lines of the documentation, with no clipdex."""
    dim = json.loads((index / "manifest.json").read_text())["embedding_dim"]
    rows = 3
    vectors = np.memmap(index / "vectors.f16", dtype="<f2", mode="r").reshape(-1, dim)[:rows]
    assert np.array_equal(vectors, VECTORS.astype(np.float16))
    with Index.open(index) as opened:
        assert np.array_equal(opened.vectors, vectors)


def test_every_record_carries_the_checksum_of_its_columns(index):
    """As docs/index-format.md writes it: kind, length, colon, value."""
    db = sqlite3.connect(index / "rows.sqlite")
    row = db.execute("SELECT * FROM rows WHERE row = 1").fetchone()
    written = b"i1:1b13:/photos/1.jpgi3:101i19:1700000000000000001b16:" + bytes([1] * 16) + b"i3:640i3:480n"
    assert row[-1] == google_crc32c.value(written)
    first = db.execute("SELECT * FROM extents WHERE first_row = 0").fetchone()
    assert first[-1] == google_crc32c.value(b"i1:0i1:2i%d:%di10:%d" % (len(str(first[2])), first[2], first[3]))
    failure = db.execute("SELECT * FROM failures").fetchone()
    written = b"b16:/photos/bad\xff.jpgt9:truncatedt10:half of iti1:7i1:8i10:%d" % failure[5]
    assert failure[-1] == google_crc32c.value(written)
    db.close()


def test_metadata_through_sqlite_alone(tmp_path):
    said = '{"txt":"a caf\u00e9"}'
    with IndexWriter.open_or_create(tmp_path / "x", MANIFEST) as writer:
        writer.append(
            [picture(0), replace(picture(1), metadata=said), replace(picture(2), metadata="{}")], VECTORS
        )
    db = sqlite3.connect(tmp_path / "x" / "rows.sqlite")
    ((row, text, crc32c),) = db.execute("SELECT * FROM metadata")
    db.close()
    assert (row, text) == (1, said)
    assert crc32c == google_crc32c.value(b"i1:1t17:" + said.encode())


def test_checksums_of_many_records_are_those_of_each():
    rng = random.Random(7)
    values = [0, -1, 7, 10**18, -(2**63), True, b"", b"a", bytes(511), bytes(512), bytes(9_000), None]
    values += ["", "x", "é", "\U0001f600", "\udcff", "y" * 511, "é" * 300, "z" * 9_000]
    columns: list[list[Any]] = [
        [each for each in values if isinstance(each, kind)] for kind in (int, bytes, str)
    ] + [[None], values]
    for _ in range(200):
        of = [rng.choice(columns) for _ in range(rng.randint(1, 6))]
        records = [tuple(rng.choice(column) for column in of) for _ in range(rng.choice([1, 2, 40]))]
        assert record_crc32cs(list(zip(*records, strict=True))) == [record_crc32c(*record) for record in records]
    assert record_crc32cs([]) == []
    for numbers in ([-5, 7, 10], [-10, 100], [99, 100], [-10, -99], [10, 99]):
        assert record_crc32cs([numbers]) == [record_crc32c(number) for number in numbers]
    assert record_crc32cs([[None, None]]) == [record_crc32c(None)] * 2
    assert record_crc32cs([[5, 6], [None, None]]) == [record_crc32c(5, None), record_crc32c(6, None)]
    assert record_crc32c(bytes(9_000), "z") == google_crc32c.value(b"b9000:" + bytes(9_000) + b"t1:z")


def test_among_many_records_those_that_are_not_whole_are_found():
    looks = [(i, bytes([i]) * SIGNATURE_BYTES) for i in range(20)]
    sound = [(record_crc32c(*look), *look) for look in looks]
    assert whole_among("phashes", sound) == [True] * 20 and whole_among("phashes", []) == []
    short = (record_crc32c(3, b"x"), 3, b"x")
    for wrong in ((sound[3][0] ^ 1, *looks[3]), (None, *looks[3]), (*sound[4][:2], looks[3][1]), short):
        assert whole_among("phashes", [*sound[:3], wrong, *sound[4:]]) == [i != 3 for i in range(20)]
    text = (record_crc32c(3, "x" * SIGNATURE_BYTES), 3, "x" * SIGNATURE_BYTES)  # fits, but no signature is a text
    assert whole_among("phashes", [*sound[:3], text, *sound[4:]]) == [i != 3 for i in range(20)]
