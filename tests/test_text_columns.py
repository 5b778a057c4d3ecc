"""Texts and places in rows.columns: conditions evaluated on them find exactly what SQLite finds."""

import itertools
import os
import random
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from columns_and_sqlite import find_the_same, found
from conftest import unit_vectors
from drawn_index import drawn_index

from clipdex import Collection, Item
from clipdex.base.errors import InvalidArgument
from clipdex.base.exif import Exif
from clipdex.base.item_paths import item_path
from clipdex.index import Index, IndexWriter, Manifest, Picture, column_where, optimize_index, text_patterns
from clipdex.index import where as where_module
from clipdex.index.side.text_column import SortedTexts
from clipdex.sources.metadata import metadata_json

pytestmark = [pytest.mark.thin, pytest.mark.once]

DIM = 4
ROWS = 300
NS = 10**9
AGES = itertools.count(1_600_000_000)

PIECES = [
    *("a", "B", "ab", "Ab", "IMG_", "img_", ".jpg", ".JPG", "/", "/2024/", "20", "24", "_", "%", "*", "?", "[a]"),
    *("é", "e\u0301", "É", "ÿ", "\u212a", "k", "\ufffd", "\uffff", "日", "😀", " ", "'", "\x7f"),
]
BYTES = [*(piece.encode() for piece in PIECES), b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xe0\x82\xa9"]
ASCII = [piece.encode() for piece in PIECES if piece.isascii()]


def drawn_path(rng, pieces):
    return b"/" + b"".join(rng.choice(pieces) for _ in range(rng.randrange(8)))


def picture(i, rng, path, places):
    exif = None
    if rng.random() < 0.7:
        place = rng.random() < 0.8
        exif = Exif(
            taken=rng.choice([None, "2024-06-01T17:30:00", "2024-06-01T17:30:01", "2023-12-31T23:59:59"]),
            taken_offset=rng.choice([None, "+02:00"]),
            make=rng.choice([None, "Canon", "canon", "Apple"]),
            camera=rng.choice([None, "Pixel 7", "pixel 8", "EOS R5", "été", "5"]),
            lens=rng.choice([None, "50 mm", "_%*?[5]"]),
            latitude=rng.choice(places)[0] if place else None,
            longitude=rng.choice(places)[1] if place else None,
            keywords=rng.choice([(), ("beach",), ("beach", "été"), ('a"b',)]),
        )
    metadata = rng.choice(
        [
            None,
            '{"t":"a","u":"x"}',
            '{"t":"B"}',
            '{"t":null,"u":"\\ud800"}',
            '{"t":"é"}',
            '{"t":"e\u0301","u":"5"}',
            '{"t":"e\u0301","u":"\\ud83d"}',  # as older versions kept it, and the writer takes it
            '{"t":"\\uD83D\\uDE00","\\ude00":"é"}',
        ]
    )
    return Picture(path, 1, i, i.to_bytes(16, "big"), rng.choice([1, 640]), 5, metadata, exif=exif)


def settle(path):
    """Make rows.sqlite older than the two seconds within which two states may have the same time."""
    os.utime(path / "rows.sqlite", ns=(1, next(AGES) * NS))


def write(path, pieces, rows=ROWS, seed=0, items=()):
    rng = random.Random(seed)
    paths = list(dict.fromkeys([*items, *(drawn_path(rng, pieces) for _ in range(3 * rows))]))[:rows]
    rng.shuffle(paths)
    places = [(rng.uniform(-90, 90), rng.uniform(-180, 180)) for _ in range(20)]
    places += [(48.1 + rng.uniform(-0.1, 0.1), 11.6 + rng.uniform(-0.1, 0.1)) for _ in range(40)]
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        writer.append(
            [picture(i, rng, each, places) for i, each in enumerate(paths)], unit_vectors(len(paths), DIM)
        )
        writer.commit()
    settle(path)
    optimize_index(path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    items = [item_path(text) for text in ("a", "x/2024/y", "e\u0301")] + [b"s3://b/2024/x"]
    return {
        "ASCII": write(folder / "ascii", ASCII),
        "UTF-8": write(folder / "utf8", [piece.encode() for piece in PIECES], items=items),
        "bytes": write(folder / "bytes", BYTES, items=items),
    }


@pytest.fixture(params=["ASCII", "UTF-8", "bytes"])
def path(made, request):
    return made[request.param]


@pytest.fixture
def decided(monkeypatch):
    """Every condition that was asked of the columns, and whether they decided it."""
    asked = {}
    rows_by_columns = column_where.rows_by_columns

    def noted(file, condition, *others):
        found = rows_by_columns(file, condition, *others)
        asked[condition] = found is not None
        return found

    monkeypatch.setattr(where_module, "rows_by_columns", noted)
    return asked


def both(path, condition, params=None):
    """What a condition finds, asked with the columns and without: rows, or the error."""
    answers: list[list[int] | str] = []
    for by_columns in (True, False):
        try:
            answers.append(found(path, condition, params, by_columns=by_columns))
        except InvalidArgument as exc:
            answers.append(str(exc))
    return answers


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def pattern(rng, kind):
    wild = ["*", "?", "*"] if kind == "GLOB" else ["%", "_", "%"]
    pieces = PIECES if rng.random() < 0.4 else [each for each in PIECES if each.isascii() and each != "[a]"]
    text = "".join(rng.choice(wild if rng.random() < 0.4 else pieces) for _ in range(rng.randrange(6)))
    return rng.choice(["", "/", "/"]) + text + rng.choice(["", wild[0], wild[0]])


def drawn(rng, depth=0):
    """Draw a condition on texts and places."""
    if depth < 3 and (kind := rng.random()) < 0.45:
        if kind < 0.15:
            return f"NOT {drawn(rng, depth + 1)}"
        return f"({drawn(rng, depth + 1)} {rng.choice(['AND', 'OR'])} {drawn(rng, depth + 1)})"
    column = rng.choice(
        ["path"] * 6
        + ["folder", "camera", "make", "lens", "taken", "taken_offset", "meta ->> 't'", "meta ->> 'u'"]
    )
    constants = [
        *(
            "'Canon'",
            "'Pixel 7'",
            "'2024'",
            "'2024-06-01T17:30:00'",
            "'a'",
            "'5'",
            "'é'",
            "NULL",
            "''",
            ":p",
            ":none",
        ),
        quoted("/" + "".join(rng.choice(PIECES) for _ in range(rng.randrange(3)))),
    ]
    one, other = rng.choice(constants), rng.choice(constants)
    negated = rng.choice(["", "NOT "])
    kind = rng.choice(["GLOB", "LIKE"])
    place = f"{rng.choice(['48.1', '-90', '0', '48.05'])}, {rng.choice(['11.6', '-180', '180.0', '11'])}"
    return rng.choice(
        [
            *([f"{column} {negated}{kind} {quoted(pattern(rng, kind))}"] * 6),
            f"{column} {negated}{kind} {rng.choice(['NULL', ':none', ':p', '5'])}",
            f"{column} {rng.choice(['<', '<=', '>', '>=', '=', '<>'])} {one}",
            f"{column} {negated}IN ({one}, {other})",
            f"{column} {negated}BETWEEN {one} AND {other}",
            f"{column} IS {negated}NULL",
            f"near({place}, {rng.choice(['0', '5', '7.5', '1000', '20015.2', '1e9', 'NULL', '20015.086796'])})",
            f"has(keywords, {rng.choice(WORDS)})",
            "width > 5",
        ]
    )


WORDS = ["'beach'", "'été'", "'a\"b'", ":none", "5"]
PARAMS = {"p": "Pixel 7", "none": None}


def differential(path, decided, seed, count):
    find_the_same(path, drawn, PARAMS, seed, count)
    assert sum(decided.values()) > len(decided) / 3


DECIDED = [
    "name = 'a'",
    "name <> 'IMG_a' OR name IN ('b', 'B', NULL)",
    "name NOT IN ('a', 'B', '') AND name IS NOT NULL",
    "name GLOB 'IMG_*' AND NOT name LIKE '%.jpg'",
    "name LIKE 'a%b' OR name GLOB '*/*'",
    "name = '' OR name LIKE '24%' OR name LIKE '%24'",
    "path LIKE '/IMG%' AND folder >= '/'",
    "path GLOB '/*/2024/*' AND near(48.1, 11.6, 7.5)",
    "near(48.1, 11.6, NULL) OR near(48.1, 11.6, 20016)",
    "NOT near(48.1, 11.6, 5) AND NOT has(keywords, 'beach')",
    "taken >= '2024-06' AND taken < '2024-06-01T17:30:01'",
    "NOT (camera LIKE 'pixel%' OR camera IS NULL)",
]


@pytest.mark.parametrize("few", [0, 2_000])
def test_what_users_filter_by_first_is_decided_without_sqlite(path, decided, monkeypatch, few):
    monkeypatch.setattr(text_patterns, "_FEW", few)
    for condition in DECIDED:
        one, other = both(path, condition)
        assert one == other, condition
    assert all(decided.values())


UNDECIDED = [
    "near(91, 0, 5)",  # an error, if any row comes to it
    "width > 700 AND near(0, 0, -1)",
    "near('48', 11, 5)",
    "path GLOB '%s'" % ("a" * 1001),
    "width > 700 AND path LIKE '%s'" % ("é" * 501),
    "camera = 5 OR make LIKE 5",
    "path LIKE 'a' ESCAPE 'b'",
    "name < 'b'",
    "near(48, 11, 5) = 0",
    "has(keywords, 'a', 'b')",
]


def test_what_columns_cannot_decide_is_as_sqlite_says(path, decided):
    for condition in UNDECIDED:
        one, other = both(path, condition)
        assert one == other, condition
    assert not any(decided.values())


def test_patterns_are_left_to_a_sqlite_that_ignores_the_case_of_all_letters(path, decided, monkeypatch):
    run = where_module.Where._run
    like = "SELECT 'a' LIKE 'A', 'ä' LIKE 'Ä'"
    monkeypatch.setattr(
        where_module.Where, "_run", lambda self, sql, values: [(1, 1)] if sql == like else run(self, sql, values)
    )
    both(path, "path LIKE '/a%'")
    both(path, "path GLOB '/a*'")
    assert decided == {"path LIKE '/a%'": False, "path GLOB '/a*'": True}


@pytest.mark.parametrize(
    "texts",
    [
        [b"", b"/a", b"b", b"ba", b"bab", b"bb"],
        [b"/\xa9", b"/\xc2\xa9", b"/\xe0\x82\xa9", b"a\xa9"],
        [b"/\xc3", b"\xa9"],  # valid UTF-8 only one after the other
        ["/\u00a9".encode(), "/a\u00a9b".encode(), "/\ufffd".encode(), "/\ufffe".encode()],
    ],
)
def test_patterns_match_within_one_text_and_only_what_sqlite_reads_as_their_characters(texts, monkeypatch):
    monkeypatch.setattr(text_patterns, "_FEW", 0)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
    held = SortedTexts(offsets, np.frombuffer(b"".join(texts), np.uint8))
    decided = 0
    with closing(sqlite3.connect(":memory:")) as db:
        for parts in itertools.product(
            ["", "*", "?"], ["a", "b", "ab", "\u00a9", "\ufffd", "\ufffe"], ["", "*", "b*"]
        ):
            pattern = "".join(parts)
            for kind, asked in (("GLOB", pattern), ("LIKE", pattern.replace("*", "%").replace("?", "_").upper())):
                found = text_patterns.matching(held, kind, asked, lambda _: [])
                select = f"SELECT CAST(? AS TEXT) {kind} ?"
                expected = [bool(db.execute(select, (text, asked)).fetchone()[0]) for text in texts]
                if found is not None:
                    assert text_patterns.chosen_flags(found, len(texts)).tolist() == expected, (kind, asked)
                    decided += 1
    assert decided > 20


def test_random_conditions_on_texts_find_what_sqlite_finds(path, decided, monkeypatch):
    differential(path, decided, 0, 30)
    monkeypatch.setattr(text_patterns, "_FEW", 0)  # as if there were too many texts to ask SQLite about each
    differential(path, decided, 1, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
@pytest.mark.parametrize("few", [0, 2_000])
def test_many_random_conditions_on_texts_find_what_sqlite_finds(path, decided, monkeypatch, seed, few):
    monkeypatch.setattr(text_patterns, "_FEW", few)
    differential(path, decided, seed, 2_000)


@pytest.mark.skipif(sqlite3.sqlite_version_info < (3, 38), reason="SQLite has no ->> yet")
def test_half_of_a_surrogate_pair_in_metadata_is_found_as_a_hit_shows_it(tmp_path, decided):
    """Older versions kept its escape, and `IndexWriter` takes it; sources replace it, collections refuse it."""
    said = ['{"t":"\\ud83d","u":"cafe\u0301"}', '{"t":"\\uD83D","u":"caf\u00e9"}', '{"t":"\\ud83d","u":"tea"}']
    said += ['{"t":"\\ud83d\\ude00","u":"tea"}', '{"t":"x","u":"cafe\u0301","\\ude00":1}']
    said += [metadata_json({"t": "\ud83d", "u": "cafe\u0301"})]
    path = drawn_index(tmp_path / "x.clipdex", rows=12, metadata=said * 2)
    with Collection.open(path) as pictures, pytest.raises(InvalidArgument, match="'t' cannot be kept"):
        pictures.add(Item("new", vector=unit_vectors(1, 8)[0], metadata={"t": "\ud83d"}))
    settle(path)
    optimize_index(path)
    broken = [0, 1, 2, 5, 6, 7, 8, 11]
    for condition, rows in [
        ("meta ->> 't' = '\ufffd'", broken),
        ("meta ->> 't' <> '\ufffd'", [3, 4, 9, 10]),
        ("meta ->> 't' = '\U0001f600'", [3, 9]),
        ("meta ->> 'u' = 'caf\u00e9'", [0, 1, 4, 5, 6, 7, 10, 11]),
        ("meta ->> 'u' LIKE 't__'", [2, 3, 8, 9]),
        ("has(meta, 't', '\ufffd')", broken),
        ("length(meta ->> 't') = 1", range(12)),
    ]:
        assert both(path, condition) == [list(rows)] * 2, condition
    assert decided["meta ->> 't' = '\ufffd'"] and decided["meta ->> 'u' = 'caf\u00e9'"]
    with Index.open(path) as index:
        shown = {hit.row: (hit.metadata or {})["t"] for hit in index.search(unit_vectors(1, 8)[0], 12)[0]}
        assert sorted(row for row, text in shown.items() if text == "\ufffd") == broken
