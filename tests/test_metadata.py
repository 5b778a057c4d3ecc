"""What is kept beside a picture: written with its row, updated without it, carried over, checked."""

import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from conftest import unit_vectors

from clipdex.index import Index, IndexWriter, Manifest, Picture, compact_index, verify_index

pytestmark = pytest.mark.thin

MANIFEST = Manifest(fingerprint="f" * 64, model="demo", embedding_dim=4)


def picture(i, said):
    return Picture(b"/%d.jpg" % i, 1, 1, bytes([i] * 16), 8, 8, said)


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        writer.append([picture(0, None), picture(1, '{"txt":"1"}'), picture(2, '{"txt":"2"}')], unit_vectors(3, 4))
    return path


def said(index):
    """Metadata by path, through the hits of a search."""
    with Index.open(index) as opened:
        hits = opened.search(np.array([1, 0, 0, 0], np.float32), len(opened))[0]
    return {hit.path: hit.metadata for hit in hits}


def test_a_hit_has_what_came_with_its_picture(index):
    assert said(index) == {"/0.jpg": None, "/1.jpg": {"txt": "1"}, "/2.jpg": {"txt": "2"}}


def test_a_touched_file_keeps_what_nobody_speaks_of(index):
    with IndexWriter(index) as writer:
        writer.touch(replace(picture(1, None), mtime_ns=9))
        writer.touch(replace(picture(2, '{"txt":"new"}'), mtime_ns=9))
    assert said(index) == {"/0.jpg": None, "/1.jpg": {"txt": "1"}, "/2.jpg": {"txt": "new"}}


def test_saying_something_else_changes_no_row(index):
    with IndexWriter(index) as writer:
        writer.annotate(b"/0.jpg", '{"cls":5}')
        writer.annotate(b"/1.jpg", "{}")
        writer.annotate(b"/unknown.jpg", '{"cls":6}')
    assert said(index) == {"/0.jpg": {"cls": 5}, "/1.jpg": None, "/2.jpg": {"txt": "2"}}
    assert verify_index(index).damages == []


def test_compacting_carries_it_over(index):
    with IndexWriter(index) as writer:
        writer.remove(b"/1.jpg")
    compact_index(index)
    assert said(index) == {"/0.jpg": None, "/2.jpg": {"txt": "2"}}
    assert verify_index(index).damages == []


def test_verify_finds_a_changed_caption(index):
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute("""UPDATE metadata SET json = '{"txt":"8"}' WHERE row = 1""")
    db.commit()
    db.close()
    (damage,) = verify_index(index).damages
    assert damage.what == "rows.sqlite: the record 1 of metadata is damaged"
