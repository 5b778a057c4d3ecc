"""Conditions in SQL: what they can say, and that they can do nothing but filter."""

import hashlib
import os
import sqlite3
import threading
import time

import numpy as np
import pytest
from conftest import unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex import Index, IndexFault, InvalidArgument
from clipdex.index import where as where_module
from clipdex.index.where import COLUMNS, FUNCTIONS, Where

pytestmark = pytest.mark.thin

needs_arrows = pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 38), reason="SQLite has no ->> yet")


@pytest.fixture
def index(tmp_path):
    with Index.open(drawn_index(tmp_path / "x.clipdex")) as index:
        yield index


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("width > 380", [38, 39]),
        ("width BETWEEN 20 AND 40 AND height = 20", [1, 2, 3]),
        ("width / height >= 20", [39]),
        ("size < 102", [0, 1]),
        ("row IN (3, 5)", [3, 5]),
        ("path GLOB '/p/odd/00?.jpg'", [1, 3, 5, 7, 9]),
        ("path = '/p/odd/001.jpg'", [1]),
        ("name = '007.jpg'", [7]),
        ("name LIKE '00%' AND folder = '/p/even'", [0, 2, 4, 6, 8]),
        ("modified < '1970-01-03'", [0, 1]),
        ("modified = '1970-01-02 00:00:00'", [1]),
        ("date(modified) = '1970-01-05'", [4]),
        ("mtime = 172800", [2]),
        ("mtime >= unixepoch('1970-02-09')", [39]),
        ("json_extract(meta, '$.caption') = 'picture 9'", [9]),
        ("has(meta, 'tags', 'third') AND row < 7", [0, 3, 6]),
        ("has(meta, 'caption', 'picture 3')", [3]),
        ("has(meta, 'nothing', 'third')", []),
        ("lower(upper(name)) = '010.jpg'", [10]),
        ("row = 1 -- the one", [1]),
        ("row = 1 /* the one */", [1]),
        ("(row = 1) OR (row = 2)", [1, 2]),
        ("CASE WHEN row = 3 THEN 1 END", [3]),
        ("name = ')'", []),
        ("name = 'select' OR row = 1 -- values", [1]),
        ("name = 'it''s select' OR row = 1 /* select */", [1]),
        ("NULL", []),
        ("'text'", []),
    ],
)
def test_what_a_condition_says(index, condition, rows):
    if "unixepoch" in condition and sqlite3.sqlite_version_info < (3, 38):
        pytest.skip("SQLite has no unixepoch() yet")
    found = index.where(condition)
    assert (found.dtype, found.tolist()) == (np.int64, rows)


@needs_arrows
def test_metadata_by_arrow(index):
    assert index.where("meta ->> 'caption' LIKE '% 1_'").tolist() == list(range(10, 20))
    assert index.where("meta ->> '$.tags[0]' = 'third'").tolist() == list(range(0, 40, 3))


def test_values_are_bound(index):
    assert index.where("path = :p", {"p": "/p/odd/001.jpg"}).tolist() == [1]
    assert index.where("width > :w", {"w": 380}).tolist() == [38, 39]
    assert index.where("name GLOB :g AND path LIKE :l", {"g": "00?.jpg", "l": "%ODD%"}).tolist() == [1, 3, 5, 7, 9]
    assert index.where("width > :w", {"w": "380"}).tolist() == [38, 39]
    assert index.where("mtime < :t", {"t": 86400.5}).tolist() == [0, 1]
    assert index.where("name = :n", {"n": "' OR 1 --"}).tolist() == []
    assert index.where("height IS NOT :none AND row < 1", {"none": None}).tolist() == [0]


def test_names_that_are_not_utf8(tmp_path):
    paths = [b"/p/caf\xe9.jpg", b"/p/caf\xc3\xa9.jpg", b"/\xff/b.jpg", b"/d\xff/t.tar!/in/c.jpg"]
    with Index.open(drawn_index(tmp_path / "x.clipdex", rows=4, path=paths)) as index:
        assert index.where("name GLOB 'caf?.jpg'").tolist() == [0, 1]
        assert index.where("name = 'café.jpg'").tolist() == [1]
        assert index.where("name = 'b.jpg' OR name = 'c.jpg'").tolist() == [2, 3]
        assert index.where("folder GLOB '*.tar!/in'").tolist() == [3]
        assert os.fsencode(index.search(index.vector(0), 1, where="row = 0")[0][0].path) == paths[0]
        with pytest.raises(InvalidArgument, match="UTF-8"):
            index.where("name = 'caf\udce9.jpg'")
        with pytest.raises(InvalidArgument, match="UTF-8"):
            index.where("name = :n", {"n": "caf\udce9.jpg"})


# Whatever is written there: rows, or one sentence. Nothing is written, and no other file is opened.
HOSTILE = [
    "1; DROP TABLE rows",
    "1; DROP TABLE rows; --",
    "1); DROP TABLE rows; --",
    "1) ; DELETE FROM rows WHERE (1",
    "1) UNION SELECT row FROM pictures WHERE (1",
    "1) UNION ALL SELECT deleted_at FROM rows --",
    "1) UNION SELECT content_hash FROM rows WHERE (1",
    "0) OR (1",
    "1) OR (1) --",
    "1) --",
    "1) /*",
    "1 /*",
    "1 --",
    "1 /* ) */",
    "--",
    "/* */",
    "/*",
    "--\n1",
    "1 OR 1=1",
    "'' OR ''=''",
    "' OR '1'='1",
    '" OR "1"="1',
    "'",
    '"',
    "`",
    "[",
    "'; ATTACH DATABASE '/tmp/evil.db' AS evil; --",
    "ATTACH DATABASE 'evil.db' AS evil",
    "1 THEN 1 END FROM pictures; DROP TABLE rows --",
    "1 THEN 1 END FROM pictures /*",
    "1 THEN 1 END, CASE WHEN 1",
    "(SELECT 1)",
    "EXISTS (SELECT 1 FROM rows)",
    "EXISTS (/* ' */ sElEcT 1 FROM rows /* ' */)",
    "'' = \"'\" OR EXISTS (SELECT 1) OR '' = \"'\"",
    "EXISTS(SELECT`path`FROM`failures`)",
    "EXISTS (SELECT 1 FROM sqlite_master)",
    "(SELECT path FROM failures LIMIT 1)",
    "(SELECT sql FROM sqlite_master) LIKE '%'",
    "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c)",
    "(SELECT count(*) FROM pictures a, pictures b, pictures c, pictures d)",
    "(SELECT * FROM pragma_database_list)",
    "(SELECT file FROM pragma_database_list) > ''",
    "PRAGMA journal_mode = DELETE",
    "1; PRAGMA query_only = OFF",
    "1; VACUUM INTO '/tmp/evil.db'",
    "row IN rows",
    "row IN pictures",
    "row IN json_each('[1]')",
    "row IN (SELECT value FROM json_each('[1]'))",
    "row IN (VALUES (1), (2))",
    "rowid = 1",
    "rows.path = 'a'",
    "main.rows.row = 1",
    "content_hash = 1",
    "crc32c = 1",
    "record_crc32c(path)",
    "last_part(path)",
    "load_extension('evil.so')",
    "readfile('/etc/passwd')",
    "writefile('evil.txt', 'x')",
    "edit(path)",
    "fts3_tokenizer('x')",
    "randomblob(1000000000)",
    "zeroblob(1000000000)",
    "printf('%.*c', 1000000000, 'x')",
    "hex(zeroblob(400000000))",
    "replace(replace(path, '/', path), '/', path)",
    "random() > 0",
    "changes() > 0",
    "last_insert_rowid() >= 0",
    "sqlite_version()",
    "sqlite_compileoption_used('X')",
    "count(*)",
    "max(width)",
    "group_concat(path)",
    "row_number() OVER ()",
    "total_changes()",
    "path MATCH 'a'",
    "path REGEXP '(a+)+$'",
    "RAISE(ABORT, 'x')",
    "json_extract(meta, 'bad')",
    "json_extract('{', '$.a')",
    "likelihood(1, 2)",
    "width > ?",
    "width > ?1",
    "width > :missing",
    "row = 1 ORDER BY path",
    "row = 1 LIMIT 1",
    "row = 1 GROUP BY path HAVING 1",
    "row = 1 RETURNING path",
    "1 AS x",
    "1, 2",
    "(1, 2)",
    "*",
    "",
    " ",
    "\0",
    "1\0; DROP TABLE rows",
    "1 OR\0",
    "\ud800",
    "(" * 500 + "1" + ")" * 500,
    "1" + " OR 1" * 2400,
    "1" * 11_000,
    "9223372036854775807 + 1",
    "-9223372036854775808 = abs(-9223372036854775808)",
    "path COLLATE evil = 'a'",
    "CAST(path AS BLOB) = x'00'",
    "ٱ = 1",
    "path = '\u202e; DROP TABLE rows'",
]


def test_a_hostile_condition_filters_or_is_refused(tmp_path, monkeypatch):
    assert len(HOSTILE) >= 50
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("SQLITE_TMPDIR", str(cwd))
    monkeypatch.setenv("TMPDIR", str(cwd))
    index = drawn_index(tmp_path / "x.clipdex")
    with Index.open(index) as opened:
        opened.where("1")
        before = state(tmp_path), descriptors()
        refused = 0
        for condition in HOSTILE:
            began = time.monotonic()
            try:
                rows = opened.where(condition)
            except InvalidArgument as exc:
                refused += 1
                assert str(exc).startswith("the filter "), condition
                assert "\n" not in str(exc), condition
            else:
                assert set(rows.tolist()) <= set(range(40)), condition
                assert (np.diff(rows) > 0).all(), condition
            assert time.monotonic() - began < 5, condition
            assert (state(tmp_path), descriptors()) == before, condition
        assert refused >= 80
        assert opened.where("row < 3").tolist() == [0, 1, 2]
        # Values are values, whatever is in them.
        for value in HOSTILE:
            if "\ud800" not in value:
                assert opened.where("name = :v OR path = :v", {"v": value}).tolist() == []
        assert (state(tmp_path), descriptors()) == before
    assert clipdex.verify_index(index).damages == []


def state(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def descriptors():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _open(fd))


def _open(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_the_connection_itself_cannot_write(tmp_path):
    """Should the authorizer let something through, two more locks are behind it."""
    index = drawn_index(tmp_path / "x.clipdex")
    where = Where(index / "rows.sqlite")
    where._db.set_authorizer(None)
    for statement in (
        "DELETE FROM rows",
        "DROP TABLE rows",
        "CREATE TABLE evil (x)",
        "CREATE TEMP TABLE evil (x)",
    ):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            where._db.execute(statement)
    where.close()


def test_every_function_allowed_is_there_or_newer_than_this_sqlite(index):
    """No name in the list is misspelled, and none of them is an aggregate by itself."""
    known = {name for (name,) in sqlite3.connect(":memory:").execute("SELECT name FROM pragma_function_list")}
    newer = {"unixepoch", "->", "->>", "iif", "sign", "substring"}
    assert FUNCTIONS - known - newer == {"has"}


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_can_be_named(index, column):
    assert len(index.where(f"{column} IS NOT NULL")) == 40


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"w": b"x"}, "is a bytes"),
        ({"w": [1]}, "is a list"),
        ({"w": 1 << 63}, "out of range"),
        ({"a b": 1}, "is no name"),
        ({1: 1}, "is no name"),
        ({}, "was not given"),
        ({"v": 1}, "was not given"),
    ],
)
def test_parameters_that_cannot_be(index, params, says):
    with pytest.raises(InvalidArgument, match=says):
        index.where("width > :w", params)


def test_a_condition_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    index = drawn_index(tmp_path / "x.clipdex")
    monkeypatch.setattr(where_module, "_STEPS", 10)
    where = Where(index / "rows.sqlite", timeout_s=0.0)
    with pytest.raises(InvalidArgument, match="took longer than 0 s"):
        where.rows("width + height > 3", None, 40)
    where.close()


@pytest.mark.parametrize("while_in", ["SQLite", "a function"])
def test_ctrl_c_ends_a_condition(tmp_path, monkeypatch, while_in):
    index = drawn_index(tmp_path / "x.clipdex")
    monkeypatch.setattr(where_module, "_STEPS", 10)

    def pressed(*_):
        raise KeyboardInterrupt

    if while_in == "a function":
        monkeypatch.setattr(where_module, "_last_part", pressed)
    where = Where(index / "rows.sqlite")
    ticks = iter([1.0, 1.0])
    if while_in == "SQLite":
        monkeypatch.setattr(where_module.time, "monotonic", lambda: next(ticks, None) or pressed())
    with pytest.raises(KeyboardInterrupt):
        where.rows("width + height > 3 AND name > ''", None, 40)
    monkeypatch.undo()
    assert where.rows("row = 1", None, 40).tolist() == [1]
    where.close()


# Snapshots.


def test_a_condition_sees_the_rows_of_the_snapshot(tmp_path):
    path = drawn_index(tmp_path / "x.clipdex")
    with Index.open(path) as index:
        assert len(index.where("1")) == 40
        with clipdex.IndexWriter.open_or_create(path, index.manifest) as writer:
            writer.append([clipdex.Picture(b"/p/new.jpg", 1, 1, b"n" * 16, 1, 1)], unit_vectors(1, 8, seed=5))
            writer.remove(b"/p/odd/001.jpg")
        assert len(index.where("1 = 1")) == 40
        assert index.where("size < 102").tolist() == [0, 1]
        index.refresh()
        assert index.where("size < 102").tolist() == [0, 40]
        assert index.where("1 = 1").tolist() == [0, *range(2, 41)]


def test_other_metadata_counts_after_a_refresh(tmp_path):
    path = drawn_index(tmp_path / "x.clipdex")
    with Index.open(path) as index:
        assert index.where("has(meta, 'caption', 'new')").tolist() == []
        with clipdex.IndexWriter.open_or_create(path, index.manifest) as writer:
            writer.annotate(b"/p/odd/001.jpg", '{"caption": "new"}')
        assert index.where("has(meta, 'caption', 'new')").tolist() == []
        index.refresh()
        assert index.where("has(meta, 'caption', 'new')").tolist() == [1]


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_compacted_index_is_not_mistaken_for_the_old_one(tmp_path, asked_before):
    path = drawn_index(tmp_path / "x.clipdex")
    with clipdex.IndexWriter.open_or_create(path, clipdex.Manifest.read(path)) as writer:
        writer.remove(b"/p/even/000.jpg")
    with Index.open(path) as index:
        if asked_before:
            assert index.where("size = 105").tolist() == [5]
        clipdex.compact_index(path)
        if asked_before:
            assert index.where("size = 106").tolist() == [6]
        else:
            with pytest.raises(IndexFault, match="refresh it"):
                index.where("size = 106")
        index.refresh()
        assert index.where("size = 106").tolist() == [5]


def test_a_condition_is_evaluated_once_a_snapshot(index, monkeypatch):
    first = index.where("width > 100")
    monkeypatch.setattr(Where, "_evaluated", lambda *_: pytest.fail("evaluated again"))
    np.testing.assert_array_equal(index.where("width > 100"), first)
    assert not first.flags.writeable


def test_threads_may_filter_at_once(index):
    found = []

    def ask(i):
        for _ in range(20):
            found.append(index.where(f"row < {i}").tolist() == list(range(i)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 160
