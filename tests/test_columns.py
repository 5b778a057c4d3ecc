"""rows.columns: made by `optimize`; conditions evaluated on it find exactly what SQLite finds."""

import dataclasses
import itertools
import json
import os
import random
import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from columns_and_sqlite import find_the_same, found, hide_columns
from conftest import unit_vectors

from clipdex.base.errors import InvalidArgument
from clipdex.base.exif import Exif
from clipdex.index import (
    Index,
    IndexWriter,
    Manifest,
    Picture,
    column_where,
    compact_index,
    optimize_index,
    verify_index,
)
from clipdex.index import where as where_module
from clipdex.index.facets import Facets
from clipdex.index.side import column_file
from clipdex.index.side.column_file import COLUMNS_FILE, HEADER_BYTES, ColumnHeader

pytestmark = [pytest.mark.thin, pytest.mark.once]

DIM = 4
AGES = itertools.count(1_600_000_000)
ROWS = 400
BIG = 9_007_199_254_740_993  # float64 does not have it
SIZES = [0, 1, 5, 5000, 2**31, 2**53, BIG, 2**62, 2**63 - 1]
NS = 10**9
TIMES = [
    -(2**63) + 1,
    -5 * NS - 1,
    -NS,
    -1,
    0,
    1,
    NS - 1,
    NS,
    1_600_000_000 * NS,
    1_600_000_000 * NS + 7,
    2**63 - 1,
]
METADATA = [
    *(
        None,
        '{"n":5,"x":1.5,"m":2,"t":"a","mixed":1,"big":9007199254740993,"p":true}',
        '{"n":-3,"x":2.0,"m":2.5,"t":5}',
    ),
    *(
        '{"n":null,"x":9007199254740992.0,"mixed":"1"}',
        '{"n":7,"m":9,"deep":{"n":1},"é":4}',
        '{"n":0,"big":0.5,"p":false,"x":-0.0}',
    ),
]


def picture(i, rng):
    exif = None
    if rng.random() < 0.6:
        place = rng.random() < 0.7
        exif = Exif(
            latitude=48.1 + i / 1000 if place else None,
            longitude=-11.6 - i / 999 if place else None,
            rating=rng.choice([None, -1, 0, 3, 5]),
            camera=rng.choice([None, "Pixel 7"]),
        )
    return Picture(
        b"/%d.jpg" % i,
        rng.choice(SIZES),
        rng.choice(TIMES),
        i.to_bytes(16, "big"),
        rng.choice([1, 127, 128, 640, 70_000]),
        rng.choice([1, 127, 640, 4000]),
        rng.choice(METADATA),
        exif=exif,
    )


def settle(path):
    """Make rows.sqlite older than the two seconds within which two states may have the same time."""
    os.utime(path / "rows.sqlite", ns=(1, next(AGES) * NS))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "x.clipdex"
    rng = random.Random(0)
    vectors = unit_vectors(ROWS, DIM)
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        for start in range(0, ROWS, 150):
            some = [picture(i, rng) for i in range(start, min(start + 150, ROWS))]
            writer.append(some, vectors[start : start + 150])
            writer.commit()
    settle(path)
    optimize_index(path)
    return path


@pytest.fixture
def path(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "x.clipdex"))  # with the times of the files


def hide_numbers_from_sql(index):
    """Refuse to read the range of a number in SQL."""
    selected = index.selected

    def refuse(sql, values, check):
        assert "min(width)" not in sql
        assert "min(modified)" not in sql
        return selected(sql, values, check)

    index.selected = refuse


class Counted:
    """How many conditions were evaluated on columns."""

    def __init__(self, monkeypatch):
        self.done, self.asked = 0, 0
        rows_by_columns = column_where.rows_by_columns

        def count(*args):
            found = rows_by_columns(*args)
            self.asked += 1
            self.done += found is not None
            return found

        monkeypatch.setattr(where_module, "rows_by_columns", count)


@pytest.fixture
def by_columns(monkeypatch):
    return Counted(monkeypatch)


def both(path, condition, params=None):
    """The rows that a condition finds, asked with the columns and without."""
    return [found(path, condition, params, by_columns=each) for each in (True, False)]


COLUMNS = [
    *("width", "height", "size", "mtime", "modified", "latitude", "longitude", "rating", "Width", "camera", "row"),
    *("meta ->> 'n'", "meta->>'x'", "meta ->> 'm'", "meta ->> 't'", "meta ->> 'mixed'", "meta ->> 'big'"),
    *("meta ->> 'p'", "meta ->> 'é'", "meta ->> 'none'", "path"),
]
CONSTANTS = [
    *(
        "0",
        "1",
        "5",
        "127",
        "128",
        "640",
        "-1",
        "- 3",
        "+5",
        "70000",
        "1e300",
        "-1e300",
        "9e999",
        "-9e999",
        "NULL",
    ),
    *("5.0", "4.5", "-0.0", ".5", "5.", "48.2", "-11.7", "1600000000", "1600000000.0", "9223372036854775807"),
    *("9007199254740992", "9007199254740993", "9007199254740993.0", "9223372036854775808", "1e19", "2147483648"),
    *("'5'", "'5.0'", "'a'", "'2020-09-13 12:26:40'", "'2020'", "'1969-12-31 23:59:59'", "''", "'9'", "'it''s'"),
    *("'1970-01-01 00:00:00'", "x'05'", ":w", ":f", ":t", ":none", ":big", "0x10", "true"),
]
PARAMS = {"w": 640, "f": 127.5, "t": "2020-09-13", "none": None, "big": BIG}


def term(rng):
    """Draw some arithmetic."""
    pieces = [
        *COLUMNS[:4],
        *COLUMNS[5:8],
        *COLUMNS[11:14],
        "0",
        "2",
        "- 3",
        "1.5",
        "1000000",
        ":f",
        "NULL",
        "camera",
    ]
    found = rng.choice(pieces[:-2] if rng.random() < 0.95 else pieces)
    for _ in range(rng.randrange(1, 3)):
        found += f" {rng.choice(['+', '-', '*', '/'])} {rng.choice(pieces[:-2] if rng.random() < 0.9 else pieces)}"
    return found


def drawn(rng, depth=0):
    """Draw a condition."""
    kind = rng.random()
    if depth < 4 and kind < 0.4:
        return f"{drawn(rng, depth + 1)} {rng.choice(['AND', 'or', 'OR'])} {drawn(rng, depth + 1)}"
    if depth < 4 and kind < 0.5:
        return f"NOT {drawn(rng, depth + 1)}"
    if depth < 4 and kind < 0.6:
        return f"({drawn(rng, depth + 1)})"
    # Mostly of columns and constants that may be evaluated on arrays, so that most conditions are, whole.
    column = rng.choice(COLUMNS[:10] if rng.random() < 0.9 else COLUMNS)
    constants = CONSTANTS if rng.random() < 0.3 else CONSTANTS[:30]
    if column == "modified" and rng.random() < 0.9:
        constants = ["'2020-09-13 12:26:40'", "'2020'", "'1969-12-31 23:59:59'", "''", "'9'", ":t", "'1677'"]
    one, other, operator = (
        rng.choice(constants),
        rng.choice(constants),
        rng.choice(["<", "<=", ">", ">=", "=", "==", "<>", "!=", "IS"]),
    )
    negated = rng.choice(["", "NOT "])
    return rng.choice(
        [
            f"{column} {operator} {one}",
            f"{column} {operator} {one}",
            f"{one} {operator} {column}",
            f"{column}{operator} {rng.choice(COLUMNS)}" if operator != "IS" else f"{column} IS {one}",
            f"{term(rng)} {operator} {rng.choice([one, column, term(rng)])}",
            f"{column} {negated}BETWEEN {one} AND {other}",
            f"{column} {negated}IN ({one}, {other},{rng.choice(constants)})",
            f"{column} IS {negated}NULL",
            f"{column} {rng.choice(['ISNULL', 'NOTNULL', 'NOT NULL'])}",
        ]
    )


def differential(path, by_columns, seed, count):
    find_the_same(path, drawn, PARAMS, seed, count)
    assert by_columns.asked > count * 0.99  # some are drawn twice
    assert by_columns.done > count / 3


def test_random_conditions_find_what_sqlite_finds(path, by_columns):
    differential(path, by_columns, 0, 120)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_random_conditions_find_what_sqlite_finds(path, by_columns, seed):
    differential(path, by_columns, seed, 5_000)


def usable(path):
    with Index.open(path) as index:
        file = index.columns()
        return set() if file is None else set(file.names())


def test_optimize_writes_the_columns_that_are_of_numbers_or_texts_and_another_run_keeps_them(path):
    # SQLite makes 1 and 0 of what is true or false; "t" and "mixed" have both, "big" cannot be float64.
    keys = {"meta.n", "meta.x", "meta.m", "meta.p", "meta.é"}
    of_rows = {"width", "height", "size", "mtime_ns", "latitude_e7", "longitude_e7", "rating"}
    texts = {"path", "folder", "taken", "taken_offset", "make", "camera", "lens", "keywords"}
    assert usable(path) == of_rows | keys | texts
    before = (path / COLUMNS_FILE).stat().st_ino
    done = optimize_index(path)
    assert (path / COLUMNS_FILE).stat().st_ino == before
    assert done.column_bytes == (path / COLUMNS_FILE).stat().st_size


def test_what_is_not_plain_goes_to_sqlite(path, by_columns):
    for condition in (
        "width % 2 = 0",
        "name > '7'",
        "width > '5'",
        "camera = 5",
        "path LIKE 5",
        "path LIKE '%7%' ESCAPE '7'",
        "glob('*7*', path)",
        "title LIKE '%a%'",
        "width + (1) > 5",
        "width & 1 = 1",
        "size * 9223372036854775807 > 5",
        "width * 9e307 > 5",
    ):
        one, other = both(path, condition)
        assert one == other, condition
    assert (by_columns.asked, by_columns.done) == (12, 0)


CERTAIN = [
    "width NOT IN (1, NULL) OR height IN (127, NULL)",
    "NOT (width IN (5, NULL)) OR rating NOT IN (0, 3)",
    "rating NOT BETWEEN 0 AND NULL",
    "meta ->> 'x' >= 9007199254740992",
    "meta ->> 'x' IN (1.5, 9007199254740992)",
    "size = 9007199254740993",
    "size > 9007199254740992.0",
    "size >= 9.3e18 OR size <= -9.3e18",
    "width < height AND NOT latitude > longitude",
    "width * height > 100000 AND width>2*height",
    "width / height >= 2 OR width * 1.0 / height < 0.7",
    "- 7 / rating = -2 OR NOT 7 / rating > 2",
    "width - height + 1 = 1 AND 1.5 < meta ->> 'n' / 2.0",
    "width - 1 < meta ->> 'x' OR height > width * 1.5",
    "meta ->> 'n' * 2 - width > -500 AND latitude * 2 > 96.5",
    "1 + 1 = width",
]
UNCERTAIN = [
    "meta ->> 'm' / 2 = 1",
    "size - 1 < meta ->> 'x'",
    "size * 2 > 5",
    "meta ->> 'x' = 9007199254740993",
    "meta ->> 'x' IN (9007199254740993)",
    "size > 9223372036854775808",
]


def test_edges_of_null_and_of_float64_are_as_in_sqlite(path, by_columns):
    for condition in CERTAIN + UNCERTAIN:
        one, other = both(path, condition)
        assert one == other, condition
    assert by_columns.done == len(CERTAIN)


def test_a_condition_that_is_too_deep_for_sqlite_is_refused_with_columns(path):
    refused = 0
    for depth in range(190, 204):
        said = []
        for without in (False, True):
            with Index.open(path) as index:
                if without:
                    hide_columns(index)
                try:
                    said.append(index.where(" AND ".join(["width > 1"] * depth)).tolist())
                except InvalidArgument as exc:
                    said.append(str(exc))
                    refused += 1
        assert said[0] == said[1], depth
    assert 0 < refused < 28


def test_rows_added_since_are_asked_of_sqlite(path, by_columns):
    rng = random.Random(1)
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        writer.append([picture(i, rng) for i in range(ROWS, ROWS + 50)], unit_vectors(50, DIM))
        writer.commit()
    one, other = both(path, "width > 600 AND height <> 1")
    assert one == other
    assert max(one) >= ROWS
    assert by_columns.done == 1
    assert usable(path) == {"width", "height"}  # a commit may have changed the others


def test_a_file_that_was_touched_is_found_by_its_new_size_and_time(path, by_columns):
    with Index.open(path) as index:
        row = index.where("width > 0")[0].item()
        old = index.picture(row)
        touched = dataclasses.replace(old, size=77, mtime_ns=88 * NS, metadata='{"n":99}')
        condition = "size = 77 AND mtime = 88 AND modified = '1970-01-01 00:01:28' AND meta ->> 'n' = 99"
        assert index.where(condition).tolist() == []
        assert by_columns.done == 2
        with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
            writer.touch(touched)
            writer.commit()
            index.refresh()
            assert index.where(condition).tolist() == [row]  # while it is in SQLite's WAL
        index.refresh()
        assert index.where(condition).tolist() == [row]
    assert both(path, condition) == [[row], [row]]
    with IndexWriter(path):
        pass  # the last to close it merges the WAL
    settle(path)
    assert both(path, condition) == [[row], [row]]
    optimize_index(path)
    by_columns.done = 0
    assert both(path, condition) == [[row], [row]]
    assert by_columns.done == 1


def test_a_state_that_the_next_commit_might_look_like_is_not_trusted(path):
    os.utime(path / "rows.sqlite")  # changed just now
    (path / COLUMNS_FILE).unlink()
    optimize_index(path)
    assert usable(path) == {"width", "height"}
    settle(path)
    optimize_index(path)
    assert "size" in usable(path)


def test_the_log_that_a_reader_keeps_from_being_merged_is_merged_by_optimize(path, monkeypatch):
    monkeypatch.setattr(column_file, "SETTLED_S", 0)
    with Index.open(path) as index:
        with IndexWriter(path) as writer:
            writer.touch(dataclasses.replace(index.picture(1), size=77))
        assert (path / "rows.sqlite-wal").stat().st_size  # the writer was not the last to close it
        assert usable(path) == {"width", "height"}
        optimize_index(path)
        assert "size" in usable(path)
        index.refresh()
        assert index.where("size = 77").tolist() == [1]


def test_a_file_of_the_first_version_which_has_no_texts_is_read_and_optimize_adds_them(path, by_columns):
    file = path / COLUMNS_FILE
    header = json.loads(file.read_bytes()[:HEADER_BYTES])
    old = [place for place in header["columns"] if place["kind"].startswith("<")]
    first = ColumnHeader.from_bytes(file.read_bytes()[:HEADER_BYTES])
    first = dataclasses.replace(
        first, format_version=1, columns=tuple(place for place in first.columns if not place.is_text)
    )
    raw = first.to_bytes() + file.read_bytes()[HEADER_BYTES:]
    file.write_bytes(raw[: first.file_bytes])
    assert usable(path) == {place["name"] for place in old}
    for condition in ("width > 600 OR size > 5", "path GLOB '/1*' AND camera = 'Pixel 7'"):
        one, other = both(path, condition)
        assert one == other, condition
    assert (by_columns.asked, by_columns.done) == (2, 1)
    optimize_index(path)
    assert {"path", "camera", "width"} < usable(path)
    both(path, "path GLOB '/1*' AND camera = 'Pixel 7'")
    assert by_columns.done == 2


DAMAGE = {
    "the header": lambda raw: raw[:20] + b"x" + raw[21:],
    "a column": lambda raw: raw[:HEADER_BYTES] + bytes([raw[HEADER_BYTES] ^ 1]) + raw[HEADER_BYTES + 1 :],
    "its length": lambda raw: raw[:-1],
    "no header": lambda raw: b"",
    "not JSON": lambda raw: b"x" * len(raw),
}


@pytest.mark.parametrize("which", DAMAGE)
def test_a_damaged_file_gives_the_same_answer_and_verify_names_it(path, which, caplog):
    file = path / COLUMNS_FILE
    expected = both(path, "width > 600 OR size > 5")[0]
    file.write_bytes(DAMAGE[which](file.read_bytes()))
    assert both(path, "width > 600 OR size > 5") == [expected, expected]
    assert "it is not used, which affects only the speed" in caplog.text
    (damage,) = verify_index(path).damages
    assert damage.what.startswith(COLUMNS_FILE)
    assert damage.what.endswith("clipdex optimize")
    settle(path)
    optimize_index(path)
    assert verify_index(path).damages == []
    assert "size" in usable(path)


def test_a_damaged_column_of_texts_gives_the_same_answer_and_verify_names_it(path, by_columns, caplog):
    file = path / COLUMNS_FILE
    raw = bytearray(file.read_bytes())
    (place,) = (each for each in ColumnHeader.from_bytes(bytes(raw[:HEADER_BYTES])).columns if each.name == "path")
    raw[place.start + place.length(ROWS) - 1] ^= 1
    file.write_bytes(raw)
    one, other = both(path, "path GLOB '/1*'")
    assert one == other
    assert (by_columns.asked, by_columns.done) == (1, 0)
    assert "the column 'path' is not what was written" in caplog.text
    (damage,) = verify_index(path).damages
    assert damage.what.endswith("clipdex optimize")


def test_the_columns_of_another_index_are_not_used(path, tmp_path, caplog):
    other = tmp_path / "other.clipdex"
    with IndexWriter.open_or_create(other, Manifest("f" * 64, "demo", DIM)) as writer:
        vectors = unit_vectors(ROWS, DIM)
        for start in range(0, ROWS, 150):  # the same vectors, of other pictures
            some = [Picture(b"/%d" % i, 1, 2, b"%16d" % i, 9, 9) for i in range(start, min(start + 150, ROWS))]
            writer.append(some, vectors[start : start + 150])
            writer.commit()
    (other / COLUMNS_FILE).write_bytes((path / COLUMNS_FILE).read_bytes())
    assert usable(other) == set()
    assert both(other, "width = 9") == [list(range(ROWS))] * 2
    assert "belongs to other rows" in caplog.text


@pytest.mark.parametrize("which", ["some dead", "all dead"])
def test_the_ranges_of_columns_are_those_that_sqlite_gives(path, which):
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        for i in range(ROWS) if which == "all dead" else (0, 5, ROWS - 1):
            writer.remove(b"/%d.jpg" % i)
        writer.commit()
    settle(path)
    optimize_index(path)
    described = []
    for without in (False, True):
        with Index.open(path) as index:
            facets = Facets(index)
            if without:
                hide_columns(index)
            else:
                hide_numbers_from_sql(index)
            described.append(facets.columns())
    assert described[0] == described[1]
    least = {column.name: column.least for column in described[0][0]}
    assert least["row"] == (None if which == "all dead" else 1)


def test_a_compacted_index_has_no_columns_until_it_is_optimized(path):
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        writer.remove(b"/0.jpg")
        writer.commit()
    with Index.open(path) as index:
        compact_index(path)
        assert not (path / COLUMNS_FILE).exists()
        index.refresh()
        assert index.columns() is None
        settle(path)
        optimize_index(path)
        found = index.columns()
        assert found is not None
        assert found.rows == ROWS - 1
    one, other = both(path, "width > 600 AND size < 6")
    assert one == other


def test_an_error_of_a_condition_is_the_same_with_columns(path):
    for condition in (
        "width > :missing",
        "width >",
        "width > 5 AND bogus = 1",
        "1) OR (1",
    ):
        said = []
        for without in (False, True):
            with Index.open(path) as index:
                if without:
                    hide_columns(index)
                with pytest.raises(InvalidArgument) as error:
                    index.where(condition)
                said.append(str(error.value))
        assert said[0] == said[1]


def test_the_bytes_of_the_file_are_pinned(tmp_path):
    path = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", 2)) as writer:
        pictures = [
            Picture(b"/a", 70_000, 1, bytes(16), 300, 2, '{"n":1,"t":"é"}'),
            Picture(b"/b", 5, -2, bytes(15) + b"\1", 3, 100),
        ]
        writer.append(pictures, np.eye(2, dtype=np.float32))
        writer.commit()
    settle(path)
    optimize_index(path)
    raw = (path / COLUMNS_FILE).read_bytes()
    header = json.loads(raw[:HEADER_BYTES])
    assert raw[HEADER_BYTES - 1 : HEADER_BYTES] == b"\n"
    state = (path / "rows.sqlite").stat()
    places = [("width", "<i2", False, 0), ("height", "<i1", False, 64), ("size", "<i4", False, 128)]
    places += [("mtime_ns", "<i1", False, 192), ("folder", "t1", False, 256), ("path", "t1", False, 448)]
    places += [("meta.n", "<i1", True, 640), ("meta.t", "t1", True, 704)]
    zeros = {size: bytes(64 - size) for size in (2, 8, 12)}
    data = [
        b"\x2c\x01\x03\x00",
        b"\x02\x64",
        b"\x70\x11\x01\x00\x05\x00\x00\x00",
        b"\x01\xfe",
        b"\0\0" + zeros[2] + b"\0\0\0\0\x01\0\0\0" + zeros[8] + b"/",
        b"\0\x01" + zeros[2] + b"\0\0\0\0\x02\0\0\0\x04\0\0\0" + zeros[12] + b"/a/b",
        b"\x01\x00\x00\x01",
        b"\0\x01" + zeros[2] + b"\0\0\0\0\x02\0\0\0" + zeros[8] + b"\xc3\xa9",
    ]
    of_texts = {"folder": (1, 1), "path": (2, 4), "meta.t": (1, 2)}
    crcs = [google_crc32c.value(each) for each in data]
    assert raw[HEADER_BYTES:] == b"".join(each.ljust(-(-len(each) // 64) * 64, b"\0") for each in data)
    assert header.pop("crc32c")
    assert header == {
        "format": "clipdex-columns",
        "format_version": 2,
        "rows": 2,
        "extents": header["extents"],
        "contents": "0" * 63 + "1",
        "state": [state.st_size, state.st_mtime_ns],
        "columns": [
            {"name": name, "kind": kind, "nulls": nulls, "start": HEADER_BYTES + at, "crc32c": crc}
            | dict(zip(("distinct", "text_bytes"), of_texts.get(name, ()), strict=False))
            for (name, kind, nulls, at), crc in zip(places, crcs, strict=True)
        ],
    }
