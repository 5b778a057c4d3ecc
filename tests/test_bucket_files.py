"""An object of a bucket as a file: read anywhere, in the version that was listed; over a store in memory."""

from __future__ import annotations

import io
import os
import random
import tarfile

import pytest

from clipdex.base.object_paths import object_beside
from clipdex.sources import object_file
from clipdex.sources.locations import Elsewhere, located
from clipdex.sources.object_file import ObjectFile, read_spans
from clipdex.sources.object_store import Bucket
from clipdex.sources.tar_headers import walk

pytest.importorskip("obstore")


@pytest.fixture
def bucket(monkeypatch):
    from obstore.store import MemoryStore

    monkeypatch.setattr(object_file, "_BLOCK", 1000)
    monkeypatch.setattr(object_file, "_BLOCKS", object_file._Blocks())
    return Bucket("s3://b", MemoryStore())


def put(bucket, key, data):
    bucket._store.put(key, data)
    (listed,) = (each for each in bucket.listed("") if each.key == key)
    return listed


def test_an_object_reads_like_the_file_of_the_same_bytes(bucket):
    drawn = random.Random(1)
    for size in (0, 1, 999, 1000, 1001, 25_500):
        data = drawn.randbytes(size)
        file, same = ObjectFile(bucket, put(bucket, f"{size}", data)), io.BytesIO(data)
        for _ in range(40):
            whence = drawn.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])
            to = drawn.randrange(size + 100) if whence == os.SEEK_SET else 0
            assert file.seek(to, whence) == same.seek(to, whence)
            assert file.read(many := drawn.randrange(3000)) == same.read(many)
        file.seek(0)
        assert file.read() == data


def test_parts_of_an_object_are_read_together_if_they_are_near(bucket, monkeypatch):
    data = random.Random(2).randbytes(400_000)
    listed = put(bucket, "k", data)
    asked = []
    read = bucket.read_range
    monkeypatch.setattr(bucket, "read_range", lambda *span: asked.append(span[1:]) or read(*span))
    near, far = [(10, 100), (5000, 20), (300, 0)], [(10, 100), (390_000, 1000), (7, 0)]
    for spans in (near, far):
        assert read_spans(bucket, listed, spans) == [data[at : at + length] for at, length in spans]
    assert asked == [(10, 5020), (10, 110), (390_000, 391_000)]
    ObjectFile(bucket, listed).read(2000)
    asked.clear()
    assert read_spans(bucket, listed, [(900, 300)]) == [data[900:1200]]
    assert not asked


def test_an_object_is_the_one_that_was_listed_where_a_listing_gives_its_etag_without_quotes(bucket, monkeypatch):
    listed = put(bucket, "k", b"0123456789")
    assert listed.etag is not None
    assert listed.etag.startswith('"')

    class Azure:
        def __init__(self, store):
            self.list = lambda prefix, chunk_size: (
                [{**meta, "e_tag": meta["e_tag"].strip('"')} for meta in page] for page in store.list(prefix)
            )
            self.get = store.get

    (same,) = Bucket("az://b", Azure(bucket._store)).listed("")
    assert same == listed
    assert Bucket("az://b", Azure(bucket._store)).read(same, 100) == b"0123456789"


@pytest.mark.parametrize("change", ["put", "delete"])
def test_an_object_that_changed_is_no_file_any_more(bucket, change):
    file = ObjectFile(bucket, put(bucket, "k", bytes(30_000)))
    file.read(1500)  # and what is read ahead may be there, too
    getattr(bucket._store, change)("k", *([b"x" * 30_000] if change == "put" else []))
    with pytest.raises(FileNotFoundError, match="after it was listed"):
        file.read(28_000)


def test_the_headers_of_a_tar_are_found_in_an_object(bucket):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for number in range(30):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = number * 100
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    listed = put(bucket, "t.tar", made.getvalue())
    found = list(walk(ObjectFile(bucket, listed), listed.size))  # type: ignore[arg-type]
    assert found == list(walk(made, listed.size))
    assert len(found) == 30


def test_a_location_may_be_in_a_bucket_or_beside_a_table_there():
    assert located(b"S3://b/k k.png", b"/x") == b"s3://b/k k.png"
    assert located(b"../c/k.png", b"s3://b/a") == b"s3://b/c/k.png"
    assert located(b"/c/k.png", b"s3://b/a") == b"/c/k.png"
    assert isinstance(located(b"gs://b", b"/x"), Elsewhere)
    assert object_beside(b"s3://b", b"../../k.png") == b"s3://b/k.png"
