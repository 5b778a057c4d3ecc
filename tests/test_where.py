"""Conditions in SQL: what they can say, and that they can do nothing but filter."""

import hashlib
import itertools
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex import Index, IndexFault, InvalidArgument
from clipdex.base.item_paths import item_path
from clipdex.base.spelling import composed_path
from clipdex.index import condition_guard
from clipdex.index import picture_view as view_module
from clipdex.index import where as where_module
from clipdex.index.condition_guard import FUNCTIONS
from clipdex.index.schema import SCHEMA, connect
from clipdex.index.where import COLUMNS, Where

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


def test_the_paths_of_the_view_are_composed_whatever_their_bytes_are(tmp_path):
    parts = [
        b"a",
        b"e\xcc\x81",
        b"\xc3\xa9",
        b"\xff",
        b"\xcc",
        b"\x81",
        b"\xed\xa0\x80",
        b"\xe1\x84\x80\xe1\x85\xa1",
        b" ",
        b"\x7f",
    ]
    beginnings = [b"/", b"s3://b/", b"id", b"id:", b"/id:"]
    raw = [one + b"".join(some) for one in beginnings for some in itertools.product(parts, repeat=2)]
    raw += [item_path(text) for text in ("a", "a/b", "e\u0301", "\u00e9/2024/")]
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        db.executemany(
            "INSERT INTO rows VALUES (?, ?, 1, 1, x'', 1, 1, NULL, 0)", [(i, path) for i, path in enumerate(raw)]
        )
        view_module.create_functions(db, lambda function: function)
        view_module.create_view(db, with_exif=False)
        found = db.execute("SELECT CAST(path AS BLOB), id FROM pictures ORDER BY row").fetchall()
    assert [path for path, _ in found] == [composed_path(path.removesuffix(b"\0")) for path in raw]
    assert [one for _, one in found[-4:]] == ["a", "a/b", "e\u0301", "\u00e9/2024/"]
    assert not any(one for _, one in found[:-4])


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


# Whatever is written there: rows, or one sentence. Nothing is written, and no other file is opened. docs/search.md
# has this table. Each condition, and what it meets: the lock that refuses it, the one that would if that were off,
# and so on, up to what becomes of it then; SQL, which cannot be switched off, is a lock as well. A pair is a text
# too long or too odd to be shown, after what is shown.
CONDITIONS = [
    ("1 OR 1=1", "allowed"),
    ("'' OR ''=''", "allowed"),
    ("1 --", "allowed"),
    ("1 /* ) */", "allowed"),
    (("--⏎1", "--\n1"), "allowed"),
    ("name = 'select' -- values", "allowed"),
    ("9223372036854775807 + 1", "allowed"),
    ("CAST(path AS BLOB) = x'00'", "allowed"),
    (("path = '{U+202E}; DROP TABLE rows'", "path = '\u202e; DROP TABLE rows'"), "allowed"),
    (("{NOTHING}", ""), "text", "SQL"),
    (("{A SPACE}", " "), "text", "SQL"),
    (("1{NUL}; DROP TABLE rows", "1\0; DROP TABLE rows"), "text", "SQL"),
    (("1 OR{NUL}", "1 OR\0"), "text", "SQL"),
    (("{U+D800}", "\ud800"), "text"),
    (("111…1, 11,000 digits", "1" * 11_000), "text", "allowed"),
    ("(SELECT 1)", "text", "allowed"),
    ("'' = \"'\" OR EXISTS (SELECT 1) OR '' = \"'\"", "text", "allowed"),
    ("row IN (VALUES (1), (2))", "text", "allowed"),
    ("EXISTS (SELECT 1 FROM rows)", "text", "authorizer", "allowed"),
    ("EXISTS (/* ' */ sElEcT 1 FROM rows /* ' */)", "text", "authorizer", "allowed"),
    ("EXISTS(SELECT`path`FROM`failures`)", "text", "authorizer", "allowed"),
    ("EXISTS (SELECT 1 FROM sqlite_master)", "text", "authorizer", "allowed"),
    ("(SELECT path FROM failures LIMIT 1)", "text", "authorizer", "allowed"),
    ("(SELECT sql FROM sqlite_master) LIKE '%'", "text", "authorizer", "allowed"),
    ("(SELECT file FROM pragma_database_list) > ''", "text", "authorizer", "allowed"),
    ("row IN (SELECT value FROM json_each('[1]'))", "text", "authorizer", "allowed"),
    ("(SELECT * FROM pragma_database_list)", "text", "authorizer", "SQL"),
    ("(SELECT count(*) FROM pictures a, pictures b, pictures c)", "text", "authorizer", "allowed"),
    (
        "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c LIMIT 9)",
        *("text", "limits", "authorizer", "allowed"),
    ),
    ("1) UNION SELECT row FROM pictures WHERE (1", "text", "CASE", "limits", "allowed"),
    ("1) UNION SELECT crc32c FROM rows WHERE (1", "text", "CASE", "limits", "authorizer", "allowed"),
    ("1) UNION ALL SELECT deleted_at FROM rows --", "text", "SQL"),
    ("0) OR (1", "CASE", "allowed"),
    ("1) /*", "CASE", "allowed"),
    ("1); DROP TABLE rows; --", "CASE", "one statement"),
    ("1) ; DELETE FROM rows WHERE (1", "CASE", "one statement"),
    ("1 THEN 1 END FROM pictures /*", "parentheses", "allowed"),
    ("1 THEN 1 END, CASE WHEN 1", "parentheses", "allowed"),
    ("1 THEN 1 END FROM pictures; DROP TABLE rows --", "one statement"),
    ("1; DROP TABLE rows", "SQL"),
    ("1; DROP TABLE rows; --", "SQL"),
    ("1; PRAGMA query_only = OFF", "SQL"),
    ("1; VACUUM INTO '/tmp/evil.db'", "SQL"),
    ("'; ATTACH DATABASE '/tmp/evil.db' AS evil; --", "SQL"),
    ("ATTACH DATABASE 'evil.db' AS evil", "SQL"),
    ("PRAGMA journal_mode = DELETE", "SQL"),
    ("1) OR (1) --", "SQL"),
    ("1) --", "SQL"),
    ("1 /*", "SQL"),
    ("--", "SQL"),
    ("/* */", "SQL"),
    ("/*", "SQL"),
    ("' OR '1'='1", "SQL"),
    ('" OR "1"="1', "SQL"),
    ("'", "SQL"),
    ('"', "SQL"),
    ("`", "SQL"),
    ("[", "SQL"),
    ("row = 1 ORDER BY path", "SQL"),
    ("row = 1 LIMIT 1", "SQL"),
    ("row = 1 GROUP BY path HAVING 1", "SQL"),
    ("row = 1 RETURNING path", "SQL"),
    ("1 AS x", "SQL"),
    ("1, 2", "SQL"),
    ("(1, 2)", "SQL"),
    ("*", "SQL"),
    (("((…(1)…)), 500 deep", "(" * 500 + "1" + ")" * 500), "SQL"),
    ("rows.path = 'a'", "SQL"),
    ("main.rows.row = 1", "SQL"),
    ("content_hash = 1", "SQL"),
    ("crc32c = 1", "SQL"),
    (("{U+0671} = 1", "ٱ = 1"), "SQL"),
    ("row IN pictures", "SQL"),
    ("path COLLATE evil = 'a'", "SQL"),
    ("readfile('/etc/passwd')", "SQL"),
    ("writefile('evil.txt', 'x')", "SQL"),
    ("edit(path)", "SQL"),
    ("path REGEXP '(a+)+$'", "SQL"),
    ("RAISE(ABORT, 'x')", "SQL"),
    ("max(width)", "SQL"),
    ("json_extract(meta, 'bad')", "SQL"),
    ("json_extract('{', '$.a')", "SQL"),
    ("-9223372036854775808 = abs(-9223372036854775808)", "SQL"),
    ("width > ?", "SQL"),
    ("width > ?1", "values"),
    ("width > :missing", "values"),
    ("row IN rows", "authorizer", "SQL"),
    ("row IN json_each('[1]')", "authorizer", "SQL"),
    ("record_crc32c(path)", "authorizer", "allowed"),
    ("composed_path(path)", "authorizer", "allowed"),
    ("last_part(path)", "authorizer", "SQL"),
    ("load_extension('evil.so')", "authorizer", "SQL"),
    ("fts3_tokenizer('x')", "authorizer", "SQL"),
    ("path MATCH 'a'", "authorizer", "SQL"),
    ("count(*)", "authorizer", "SQL"),
    ("group_concat(path)", "authorizer", "SQL"),
    ("row_number() OVER ()", "authorizer", "SQL"),
    ("likelihood(1, 2)", "authorizer", "SQL"),
    ("replace(replace(path, '/', path), '/', path)", "authorizer", "allowed"),
    ("random() > 0", "authorizer", "allowed"),
    ("changes() > 0", "authorizer", "allowed"),
    ("total_changes()", "authorizer", "allowed"),
    ("last_insert_rowid() >= 0", "authorizer", "allowed"),
    ("sqlite_version()", "authorizer", "allowed"),
    ("sqlite_compileoption_used('X')", "authorizer", "allowed"),
    ("randomblob(1000000000)", "authorizer", "limits"),
    ("zeroblob(1000000000)", "authorizer", "limits"),
    ("hex(zeroblob(400000000))", "authorizer", "limits"),
    ("printf('%.*c', 1000, 'x')", "authorizer", "allowed"),
    (("1 OR 1 OR …, 300 of them", "1" + " OR 1" * 300), "limits", "allowed"),
    (("1 OR 1 OR …, 2,400 of them", "1" + " OR 1" * 2400), "text", "limits", "SQL"),
    (("coalesce(1, 1, …), 21 of them", f"coalesce({','.join('1' * 21)})"), "limits", "allowed"),
    (("name LIKE '%%…', 1,001 of them", f"name LIKE '{'%' * 1001}'"), "limits", "allowed"),
    (
        ("row = 0 AND hex(hex(…(path)…)) > '', 21 deep", f"row = 0 AND {'hex(' * 21}path{')' * 21} > ''"),
        "limits",
        "allowed",
    ),
    (("width + height > 3, if 60 s are over", "width + height > 3"), "time", "allowed"),
]

# What no condition can be, as it stands: statements, given to the same connection by themselves.
STATEMENTS = [
    ("DELETE FROM rows", "authorizer", "query_only", "mode=ro", "allowed"),
    ("DROP TABLE rows", "authorizer", "query_only", "mode=ro", "allowed"),
    ("UPDATE rows SET size = 0", "authorizer", "query_only", "mode=ro", "allowed"),
    ("CREATE TABLE evil (x)", "authorizer", "query_only", "mode=ro", "allowed"),
    ("CREATE TEMP TABLE evil (x)", "authorizer", "query_only", "allowed"),
    ("ATTACH DATABASE ':memory:' AS evil", "authorizer", "limits", "allowed"),
    ("PRAGMA query_only = OFF", "authorizer", "allowed"),
    ("SELECT content_hash FROM rows", "authorizer", "allowed"),
    ("SELECT * FROM a_view_that_calls_record_crc32c", "trusted_schema", "authorizer", "allowed"),
]

# By lock: what the refusal says, of clipdex or, for a statement by itself, of SQLite.
SAID = {
    "text": ("is empty", "characters; expected", "contains SELECT", "contains a zero byte"),
    "authorizer": ("may not read", "may not call", "may do nothing but", "not authorized", "prohibited"),
    "limits": ("too many", "too large", "too complex", "too big"),
    "time": ("took longer than 60 s",),
    "values": ("names a parameter that was not given",),
    "one statement": ("one statement at a time",),
    "query_only": ("readonly database",),
    "mode=ro": ("readonly database",),
    "trusted_schema": ("unsafe use of",),
}
SAID |= {lock: ("is not a condition in SQL",) for lock in ("CASE", "parentheses", "SQL")}
ELSEWHERE = ("allowed", "SQL", "one statement", "values")  # no lock of ours: none that could be switched off


def shown(condition):
    return condition if isinstance(condition, str) else condition[0]


def written(condition):
    return condition if isinstance(condition, str) else condition[1]


def chains(table):
    return [
        pytest.param(
            written(condition),
            locks,
            id=shown(condition),
            marks=pytest.mark.skipif(
                "limits" in locks and sys.version_info < (3, 11), reason="limits need Python 3.11"
            ),
        )
        for condition, *locks in table
    ]


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """An index, with a view in its database that calls what a stranger's may not."""
    index = drawn_index(tmp_path_factory.mktemp("where") / "x.clipdex")
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute("CREATE VIEW a_view_that_calls_record_crc32c AS SELECT record_crc32c(1)")
    db.commit()
    db.close()
    return index / "rows.sqlite"


class Opened:
    """A Where some of whose locks are off."""

    def __init__(self, database, off, *, late=False):
        self.patched = pytest.MonkeyPatch()
        changed = lambda name, value, module=where_module: self.patched.setattr(module, name, value)  # noqa: E731
        if "text" in off:
            changed("_check_text", lambda _: None)
        if "CASE" in off:
            changed("_IN_CASE", "EXPLAIN SELECT 1")
        if "parentheses" in off:
            changed("_IN_PARENTHESES", "SELECT row FROM pictures WHERE row < {1:d} ORDER BY row")
        if "limits" in off:
            changed("_LIMITS", {}, condition_guard)
        if "mode=ro" in off:
            changed("connect", lambda path, write: connect(path, write=True))
        if late:
            ticks = itertools.count(0, 61)
            changed("_STEPS", 10, condition_guard)
            changed("time", SimpleNamespace(monotonic=lambda: next(ticks)), condition_guard)
        self.where = Where(database)
        self.where._db.set_authorizer(None)
        for lock, value in (("query_only", "OFF"), ("trusted_schema", "ON")):
            if lock in off:
                self.where._db.execute(f"PRAGMA {lock} = {value}")
        if "authorizer" not in off:
            self.where._db.set_authorizer(self.where._guard.decide)
        if "time" in off:
            self.where._db.set_progress_handler(None, 0)

    def __enter__(self):
        return self.where

    def __exit__(self, *_):
        self.where.close()
        self.patched.undo()


def met(ask):
    """What was said, "allowed" if nothing was."""
    try:
        ask()
    except (InvalidArgument, sqlite3.Error) as exc:
        return str(exc)
    return "allowed"


def require_met(said, expected, off):
    assert any(text in said for text in SAID.get(expected, (expected,))), (
        f"{said}; expected {expected}, without {off}"
    )
    if expected in ELSEWHERE:  # SQLite's own words may be those of another lock of the table
        assert not any(text in said for lock in ("text", "authorizer") for text in SAID[lock][:3]), said


@pytest.mark.parametrize(("condition", "locks"), chains(CONDITIONS))
def test_each_condition_meets_the_locks_of_the_table_one_behind_the_other(locked, condition, locks):
    for i, expected in enumerate(locks):
        with Opened(locked, locks[:i], late="time" in locks) as where:
            require_met(met(lambda where=where: where.rows(condition, None, 40)), expected, locks[:i])


@pytest.mark.parametrize(("statement", "locks"), chains(STATEMENTS))
def test_each_statement_meets_the_locks_of_the_table_one_behind_the_other(locked, tmp_path, statement, locks):
    database = shutil.copy(locked, tmp_path)  # where all are off, it is changed
    for i, expected in enumerate(locks):
        with Opened(Path(database), locks[:i]) as where:
            require_met(met(lambda where=where: where._db.execute(statement).fetchall()), expected, locks[:i])


@pytest.mark.parametrize(("asked", "locks"), chains(CONDITIONS + STATEMENTS))
def test_each_lock_holds_by_itself(locked, tmp_path, asked, locks):
    ours = [lock for lock in locks if lock not in ELSEWHERE]
    for lock in ours:
        with Opened(locked, [other for other in ours if other != lock], late=lock == "time") as where:
            if asked in [statement for statement, *_ in STATEMENTS]:
                said = met(lambda where=where: where._db.execute(asked))
            else:
                said = met(lambda where=where: where.rows(asked, None, 40))
            require_met(said, lock, "all the others")


def test_the_table_of_locks_in_the_docs_is_this_one():
    def cell(text):
        ticks = "``" if "`" in text else "`"
        inner = f" {text} " if "`" in text else text
        return ticks + inner.replace("|", "\\|") + ticks

    def lines(table):
        for condition, *locks in table:
            yield f"| {cell(shown(condition))} | {', then '.join(locks)} |"

    page = (Path(__file__).parent.parent / "docs" / "search.md").read_text().splitlines()
    for head, table in (("| condition | meets |", CONDITIONS), ("| statement | meets |", STATEMENTS)):
        start = page.index(head) + 2
        there = list(itertools.takewhile(lambda line: line.startswith("|"), page[start:]))
        assert there == list(lines(table))
    named = set(re.findall(r"^\| \*\*([^*]+)\*\* \|", "\n".join(page), re.M))
    assert named == {lock for _, *locks in CONDITIONS + STATEMENTS for lock in locks}


HOSTILE = [written(condition) for condition, *_ in CONDITIONS] + ["rowid = 1", "\0"]


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
            try:
                rows = opened.where(condition)
            except InvalidArgument as exc:
                refused += 1
                assert str(exc).startswith("the filter "), condition
                assert "\n" not in str(exc), condition
                assert "took longer" not in str(exc), condition
            else:
                assert set(rows.tolist()) <= set(range(40)), condition
                assert (np.diff(rows) > 0).all(), condition
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


def test_every_function_allowed_is_there_or_newer_than_this_sqlite(index):
    """No name in the list is misspelled, and none of them is an aggregate by itself."""
    with closing(sqlite3.connect(":memory:")) as db:
        known = {name for (name,) in db.execute("SELECT name FROM pragma_function_list")}
    newer = {"unixepoch", "->", "->>", "iif", "sign", "substring"}
    assert FUNCTIONS - known - newer == {"has", "near"}


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_can_be_named(index, column):
    nothing = ("id", *view_module.EXIF_COLUMNS)  # none was added by id, and no file says anything
    there = "NULL" if column in nothing else "NOT NULL"
    assert len(index.where(f"{column} IS {there}")) == 40


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"w": b"x"}, "is a bytes"),
        ({"w": [1]}, "is a list"),
        ({"w": 1 << 63}, "out of range"),
        ({"a b": 1}, "is not a name"),
        ({1: 1}, "is not a name"),
        ({}, "was not given"),
        ({"v": 1}, "was not given"),
    ],
)
def test_parameters_that_cannot_be(index, params, says):
    with pytest.raises(InvalidArgument, match=says):
        index.where("width > :w", params)


def test_a_condition_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    index = drawn_index(tmp_path / "x.clipdex")
    monkeypatch.setattr(condition_guard, "_STEPS", 10)
    where = Where(index / "rows.sqlite", timeout_s=0.0)
    with pytest.raises(InvalidArgument, match="took longer than 0 s"):
        where.rows("width + height > 3", None, 40)
    where.close()


@pytest.mark.parametrize("while_in", ["SQLite", "a function"])
def test_ctrl_c_ends_a_condition(tmp_path, monkeypatch, while_in):
    index = drawn_index(tmp_path / "x.clipdex")
    monkeypatch.setattr(condition_guard, "_STEPS", 10)

    def pressed(*_):
        raise KeyboardInterrupt

    if while_in == "a function":
        monkeypatch.setattr(view_module, "_last_part", pressed)
    where = Where(index / "rows.sqlite")
    ticks = iter([1.0, 1.0])
    if while_in == "SQLite":
        monkeypatch.setattr(time, "monotonic", lambda: next(ticks, None) or pressed())
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


@pytest.mark.parametrize("condition", ["path = 'x", 'path = "x', "path = [x", "path = `x"])
def test_an_open_quote_is_named_without_what_follows_it(index, condition):
    with pytest.raises(InvalidArgument, match='x": a quote is opened and not closed; write') as caught:
        index.where(condition)
    assert "THEN" not in str(caught.value)
