"""Values in an index that no clipdex writes, with checksums that fit: one sentence, never a traceback."""

import json
import sqlite3

import numpy as np
import pytest
from conftest import unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex.index import Index, manifest, optimize_index, verify_index
from clipdex.index.manifest import Manifest
from clipdex.index.side import ann_file, int8
from clipdex.index.side.ann_file import ANN_FILE, HEADER_BYTES
from clipdex.index.side.int8 import INT8_FILE

pytestmark = pytest.mark.thin


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
        {"below_floor": 5},
        {"model": None},
        {"fingerprint": 7},
    ],
)
def test_a_manifest_with_a_field_of_another_kind_is_refused(path, fields):
    data = json.loads(Manifest.read(path).to_json()) | fields
    data.pop("crc32c")
    (path / "manifest.json").write_text(json.dumps(data | {"crc32c": manifest._crc32c(data)}))
    with pytest.raises(clipdex.IndexFormatError):
        Index.open(path)


def with_header(path, module, change):
    """Change a side file's header, and give it a checksum that fits."""
    raw = path.read_bytes()
    data = json.loads(raw[:HEADER_BYTES])
    data.pop("crc32c")
    change(data)
    text = json.dumps(data | {"crc32c": module._json_crc32c(data)}).encode()
    path.write_bytes(text.ljust(HEADER_BYTES) + raw[HEADER_BYTES:])


BAD = [None, True, -1, 1.5, "8", [8], {}, 1 << 63, 1 << 2000]


@pytest.mark.parametrize("field", ["rows", "embedding_dim", "block_rows", "basis_crc32c", "extents", "dtype"])
@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
def test_an_int8_header_with_a_field_of_another_kind_is_not_used(path, field, value):
    optimize_index(path)
    with_header(path / INT8_FILE, int8, lambda data: data.update({field: value}))
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
        with_header(with_ann / ANN_FILE, ann_file, lambda data, value=value: data.update({field: value}))
        with Index.open(with_ann) as index, pytest.raises(clipdex.IndexFault, match=ANN_FILE):
            AnnIndex.open(index)
        assert verify_index(with_ann).damages


@pytest.mark.parametrize("seed", range(5))
def test_what_faiss_cannot_read_is_one_sentence(with_ann, seed):
    from clipdex.ann import AnnIndex

    raw = bytearray((with_ann / ANN_FILE).read_bytes())
    rng = np.random.default_rng(seed)
    cut = bytes(raw[HEADER_BYTES : HEADER_BYTES + int(rng.integers(0, 60))])
    (with_ann / ANN_FILE).write_bytes(bytes(raw[:HEADER_BYTES]) + cut)

    def change(data):
        data.update(faiss_bytes=len(cut), faiss_crc32c=int(ann_file.google_crc32c.value(cut)))

    with_header(with_ann / ANN_FILE, ann_file, change)
    with Index.open(with_ann) as index, pytest.raises(clipdex.IndexDamaged, match="FAISS cannot read it"):
        AnnIndex.open(index)
