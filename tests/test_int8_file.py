"""vectors.int8: made by `optimize`, used where it fits, ignored where stale or damaged; never a wrong answer."""

import fcntl
import logging
import os

import numpy as np
import pytest
from conftest import present, unit_vectors

import clipdex
from clipdex.index import Index, IndexWriter, Manifest, Picture, compact_index, optimize_index, verify_index
from clipdex.index import opened as opened_module
from clipdex.index.rows import RowStore
from clipdex.index.side import int8_file as int8_module
from clipdex.index.side.int8_file import INT8_FILE, Int8File
from clipdex.search.readahead import in_memory

pytestmark = [pytest.mark.thin, pytest.mark.once]

DIM = 32
VECTORS = unit_vectors(9000, DIM)
QUERIES = unit_vectors(20, DIM, seed=1)


def append(path, first, end, vectors=VECTORS):
    pictures = [Picture(b"/%d" % i, 1, 2, bytes([i % 256] * 16), 3, 4) for i in range(first, end)]
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        writer.append(pictures, vectors[first:end])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(int8_module, "BLOCK_ROWS", 2048)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.clipdex"
    append(path, 0, 3000)
    append(path, 3000, 6000)
    return path


def answers(path):
    with Index.open(path) as index:
        return index.search(QUERIES, top_k=10)


def codes_of(path):
    with Index.open(path) as index:
        return index.codes()


def test_codes_change_nothing_in_the_answers(path):
    plain = answers(path)
    done = optimize_index(path)
    assert (done.rows, done.coded) == (6000, 6000)
    assert done.file_bytes == (path / INT8_FILE).stat().st_size
    assert codes_of(path).rows == 6000
    assert answers(path) == plain
    assert verify_index(path).damages == []


def test_the_files_of_an_index_are_known_to_be_in_memory(path):
    """Else each search reads ahead in what is there already, which takes longer than the search."""
    optimize_index(path)
    with Index.open(path) as index:
        assert np.isfinite(np.asarray(index.vectors)).all()
        codes = codes_of(path)
        assert np.asarray(codes.stored).sum() > 0
        assert in_memory(index.vectors) and in_memory(codes.stored)


def test_rows_added_since_are_found_and_coded_next_time(path):
    optimize_index(path)
    with Index.open(path) as index:
        index.search(QUERIES[:1])
        append(path, 6000, 9000)
        index.refresh()
        assert [hits[0].row for hits in index.search(VECTORS[[8999, 0]])] == [8999, 0]
        assert codes_of(path).rows == 6000
        before = answers(path)
        done = optimize_index(path)
        assert (done.rows, done.coded) == (9000, 9000 - 2 * 2048)
        assert index.search(QUERIES, top_k=10) == before
    assert codes_of(path).rows == 9000
    assert optimize_index(path).coded == 0


def test_an_index_that_has_grown_much_is_coded_anew(path):
    optimize_index(path)
    append(path, 6000, 9000)
    append(path, 0, 9000)  # the same paths: tombstones and new rows
    done = optimize_index(path)
    assert done.coded == done.rows == 18_000


def test_progress_is_told(path):
    seen = []
    optimize_index(path, lambda done, total: seen.append((done, total)))
    assert seen == [(2048, 6000), (4096, 6000), (6000, 6000)]


def test_a_compaction_drops_it(path):
    optimize_index(path)
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        writer.remove(b"/17")
    with Index.open(path) as index:
        index.search(QUERIES)
        compact_index(path)
        assert not (path / INT8_FILE).exists()
        index.refresh()
        assert index.search(VECTORS[18])[0][0].row == 17
        optimize_index(path)
        assert index.search(VECTORS[18])[0][0].row == 17


def test_that_of_another_index_is_not_used(path, tmp_path, caplog):
    other = tmp_path / "other.clipdex"
    append(other, 0, 6000, VECTORS[::-1])
    optimize_index(other)
    (path / INT8_FILE).write_bytes((other / INT8_FILE).read_bytes())
    plain = answers(path)
    assert "belongs to other rows" in caplog.text
    (path / INT8_FILE).unlink()
    assert answers(path) == plain


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_a_flipped_bit_is_found_and_makes_no_difference(path, seed, caplog):
    plain = answers(path)
    optimize_index(path)
    file = path / INT8_FILE
    data = bytearray(file.read_bytes())
    rng = np.random.default_rng(seed)
    with Index.open(path) as index:
        header = codes_of(path).header
        index.search(QUERIES[:1])
    # The header and the basis, what lies between blocks excepted, and any block.
    places = [
        rng.integers(0, 400),
        4096 + rng.integers(0, 8 * DIM),
        header.start_of(0) + rng.integers(0, 2048 * DIM),
    ]
    places.append(header.start_of(2) + (6000 - 4096) * DIM + rng.integers(0, 12 * (6000 - 4096)))
    data[places[seed % len(places)]] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert answers(path) == plain
    assert "not used" in caplog.text
    assert any(INT8_FILE in damage.what for damage in verify_index(path).damages)
    assert optimize_index(path).coded > 0
    assert verify_index(path).damages == []
    assert answers(path) == plain


@pytest.mark.parametrize("length", [0, 100, 4096, 5000, -1])
def test_a_cut_file_is_ignored(path, length, caplog):
    plain = answers(path)
    optimize_index(path)
    os.truncate(path / INT8_FILE, length if length >= 0 else (path / INT8_FILE).stat().st_size - 1)
    assert answers(path) == plain
    assert "not used" in caplog.text
    assert verify_index(path).damages
    optimize_index(path)
    assert verify_index(path).damages == []


def test_a_directory_in_its_place_is_ignored(path):
    (path / INT8_FILE).mkdir()
    assert answers(path)
    assert verify_index(path).damages


def test_a_warning_is_given_once(path, caplog):
    optimize_index(path)
    os.truncate(path / INT8_FILE, 5000)
    with Index.open(path) as index:
        for _ in range(3):
            index.search(QUERIES)
    assert caplog.text.count("not used") == 1


def test_two_do_not_write_it_at_once(path):
    building = path / f"{INT8_FILE}.building"
    with building.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(clipdex.IndexLocked, match="being optimized"):
            optimize_index(path)
    assert optimize_index(path).rows == 6000  # what a killed process left is taken over
    assert not building.exists()


def test_a_full_disk_leaves_the_index_as_it_was(path, monkeypatch):
    plain = answers(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(clipdex.IndexWriteError, match="No space left"):
            optimize_index(path)
    assert sorted(p.name for p in path.iterdir() if "int8" in p.name) == []
    assert answers(path) == plain


def compacted(path):
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        writer.remove(b"/17")
    compact_index(path)


@pytest.mark.parametrize("coded", [False, True], ids=["first", "again"])
@pytest.mark.parametrize(
    "name", ["RowStore.extents", "map_vectors", "Int8File.open"], ids=["commits", "vectors", "old codes"]
)
def test_a_compaction_between_opening_the_files_is_no_damage(path, monkeypatch, name, coded):
    """It comes just before the commits are read, the vectors mapped, or the old codes opened."""
    if coded:
        optimize_index(path)
    place = {
        "RowStore.extents": (RowStore, "extents"),
        "map_vectors": (opened_module, "map_vectors"),
        "Int8File.open": (Int8File, "open"),
    }[name]
    whole, first = getattr(*place), iter([True])

    def overtaken(*args):
        if next(first, False):
            compacted(path)
        return whole(*args)

    monkeypatch.setattr(*place, overtaken)
    try:
        assert optimize_index(path).rows == 5999
    except clipdex.IndexLocked as exc:
        assert "was compacted meanwhile" in str(exc)
        assert not list(path.glob("vectors.int8*"))
    monkeypatch.undo()
    optimize_index(path)
    assert verify_index(path).damages == []
    assert codes_of(path).rows == 5999
    assert answers(path)


def test_a_compaction_meanwhile_is_told_and_keeps_anothers_file(path):
    other = path / f"{INT8_FILE}.building"

    def overtaken(done, total):
        if done == 2048:
            compacted(path)
            other.write_bytes(b"another's")

    with pytest.raises(clipdex.IndexLocked, match="was compacted meanwhile"):
        optimize_index(path, overtaken)
    assert other.read_bytes() == b"another's"
    assert not (path / INT8_FILE).exists()


def test_an_empty_index_can_be_optimized(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)):
        pass
    assert optimize_index(path).rows == 0
    assert verify_index(path).damages == []
    append(path, 0, 100)
    assert answers(path)[0][0].row == answers(path)[0][0].row
    assert optimize_index(path).coded == 100


def test_the_first_bytes(tmp_path):
    """The layout of docs/index-format.md, by its own arithmetic."""
    path = tmp_path / "x.clipdex"
    append(path, 0, 3)
    optimize_index(path)
    raw = (path / INT8_FILE).read_bytes()
    assert raw[:28] == b'{"format": "clipdex-int8", "'
    assert len(raw) == 4096 + 8 * DIM + 128 + 64
    center, spread = np.frombuffer(raw, "<f4", 2 * DIM, 4096).reshape(2, DIM)
    start = 4096 + 8 * DIM
    code = np.frombuffer(raw, np.int8, 3 * DIM, start).reshape(3, DIM)
    scale, residual, length = np.frombuffer(raw, "<f4", 9, start + 128).reshape(3, 3)
    close = center + scale[:, None] * spread * code
    off = np.linalg.norm(close - VECTORS[:3].astype(np.float16), axis=1)
    assert (off <= residual * 1.0001 + 1e-6).all()
    assert (residual < 0.02).all()
    assert (length >= scale * np.linalg.norm(code.astype(float), axis=1)).all()


def test_the_command(path, run):
    pytest.importorskip("typer")
    status, out, _ = run("optimize", path)
    assert status == 0
    assert "6,000 rows have int8 codes, 6,000 of them made now" in out
    assert run("optimize", path)[1].count(" 0 of them") == 1
    status, _, err = run("optimize", path / "nothing")
    assert status == 1
    assert err.startswith("clipdex: ")


def test_it_is_opened_for_the_rows_it_has(path):
    optimize_index(path)
    with Index.open(path) as index:
        file = Int8File.require(path, index.manifest, index._store.extents())
    assert [present(file.block(i)).code.shape[0] for i in range(3)] == [2048, 2048, 1904]
