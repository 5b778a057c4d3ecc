"""The part of `--where` that vector databases take: what it means, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from drawn_index import drawn_exif, drawn_index
from numpy_sink import meets

from clipdex.base.errors import InvalidArgument
from clipdex.index import Index
from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Contains, OneOf, Present, parse_condition
from clipdex.sinks.payloads import FIELDS, checked_condition, metadata_fields, payload_of

pytestmark = [pytest.mark.thin, pytest.mark.once]

A, B, C = (Compare(name, ">", 1) for name in ("width", "height", "size"))
a, b, c = "width > 1", "height > 1", "size > 1"
NOT_A, NOT_B = (Compare(name, "<=", 1) for name in ("width", "height"))
FROM_1_TO_2 = AllOf((Compare("width", ">=", 1), Compare("width", "<=", 2)))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (f"{a} OR {b} AND {c}", AnyOf((A, AllOf((B, C))))),
        (f"({a} OR {b}) AND {c}", AllOf((AnyOf((A, B)), C))),
        (f"NOT {a} AND {b}", AllOf((NOT_A, B))),
        (f"NOT ({a} AND {b})", AnyOf((NOT_A, NOT_B))),
        (f"NOT ({a} OR {b})", AllOf((NOT_A, NOT_B))),
        (f"NOT NOT {a}", A),
        (f"not ({a} or not {b})", AllOf((NOT_A, B))),
        ("1 < width", A),
        ("(width) > (1)", A),
        ('"width" > 1', A),
        ("width == 1", Compare("width", "=", 1)),
        ("width != 1.5", Compare("width", "<>", 1.5)),
        ("width > -1", Compare("width", ">", -1)),
        ("width > - -1", Compare("width", ">", 1)),
        ("width BETWEEN 1 AND 2 AND height > 1", AllOf((FROM_1_TO_2, B))),
        ("width NOT BETWEEN 1 AND 2", AnyOf((Compare("width", "<", 1), Compare("width", ">", 2)))),
        ("NOT width NOT IN (1, 2)", OneOf("width", (1, 2))),
        ("width NOT IN (1)", OneOf("width", (1,), True)),
        ("id IS NULL", Present("id", False)),
        ("NOT id IS NULL", Present("id")),
        ("id IS NOT NULL", Present("id")),
        ("meta ->> 'a b' = 'it''s'", Compare("meta.a b", "=", "it's")),
        ("(meta ->> 'year') >= 2000", Compare("meta.year", ">=", 2000)),
        ("meta ->> '$.year' >= 2e3", Compare("meta.year", ">=", 2000.0)),
        ("json_extract(meta, '$.year') = 1", Compare("meta.year", "=", 1)),
        ("has(meta, 'tags', 'x')", Contains("meta.tags", "x")),
        ("NOT has(meta, 'tags', 'x')", Contains("meta.tags", "x", True)),
        ("has(keywords, 'x')", Contains("keywords", "x")),
        ("name GLOB 'ab*'", AllOf((Compare("name", ">=", "ab"), Compare("name", "<", "ac")))),
        ("NOT name GLOB 'a*'", AnyOf((Compare("name", "<", "a"), Compare("name", ">=", "b")))),
        ("taken LIKE '2024-0%'", AllOf((Compare("taken", ">=", "2024-0"), Compare("taken", "<", "2024-1")))),
    ],
)  # fmt: skip
def test_a_condition_is_read_with_the_precedence_of_sql(text, meaning):
    assert parse_condition(text) == meaning


def test_parameters_stand_for_values_and_are_composed_as_texts_are():
    found = parse_condition("name = :n AND width IN (:w, 3)", {"n": "cafe\u0301", "w": 2})
    assert found == AllOf((Compare("name", "=", "caf\u00e9"), OneOf("width", (2, 3))))
    assert parse_condition("name = 'cafe\u0301'") == Compare("name", "=", "caf\u00e9")
    with pytest.raises(InvalidArgument, match=r"not given \(:w\); give it as --param w=VALUE"):
        parse_condition("width > :w", {})
    with pytest.raises(InvalidArgument, match="uses the value of :w"):
        parse_condition("width > :w", {"w": None})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("width LIKE 'a%'", "uses 'LIKE'"),
        ("name GLOB '*'", "uses 'GLOB'"),
        ("name GLOB 'a*b*'", "uses 'GLOB' 'a"),
        ("name GLOB 'a'", "uses 'GLOB' 'a'"),
        ("name GLOB '[a*'", "uses 'GLOB'"),
        ("name GLOB '\U0010ffff*'", "uses 'GLOB'"),
        ("name LIKE 'b_c%'", "uses 'LIKE'"),
        ("name GLOB 3", "uses 'GLOB' 3"),
        ("near(48.1, 11.6, 5)", "uses near.*; write  latitude BETWEEN"),
        ("row = 3", "uses 'row'"),
        ("lower(name) = 'a'", "uses 'lower'"),
        ("width * 2 > 3", r"uses '\* 2 > 3'"),
        ("width + 1 > 3", r"uses '\+'"),
        ("width > -'a'", "calculates"),
        ("width > height", "compares two columns"),
        ("1 = 1", "compares two values"),
        ("width", "ends too early"),
        ("width >", "ends too early"),
        ("width > 1 AND", "ends too early"),
        ("width > ٣", "uses '٣'"),
        pytest.param("width > " + 5000 * "1", "uses a number of 5,000 digits", id="5000 digits"),
        ("width > 1 height", "uses 'height' in the wrong place"),
        ("(width > 1", r"lacks '\)'"),
        ("width > 1)", r"uses '\)' in the wrong place"),
        ("width IN 1", r"lacks '\('"),
        ("width IN (1", r"lacks '\)'"),
        ("width IN (SELECT 1)", "uses 'SELECT'"),
        ("width IS 3", "lacks 'NULL'"),
        ("width NOT 3", "has NOT in the wrong place"),
        ("width BETWEEN 1 OR 2", "lacks 'AND'"),
        ("meta = 'x'", "uses meta as a whole"),
        ("meta -> 'x' = 1", "uses meta as a whole"),
        ("meta ->> '$.a.b' = 1", "looks inside a field of meta"),
        ("meta ->> '$[0]' = 1", "looks inside a field of meta"),
        ("meta ->> 3 = 1", "a key of meta that is no text"),
        ("nowhere = 1", "uses 'nowhere'"),
        ("width > 1; DROP TABLE x", "uses '; DROP TABLE x'"),
        ("width > 1 -- x", "uses '-'"),
        ("has(meta, 'tags')", "lacks ','"),
        ("has(tags, 'x', 'y')", "lacks 'META'"),
        ("(" * 60 + "width > 1" + ")" * 60, "nested too deeply"),
        ("NOT " * 60 + "width > 1", "nested too deeply"),
        ("-" * 100_000 + "1 < width", "nested too deeply"),
        ("(" * 100_000 + "width" + ")" * 100_000 + " > 1", "nested too deeply"),
    ],
)
def test_what_a_database_cannot_express_is_refused_in_one_sentence(text, why):
    with pytest.raises(InvalidArgument, match=why) as refused:
        parse_condition(text)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 600 and said.startswith("the filter ")
    assert "takes comparisons of a column" in said


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_condition_is_refused(text):
    with pytest.raises(InvalidArgument, match="the filter is empty"):
        parse_condition(text)


# Against SQLite


def metadata(i: int) -> dict[str, Any]:
    found: dict[str, Any] = {"tags": ["third", "näh"] if i % 3 == 0 else ["other"]}
    if i % 2:
        found |= {"rating": i / 4, "seen": i % 4 == 1, "caption": f"picture {i % 7} \"'\\"}
    if i % 5:
        found |= {"year": 2000 + i % 6, "hint": None}
    return found


def mtime(i: int) -> int:
    """Of the time around 1970, in nanoseconds: `modified` rounds towards it."""
    return (i - 20) * 86_400 * 10**9 if i % 3 else (i - 30) * 5 * 10**8


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where: Path = tmp_path_factory.mktemp("conditions") / "x.clipdex"
    said = [json.dumps(metadata(i)) for i in range(60)]
    exif, times = [drawn_exif(i) for i in range(60)], [mtime(i) for i in range(60)]
    with Index.open(drawn_index(where, rows=60, metadata=said, exif=exif, mtime_ns=times)) as opened:
        yield opened


NUMBERS = {"width": (0, 50, 120, 590), "mtime": (0, 864000, 4.5e6), "meta ->> 'year'": (2001, 2003, 2004.5),
           "meta ->> 'rating'": (0.25, 3, 10.75), "size": (100, 120, 159),
           "rating": (-1, 0, 3, 5.5), "latitude": (48.07, 48.3), "longitude": (-12, -11.7857143, -20)}  # fmt: skip
TEXTS = {"name": ("007.jpg", "030.jpg"), "folder": ("/p/odd", "/p/even"), "id": ("x",),
         "meta ->> 'caption'": ("picture 3 \"''\\", "picture 6 \"''\\", "a"),
         "taken": ("2003", "2007-08-08T07:30:07", "2007-08-08T07:30:08", "2010-11-", "2012-01-13T12:30:12x", ""),
         "modified": ("1970", "1970-01-01 00:00:00", "1969-12-31 23:59:59", "1970-01-01 00:00:01", "1969", ""),
         "camera": ("Pixel 7", "D", "''"), "lens": ("50 mm",), "taken_offset": ("+02:00",)}  # fmt: skip


def drawn(rng: random.Random, depth: int) -> str:
    """A random condition."""
    if depth and rng.random() < 0.7:
        parts = [drawn(rng, depth - 1) for _ in range(rng.randint(2, 3))]
        said = "(" + rng.choice([" AND ", " OR "]).join(parts) + ")"
        return f"NOT {said}" if rng.random() < 0.4 else said
    negation = "NOT " if rng.random() < 0.3 else ""
    kind = rng.random()
    if kind < 0.15:
        field = rng.choice(["tags", "caption"])
        value = rng.choice(["third", "näh", "other", "picture 3 \"''\\"])
        of = "keywords" if rng.random() < 0.3 else f"meta, '{field}'"
        return f"{negation}has({of}, '{rng.choice(['beach', 'k1']) if of == 'keywords' else value}')"
    if kind < 0.25:
        return f"{negation}meta ->> 'seen' {rng.choice(['=', '<>'])} {rng.randint(0, 1)}"
    fields = NUMBERS if kind < 0.7 else TEXTS
    field = rng.choice(list(fields))
    values = [str(each) if fields is NUMBERS else f"'{each}'" for each in fields[field]]
    form = rng.choice(["compare", "compare", "in", "between", "null", *(["begins"] if fields is TEXTS else [])])
    inner = rng.choice(["", "NOT "])
    if form == "in":
        return f"{negation}{field} {inner}IN ({', '.join(rng.choices(values, k=rng.randint(1, 3)))})"
    if form == "between":
        return f"{negation}{field} {inner}BETWEEN {rng.choice(values)} AND {rng.choice(values)}"
    if form == "begins":
        beginning = rng.choice([str(each) for each in fields[field] if each])[: rng.randint(1, 8)].replace(
            "''", "'"
        )
        quoted = beginning.replace("'", "''")
        return f"{negation}{field} {inner}GLOB '{quoted}*'"
    if form == "null":
        return f"{negation}{field} IS {inner}NULL"
    operator = rng.choice(["=", "==", "<>", "!=", "<", "<=", ">", ">="])
    two = [field, rng.choice(values)]
    rng.shuffle(two)
    return f"{negation}{two[0]} {operator} {two[1]}"


def test_random_conditions_mean_what_sqlite_takes_them_for(index):
    """Three-valued logic and all: what the tree keeps of the payloads is what the index keeps of its rows."""
    pictures = index.pictures(range(60))
    fields = (*FIELDS, *metadata_fields(pictures.values()))
    payloads = {row: payload_of(picture, fields) for row, picture in pictures.items()}
    rng, kept = random.Random(0), 0
    for _ in range(400):
        text = drawn(rng, rng.randint(0, 3))
        condition = checked_condition(parse_condition(text), fields)
        expected = set(index.where(text).tolist())
        assert {row for row, payload in payloads.items() if meets(payload, condition)} == expected, text
        kept += 0 < len(expected) < 60
    assert kept > 200
