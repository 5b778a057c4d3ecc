"""Getting rid of damage: it is never copied, a run embeds it again, and compaction leaves it behind."""

import os
import shutil
import sqlite3

import numpy as np
import pytest
from conftest import present, unit_vectors

import clipdex
from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, compact_index, verify_index

MANIFEST = Manifest("f" * 64, "demo", 8)


@pytest.fixture
def index(fake, pictures, tmp_path):
    """Twelve pictures in one commit."""
    clipdex.index_pictures(fake, pictures, tmp_path / "x.clipdex")
    return tmp_path / "x.clipdex"


def spoil(index, row, value=np.nan):
    with (index / "vectors.f16").open("r+b") as file:
        file.seek(row * 16)
        file.write(np.full(8, value, "<f2").tobytes())


def change(index, sql, *parameters):
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute(sql, parameters)
    db.commit()
    db.close()


def vectors_of(index):
    with Index.open(index) as opened:
        return {path: opened.vectors[row].tobytes() for row, path in opened.live_paths()}


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, 0.25])
def test_the_advice_of_verify_repairs(index, fake, pictures, value):
    before = vectors_of(index)
    spoil(index, 3, value)
    assert [damage.rows for damage in verify_index(index).damages] == [(0, 12)]
    report = clipdex.index_pictures(fake, pictures, index)
    assert (report.indexed, report.recognised) == (12, 0)
    assert compact_index(index) == 12
    assert verify_index(index).damages == []
    assert vectors_of(index) == before


@pytest.mark.parametrize("how", ["touched", "restored", "copied"])
def test_a_damaged_row_gives_its_vector_to_no_file(index, fake, pictures, how):
    before = vectors_of(index)
    spoil(index, 3, 0.25)
    path = pictures / "3.png"
    if how == "touched":
        os.utime(path)
    elif how == "copied":
        shutil.copy(path, pictures / "copy.png")
    else:
        path.rename(pictures.parent / "away.png")
        clipdex.index_pictures(fake, pictures, index)
        (pictures.parent / "away.png").rename(path)
    clipdex.index_pictures(fake, pictures, index)
    now = vectors_of(index)
    copy = now.pop(os.fsencode(pictures / "copy.png"), before[os.fsencode(path)])
    assert now == before
    assert copy == before[os.fsencode(path)]


def test_a_sound_row_of_the_same_content_is_still_used(tmp_path):
    """The first has been damaged, the second was committed later."""
    with IndexWriter.open_or_create(tmp_path / "x.clipdex", MANIFEST) as writer:
        for i in range(2):
            writer.append([Picture(b"/%d.jpg" % i, 1, 2, bytes(16), 3, 4)], unit_vectors(1, 8))
            writer.commit()
    spoil(tmp_path / "x.clipdex", 0)
    with IndexWriter(tmp_path / "x.clipdex") as writer:
        assert writer.row_of_content(bytes(16)) == 1
        assert writer.known(b"/0.jpg") is None
        assert present(writer.known(b"/1.jpg")).row == 1


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE rows SET width = width + 1 WHERE row = 3",
        "UPDATE rows SET crc32c = crc32c + 1 WHERE row = 3",
        "UPDATE phashes SET phash = zeroblob(158) WHERE row = 3",
        """INSERT INTO metadata VALUES (3, '{"a":1}', 5)""",
    ],
    ids=["record", "checksum", "signature", "metadata"],
)
def test_a_damaged_record_is_made_again(index, fake, pictures, sql):
    before = vectors_of(index)
    change(index, sql)
    assert [damage.rows for damage in verify_index(index).damages] == [(3, 4)]
    with pytest.raises(clipdex.IndexDamaged, match=r"the record 3 of \w+ is damaged; it was not compacted"):
        compacted_with_a_tombstone(index)
    report = clipdex.index_pictures(fake, pictures, index)
    assert report.indexed == 2  # the damaged one, and the one with the tombstone
    assert compact_index(index) == 2
    assert verify_index(index).damages == []
    assert vectors_of(index) == before


def compacted_with_a_tombstone(index):
    with Index.open(index) as opened:
        path = opened.live_paths()[5][1]
    with IndexWriter(index) as writer:
        writer.remove(path)
    return compact_index(index)


@pytest.mark.slow
def test_a_damaged_line_of_the_ledger_is_tried_again(index, fake, pictures):
    (pictures / "bad.png").write_bytes(b"")
    clipdex.index_pictures(fake, pictures, index)
    change(index, "UPDATE failures SET detail = 'x'")
    assert verify_index(index).damages
    with pytest.raises(clipdex.IndexDamaged, match="of failures is damaged"):
        compacted_with_a_tombstone(index)
    clipdex.index_pictures(fake, pictures, index)
    assert verify_index(index).damages == []


def test_compaction_refuses_what_is_damaged_and_changes_nothing(index):
    spoil(index, 3)
    before = (index / "vectors.f16").read_bytes()
    with pytest.raises(clipdex.IndexDamaged, match=r"rows 0 to 11 are not what was committed; .*--drop-damaged"):
        compacted_with_a_tombstone(index)
    assert (index / "vectors.f16").read_bytes() == before
    assert len(verify_index(index).damages) == 1
    assert index.name in os.listdir(index.parent)
    assert not [name for name in os.listdir(index.parent) if "building" in name]


def test_what_is_damaged_can_be_left_out_and_the_next_run_makes_it_again(index, fake, pictures):
    before = vectors_of(index)
    with IndexWriter(index) as writer:
        writer.append([Picture(b"/gone.png", 1, 2, b"g" * 16, 3, 4)], unit_vectors(1, 8))
    spoil(index, 3)
    assert compact_index(index, drop_damaged=True) == 12
    assert verify_index(index).damages == []
    with Index.open(index) as opened:
        assert [path for _, path in opened.live_paths()] == [b"/gone.png"]
        ledger = {failure.path: failure for failure in opened.failures()}
        assert ledger.keys() == before.keys()
        assert {failure.reason for failure in ledger.values()} == {"damaged"}
    assert clipdex.index_pictures(fake, pictures, index).indexed == 12
    after = vectors_of(index)
    assert after.pop(b"/gone.png", None)
    assert after == before
    assert verify_index(index).damages == []


def test_there_being_nothing_damaged_nothing_is_left_out(index):
    before = (index / "rows.sqlite").stat().st_ino
    assert compact_index(index, drop_damaged=True) == 0
    assert (index / "rows.sqlite").stat().st_ino == before


def test_a_damaged_path_does_not_bury_the_row_whose_path_it_became(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        writer.append([Picture(b"/%d.jpg" % i, 1, 2, bytes([i]) * 16, 3, 4) for i in range(4)], unit_vectors(4, 8))
        writer.fail(Failure(b"/bad.jpg", "broken", "", 1, 2))
    raw = (path / "rows.sqlite").read_bytes()
    assert raw.count(b"/1.jpg") == 2  # the record, and the database's index of paths, on other pages
    at = raw.index(b"/1.jpg")
    (path / "rows.sqlite").write_bytes(raw[: at + 1] + b"3" + raw[at + 2 :])
    assert verify_index(path).damages
    assert compact_index(path, drop_damaged=True) == 1
    assert verify_index(path).damages == []
    with Index.open(path) as opened:
        assert [each for _, each in opened.live_paths()] == [b"/0.jpg", b"/2.jpg", b"/3.jpg"]
        assert [failure.path for failure in opened.failures()] == [b"/bad.jpg"]
