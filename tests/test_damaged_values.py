"""Values in an index that no clipdex writes, with checksums that fit: one sentence, never a traceback."""

import json
import sqlite3
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest
from conftest import present, unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex.apps.duplicates import find_duplicates
from clipdex.index import (
    Failure,
    Index,
    IndexWriter,
    Picture,
    compact_index,
    optimize_index,
    verify_index,
)
from clipdex.index.manifest import Manifest, json_crc32c
from clipdex.index.side.ann_file import ANN_FILE, HEADER_BYTES
from clipdex.index.side.int8_file import INT8_FILE

pytestmark = [pytest.mark.thin, pytest.mark.once]


@pytest.fixture
def path(tmp_path):
    return drawn_index(tmp_path / "x.clipdex")


def written(path, statement):
    """Run SQL on tables that for the moment do not say of which kinds their columns are."""
    loose = "replace(replace(replace(sql, ') STRICT,', ')'), ') STRICT', ')'), 'NOT NULL', '')"
    tables = of(path, "SELECT sql, name FROM sqlite_master WHERE type = 'table'")
    of(path, f"UPDATE sqlite_master SET sql = {loose} WHERE type = 'table'")
    of(path, statement)
    for table in tables:
        of(path, "UPDATE sqlite_master SET sql = ? WHERE name = ?", table)


def of(path, statement, parameters=()):
    db = sqlite3.connect(path / "rows.sqlite")
    db.execute("PRAGMA writable_schema = ON")
    found = db.execute(statement, parameters).fetchall()
    db.commit()
    db.close()
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE extents SET row_count = -5",
        "UPDATE extents SET row_count = 9223372036854775807",
        "UPDATE extents SET first_row = 9223372036854775807",
        "UPDATE extents SET first_row = -10",
        "UPDATE extents SET row_count = NULL",
        "UPDATE extents SET row_count = X'00ff'",
        "UPDATE extents SET row_count = 'forty'",
        "UPDATE extents SET row_count = 1e300",
        "UPDATE rows SET row = -1, deleted_at = 5 WHERE row = 3",
        "UPDATE rows SET row = 9223372036854775807, deleted_at = 5 WHERE row = 3",
        "DELETE FROM rows WHERE row = 3",
        "UPDATE rows SET path = 'a text' WHERE row = 3",
        "UPDATE rows SET path = NULL WHERE row = 3",
        "UPDATE rows SET path = 7 WHERE row = 3",
        "UPDATE rows SET width = X'00' WHERE row = 3",
        "UPDATE rows SET size = 'large' WHERE row = 3",
        "UPDATE rows SET mtime_ns = NULL WHERE row = 3",
        "UPDATE metadata SET json = X'7b7d' WHERE row = 3",
        "UPDATE metadata SET json = '[1]' WHERE row = 3",
        "UPDATE metadata SET json = '{' WHERE row = 3",
        f"UPDATE metadata SET json = '{'[' * 100_000}' WHERE row = 3",
    ],
)
def test_a_value_that_no_record_has_is_one_sentence_and_damage(path, statement):
    written(path, statement)
    with (
        pytest.raises(clipdex.IndexFault, match=r"damaged|cut|no record|not a JSON|cannot be read"),
        Index.open(path) as index,
    ):
        index.search(unit_vectors(1, 8), 40)
    assert verify_index(path).damages


@pytest.mark.parametrize("row", [-1, 40, 1 << 62])
def test_a_dead_row_that_is_not_among_the_committed_ones_is_refused_at_once(path, row):
    of(
        path,
        "INSERT INTO rows SELECT ?, X'00', size, mtime_ns, content_hash, width, height, 5, crc32c FROM rows "
        "WHERE row = 3",
        (row,),
    )
    with pytest.raises(clipdex.IndexDamaged, match="its commit record is damaged"):
        Index.open(path)
    with pytest.raises(clipdex.IndexDamaged, match="its commit record is damaged"):
        IndexWriter(path)
    assert verify_index(path).damages


@pytest.mark.parametrize(
    "fields",
    [
        {"format_version": True},
        {"format_version": "1"},
        {"embedding_dim": True},
        {"embedding_dim": 8.0},
        {"embedding_dim": -8},
        {"embedding_dim": 1 << 63},
        {"dtype": ["float16"]},
        {"dtype": {}},
        {"icc": ["off"]},
        {"decode": ["exact"]},
        {"decode": "faster"},
        {"format_version": 4},
        {"below_floor": 5},
        {"model": None},
        {"fingerprint": 7},
    ],
)
def test_a_manifest_with_a_field_of_another_kind_is_refused(path, fields):
    data = json.loads(Manifest.read(path).to_json()) | fields
    data.pop("crc32c")
    (path / "manifest.json").write_text(json.dumps(data | {"crc32c": json_crc32c(data)}))
    with pytest.raises(clipdex.IndexFormatError):
        Index.open(path)


def with_header(path, change):
    """Change a side file's header, and give it a checksum that fits."""
    raw = path.read_bytes()
    data = json.loads(raw[:HEADER_BYTES])
    data.pop("crc32c")
    change(data)
    text = json.dumps(data | {"crc32c": json_crc32c(data)}).encode()
    path.write_bytes(text.ljust(HEADER_BYTES) + raw[HEADER_BYTES:])


BAD: list[Any] = [None, True, -1, 1.5, "8", [8], {}, 1 << 63, 1 << 2000]


@pytest.mark.parametrize("field", ["rows", "embedding_dim", "block_rows", "basis_crc32c", "extents", "dtype"])
@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
def test_an_int8_header_with_a_field_of_another_kind_is_not_used(path, field, value):
    optimize_index(path)
    with_header(path / INT8_FILE, lambda data: data.update({field: value}))
    with Index.open(path) as index:
        assert index.codes() is None
        assert len(index.search(unit_vectors(1, 8), 40)[0]) == 40
    assert verify_index(path).damages


def test_a_header_of_deep_json_is_damage(path):
    optimize_index(path)
    for name in (INT8_FILE, ANN_FILE):
        (path / name).write_bytes(b'{"a":' * 600 + b"[" * 1000)
    assert len(verify_index(path).damages) == 2


@pytest.fixture
def with_ann(path):
    pytest.importorskip("faiss")
    from clipdex.ann import build_ann

    build_ann(path)
    return path


@pytest.mark.parametrize("field", ["rows", "faiss_bytes", "faiss_crc32c", "parameters", "recall", "kind", "more"])
def test_an_ann_header_with_a_field_of_another_kind_is_one_sentence(with_ann, field):
    from clipdex.ann import AnnIndex

    whole = (with_ann / ANN_FILE).read_bytes()
    for value in BAD:
        if field == "recall" and value is None:
            continue  # was not measured
        (with_ann / ANN_FILE).write_bytes(whole)
        with_header(with_ann / ANN_FILE, lambda data, value=value: data.update({field: value}))
        with Index.open(with_ann) as index, pytest.raises(clipdex.IndexFault, match=ANN_FILE):
            AnnIndex.open(index)
        assert verify_index(with_ann).damages


@pytest.mark.parametrize("seed", range(5))
def test_what_faiss_cannot_read_is_one_sentence(with_ann, seed, monkeypatch):
    from clipdex.ann import AnnIndex, ann_index

    if seed:  # what is not seen before FAISS reads it, FAISS sees
        monkeypatch.setattr(ann_index, "require_layout", lambda *arguments: None)

    raw = bytearray((with_ann / ANN_FILE).read_bytes())
    rng = np.random.default_rng(seed)
    cut = bytes(raw[HEADER_BYTES : HEADER_BYTES + int(rng.integers(0, 60))])
    (with_ann / ANN_FILE).write_bytes(bytes(raw[:HEADER_BYTES]) + cut)

    def change(data):
        data.update(faiss_bytes=len(cut), faiss_crc32c=int(google_crc32c.value(cut)))

    with_header(with_ann / ANN_FILE, change)
    with Index.open(with_ann) as index, pytest.raises(clipdex.IndexDamaged, match="FAISS cannot read it"):
        AnnIndex.open(index)


# Values of another kind in a record, whether or not its checksum was made for them.
ILL = {
    "size": ("1.5", "'large'", "NULL", "X'00'"),
    "mtime_ns": ("1e300", "CAST(X'ff' AS TEXT)", "NULL"),
    "content_hash": ("5", "2.5", "CAST(X'ff00' AS TEXT)", "NULL"),
    "width": ("0.5", "X'00'"),
    "crc32c": ("1.5", "'sum'", "NULL", "X'00'"),
}
KEY = b"/p/odd/003.jpg"


@pytest.mark.parametrize("column, value", [(column, value) for column, values in ILL.items() for value in values])
def test_a_commit_over_a_row_with_a_value_of_another_kind_goes_through_and_it_stays_damaged(path, column, value):
    written(path, f"UPDATE rows SET {column} = {value} WHERE row IN (3, 4)")
    touched = Picture(b"/p/even/004.jpg", 7, 8, (4).to_bytes(16, "big"), 50, 20)
    with IndexWriter(path) as writer:
        assert writer.known(KEY) is None
        writer.append([Picture(KEY, 1, 2, bytes(16), 3, 4)], unit_vectors(1, 8))
        writer.touch(touched)
    assert {damage.rows for damage in verify_index(path).damages} == {(3, 4), (4, 5)}
    with IndexWriter(path) as writer:
        assert present(writer.known(KEY)).size == 1
        assert writer.known(touched.path) is None
        writer.append([touched], unit_vectors(1, 8))
    compact_index(path)
    assert verify_index(path).damages == []
    with Index.open(path) as index:
        assert len(index.search(unit_vectors(1, 8), 50)[0]) == 40


def test_a_path_that_its_index_does_not_have_is_damage_that_a_commit_names(path):
    database = path / "rows.sqlite"
    raw = database.read_bytes()
    places = [at for at in range(len(raw)) if raw.startswith(KEY, at)]
    assert len(places) == 2  # in the table, and in its index
    said = []
    for at in places:
        changed = bytearray(raw)
        changed[at + 5] ^= 1
        database.write_bytes(changed)
        try:
            with IndexWriter(path) as writer:
                writer.append([Picture(KEY, 1, 2, bytes(16), 3, 4)], unit_vectors(1, 8))
        except clipdex.IndexDamaged as exc:
            said.append(str(exc))
            with Index.open(path) as index:
                assert len(index) == 40
        for small in path.glob("rows.sqlite-*"):
            small.unlink()
    (sentence,) = said
    assert "the commit met damage" in sentence
    assert "clipdex compact --drop-damaged" in sentence


def test_what_a_commit_finds_malformed_is_made_anew_without_it(path):
    database = path / "rows.sqlite"
    raw = bytearray(database.read_bytes())
    for at in [at for at in range(len(raw)) if raw.startswith(KEY, at)]:
        changed = bytearray(raw)
        changed[at + 5] ^= 1
        database.write_bytes(changed)
        compact_index(path, drop_damaged=True)
        with IndexWriter(path) as writer:
            writer.append([Picture(KEY, 1, 2, bytes(16), 3, 4)], unit_vectors(1, 8))
        assert verify_index(path).damages == []


def fitting(path, table, key, condition):
    """Give the records of a table checksums that fit what they hold now."""
    from clipdex.index.checksum import record_crc32c
    from clipdex.index.row_reader import CHECKED
    from clipdex.index.schema import readable

    db = sqlite3.connect(path / "rows.sqlite")
    db.text_factory = readable
    for record in db.execute(f"SELECT {CHECKED[table][1]} FROM {table} WHERE {condition}").fetchall():
        sum_ = record_crc32c(*record)
        db.execute(f"UPDATE {table} SET crc32c = ? WHERE {key} = ?", (sum_, record[0]))
    db.commit()
    db.close()


READS = {
    "failures": lambda index: index.failures(),
    "counts": lambda index: index.info(),
    "times": lambda index: index.info(),
    "known": lambda index: index.known(KEY),
    "known failure": lambda index: index.known(b"/bad.jpg"),
    "row": lambda index: index.row("/p/odd/003.jpg"),
    "contents": lambda index: index.contents(0, 40),
    "paths": lambda index: index.live_paths(),
    "pictures": lambda index: index.pictures([3]),
    "extents": lambda index: index.extents(),
}


@pytest.mark.parametrize(
    "reads, statement",
    [
        ("failures", "UPDATE failures SET path = 'text'"),
        ("failures", "UPDATE failures SET reason = X'00'"),
        ("failures", "UPDATE failures SET detail = NULL"),
        ("failures", "UPDATE failures SET size = 1.5"),
        ("failures", "UPDATE failures SET mtime_ns = 'x'"),
        ("failures", "UPDATE failures SET failed_at = 'x'"),
        ("counts", "UPDATE failures SET reason = X'00'"),
        ("counts", "UPDATE failures SET reason = NULL"),
        ("times", "UPDATE extents SET committed_at = 'x'"),
        ("times", "UPDATE extents SET committed_at = 1.5"),
        ("known", "UPDATE rows SET size = 'x' WHERE row = 3"),
        ("known", "UPDATE rows SET mtime_ns = 1.5 WHERE row = 3"),
        ("known", "UPDATE rows SET content_hash = 'x' WHERE row = 3"),
        ("row", "UPDATE rows SET content_hash = 5 WHERE row = 3"),
        ("known failure", "UPDATE failures SET mtime_ns = X'00'"),
        ("contents", "UPDATE rows SET width = 1.5 WHERE row = 3"),
        ("paths", "UPDATE rows SET path = 'x' WHERE row = 3"),
        ("pictures", "UPDATE rows SET height = X'00' WHERE row = 3"),
        ("extents", "UPDATE extents SET vectors_crc32c = 1.5"),
    ],
)
def test_each_reading_names_a_value_of_another_kind_as_damage(path, reads, statement):
    with IndexWriter(path) as writer:
        writer.fail(Failure(b"/bad.jpg", "truncated", "half of it is missing", 5, 6, 7))
    written(path, statement)
    with (
        Index.open(path) as index,
        pytest.raises(clipdex.IndexDamaged, match=r"damaged; (see  clipdex verify|build)"),
    ):
        READS[reads](index)
    assert verify_index(path).damages


@pytest.mark.parametrize(
    "statement, paths",
    [
        ("UPDATE failures SET path = 'text'", []),
        ("UPDATE failures SET reason = X'00', size = NULL", [b"/bad.jpg"]),
    ],
)
def test_the_paths_of_damaged_lines_are_still_known(path, statement, paths):
    with IndexWriter(path) as writer:
        writer.fail(Failure(b"/bad.jpg", "truncated", "half of it is missing", 5, 6, 7))
    written(path, statement)
    with Index.open(path) as index:
        assert index.failed_paths() == paths
    with IndexWriter(path) as writer:
        assert writer.failed_paths() == paths
        assert writer.failures(damaged=False) == []


@pytest.mark.parametrize(
    "table, key, statement",
    [
        ("rows", "row", "UPDATE rows SET size = 'large' WHERE row = 3"),
        ("rows", "row", "UPDATE rows SET content_hash = 'x' WHERE row = 3"),
        ("metadata", "row", "UPDATE metadata SET json = X'7b7d' WHERE row = 3"),
        ("failures", "path", "UPDATE failures SET detail = X'00'"),
        ("phashes", "row", "UPDATE phashes SET phash = 'x'"),
        ("phashes", "row", "UPDATE phashes SET phash = X'0011'"),
        ("ctimes", "row", "UPDATE ctimes SET ctime_ns = 'x'"),
        ("failure_ctimes", "path", "UPDATE failure_ctimes SET ctime_ns = X'00'"),
    ],
)
def test_a_checksum_that_fits_a_value_of_another_kind_does_not_make_it_sound(path, table, key, statement):
    with IndexWriter(path) as writer:
        writer.fail(Failure(b"/bad.jpg", "truncated", "half of it is missing", 5, 6, 7))
        writer.append([Picture(KEY, 1, 2, b"c" * 16, 3, 4, phash=bytes(158), ctime_ns=5)], unit_vectors(1, 8))
    assert verify_index(path).damages == []
    written(path, statement)
    tables = of(path, "SELECT sql, name FROM sqlite_master WHERE type = 'table'")
    of(path, "UPDATE sqlite_master SET sql = replace(sql, ') STRICT', ')') WHERE type = 'table'")
    fitting(path, table, key, "1")
    for each in tables:
        of(path, "UPDATE sqlite_master SET sql = ? WHERE name = ?", each)
    assert any(f"of {table} is damaged" in damage.what for damage in verify_index(path).damages)
    with Index.open(path) as index:
        assert table != "phashes" or index.signatures(0, 41) == []
        assert table != "phashes" or find_duplicates(index, "near") is not None


def laid_out(kind):
    """(the bytes of a FAISS index, how many rows, their width)."""
    faiss = pytest.importorskip("faiss")
    rows, dim = 300, 8
    if kind == "ivf_pq":
        made = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, 4, 2, 8, faiss.METRIC_INNER_PRODUCT)
        made.train(unit_vectors(rows, dim))
    else:
        made = faiss.IndexHNSWFlat(dim, 4, faiss.METRIC_INNER_PRODUCT)
    made.add(unit_vectors(rows, dim))
    writer = faiss.VectorIOWriter()
    faiss.write_index(made, writer, faiss.IO_FLAG_SKIP_STORAGE if kind == "hnsw" else 0)
    return faiss.vector_to_array(writer.data), rows, dim


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
def test_no_byte_of_a_faiss_file_makes_it_read_or_take_what_is_not_there(kind, capfd):
    faiss = pytest.importorskip("faiss")
    from clipdex.ann.layout import require_layout

    blob, rows, dim = laid_out(kind)
    require_layout(blob, kind, rows, dim)
    for length in (*range(0, 200), *range(200, len(blob), 97), len(blob) - 1):
        with pytest.raises(ValueError):
            require_layout(blob[:length], kind, rows, dim)
    with pytest.raises(ValueError, match="1 bytes too many"):
        require_layout(np.append(blob, np.uint8(0)), kind, rows, dim)
    refused = 0
    for at in (*range(0, 300), *range(300, len(blob), 41)):
        changed = blob.copy()
        changed[at] ^= 0x40  # in the highest byte of a count, 2^62
        try:
            require_layout(changed, kind, rows, dim)
        except ValueError:
            refused += 1
            continue
        try:
            found = faiss.deserialize_index(changed)
        except RuntimeError:  # as of a bool that is none: one sentence, too
            continue
        assert (found.ntotal, found.d) == (rows, dim)
        if kind == "ivf_pq":
            found.search(unit_vectors(5, dim), 10)
    assert refused > 50


def words_of(blob, dtype, start):
    (count,) = np.frombuffer(blob[start : start + 8], np.uint64)
    return start + 8, int(count), start + 8 + int(count) * np.dtype(dtype).itemsize


def test_a_graph_whose_links_lead_out_of_it_is_refused():
    from clipdex.ann.layout import require_layout

    blob, rows, dim = laid_out("hnsw")
    _, _, at = words_of(blob, "f8", 37)
    starts, _, at = words_of(blob, "i4", at)
    levels, _, at = words_of(blob, "i4", at)
    offsets, _, at = words_of(blob, "u8", at)
    links, count, at = words_of(blob, "i4", at)
    entry = at
    level_of = np.frombuffer(blob[levels : levels + 4 * rows], np.int32)
    first = np.frombuffer(blob[offsets : offsets + 8 * rows], np.uint64)
    high, low = int(np.argmax(level_of)), int(np.argmin(level_of))
    upper = int(first[high]) + int(np.frombuffer(blob[starts + 4 : starts + 8], np.int32)[0])
    assert level_of[high] > 1 == level_of[low]
    for place, kind, value, words in [
        (links, "<i4", rows, "a link to a row"),
        (links + 4 * (count - 1), "<i4", -2, "a link to a row"),
        (links + 4 * upper, "<i4", low, "not on its level"),
        (levels, "<i4", 0, "level is out of range"),
        (levels, "<i4", 1000, "level is out of range"),
        (offsets + 8, "<u8", 1 << 60, "wrong offsets"),
        (offsets + 8 * rows, "<u8", count + 1, "wrong offsets"),
        (starts, "<i4", 5, "levels out of order"),
        (starts + 4, "<i4", -5, "levels out of order"),
        (entry, "<i4", rows, "no valid entry point"),
        (entry, "<i4", -1, "no valid entry point"),
        (entry + 4, "<i4", 99, "no valid entry point"),
    ]:
        changed = blob.copy()
        new = np.array([value], kind).view(np.uint8)
        changed[place : place + len(new)] = new
        with pytest.raises(ValueError, match=words):
            require_layout(changed, "hnsw", rows, dim)


@pytest.mark.filterwarnings("ignore")
def test_lists_that_hold_more_rows_than_there_are_are_refused():
    from clipdex.ann.layout import require_layout

    blob, rows, dim = laid_out("ivf_pq")
    sizes = bytes(blob).index(b"ilar") + 32
    first = int(np.frombuffer(blob[sizes : sizes + 8], np.uint64)[0])
    for size in (first + 1, rows + 1, 1 << 40, (1 << 64) - 1):
        changed = blob.copy()
        changed[sizes : sizes + 8] = np.array([size], np.uint64).view(np.uint8)
        with pytest.raises(ValueError, match="more or fewer rows in its lists"):
            require_layout(changed, "ivf_pq", rows, dim)


def test_a_count_that_would_fill_the_memory_is_one_sentence(with_ann):
    from clipdex.ann import AnnIndex

    raw = bytearray((with_ann / ANN_FILE).read_bytes())
    raw[HEADER_BYTES + 37 : HEADER_BYTES + 45] = (1 << 36).to_bytes(8, "little")  # doubles
    (with_ann / ANN_FILE).write_bytes(raw)
    summed = int(google_crc32c.value(bytes(raw[HEADER_BYTES:])))
    with_header(with_ann / ANN_FILE, lambda data: data.update(faiss_crc32c=summed))
    with Index.open(with_ann) as index, pytest.raises(clipdex.IndexDamaged, match="its end is missing"):
        AnnIndex.open(index)


def test_an_effort_in_a_header_takes_no_more_room_than_the_rows_do(with_ann):
    from clipdex.ann import AnnIndex

    def change(data):
        data["parameters"]["effort"] = (1 << 31) - 1

    with_header(with_ann / ANN_FILE, change)
    with Index.open(with_ann) as index:
        ann = AnnIndex.open(index)
        asked = []
        ann._faiss = SimpleNamespace(SearchParametersHNSW=lambda efSearch: asked.append(efSearch))
        ann._index = SimpleNamespace(search=lambda *arguments, params: (None, []))
        ann._candidates(unit_vectors(1, 8), 5, np.ones(40, bool), 40)
    assert asked == [40]
