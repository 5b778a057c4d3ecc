"""An index of parts answers as the one index with the same rows does: every query, filter, count and report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present, unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex import Index
from clipdex.apps.dump_files import dump_npy, dump_table
from clipdex.apps.duplicates import find_duplicates
from clipdex.index import Failure, IndexWriter, optimize_index
from clipdex.index.facets import Facets
from clipdex.index.part_plan import PartPlan
from clipdex.index.split import split_index
from clipdex.search import Grouping, Query

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.thin

ROWS, DIM = 60, 8
QUERIES = unit_vectors(6, DIM, seed=9)


def one_index(path: Path, seed: int = 0) -> Path:
    """Sixty rows, some with equal vectors and contents; five of them dead; three failures; an item."""
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(ROWS, DIM, seed=seed)
    vectors[10:20] = vectors[rng.integers(0, 10, 10)]
    contents = [int(i if i % 7 else 0).to_bytes(16, "big") for i in range(ROWS)]
    paths = [b"/p/%s/%03d.jpg" % (b"odd" if i % 2 else b"even", i) for i in range(ROWS)]
    paths[30:40] = [b"/p/%d.tar!/%d.jpg" % (i % 3, i) for i in range(30, 40)]
    paths[40] = "/p/é.jpg".encode()
    paths[41] = b"id:item\0"
    drawn_index(path, vectors=vectors, content_hash=contents, path=paths)
    with IndexWriter(path) as writer:
        for row in (3, 12, 33, 50, 59):
            writer.remove(paths[row])
        for name in (b"/p/bad", b"/p/1.tar", b"/p/worse\xff"):
            writer.fail(Failure(name, "truncated" if name == b"/p/bad" else "unreadable", "half", 1, 2))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one.clipdex; and for N of 1 to 5 the parts N, and N.clipdex, merged from them."""
    folder = tmp_path_factory.mktemp("parts")
    one_index(folder / "one.clipdex")
    for parts in range(1, 6):
        split_index(folder / "one.clipdex", folder / str(parts), parts)
        clipdex.merge_indexes([folder / str(parts)], folder / f"{parts}.clipdex")
        plan = PartPlan.read(folder / str(parts))
        for path in (b"/p/even/004.jpg", b"/p/odd/045.jpg", b"/p/0.tar!/36.jpg"):  # dead rows
            home = folder / str(parts) / plan.names()[plan.part_of(path)]
            for index in (home, folder / f"{parts}.clipdex"):
                with IndexWriter(index) as writer:
                    writer.remove(path)
    return folder


@pytest.fixture(params=range(1, 6))
def both(request: pytest.FixtureRequest, place: Path) -> Any:
    """The index of parts, and the one index that has the same rows in the same order."""
    with Index.open(place / str(request.param)) as parts, Index.open(place / f"{request.param}.clipdex") as one:
        yield parts, one


def seen(answers: Sequence[Sequence[clipdex.Hit]]) -> list[Any]:
    return [[(hit.row, hit.score, hit.path, hit.metadata, seen([hit.copies])) for hit in hits] for hits in answers]


WHERES = [
    None,
    "width > 200",
    "path GLOB '*odd*' AND width < :most",
    "has(meta, 'tags', 'third')",
    "path = 'nothing'",
    "row < 20 OR row % 7 = 0",
    [1, 5, 8, 30, 2],
]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_search_of_any_split_is_answered_as_the_one_index_answers_it(place: Path, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, 5))
    where = data.draw(st.sampled_from(WHERES))
    options: dict[str, Any] = {
        "top_k": data.draw(st.one_of(st.none(), st.integers(1, 70))),
        "offset": data.draw(st.integers(0, 20)),
        "min_score": data.draw(st.one_of(st.none(), st.floats(-1, 1))),
        "exclude": data.draw(st.lists(st.integers(0, 54), max_size=5)),
        "grouping": data.draw(st.sampled_from([None, Grouping(), Grouping(cosine=0.9)])),
        "where": where,
        "params": {"most": 400} if isinstance(where, str) and ":most" in where else None,
    }
    with Index.open(place / str(parts)) as split, Index.open(place / f"{parts}.clipdex") as one:
        like = split.vector(data.draw(st.sampled_from([row for row, _ in split.live_paths()])))
        queries = np.concatenate([QUERIES, like[None].astype(np.float32)])
        assert seen(split.search(queries, **options)) == seen(one.search(queries, **options))


def test_the_scores_are_those_of_the_index_that_was_split(place: Path, tmp_path: Path) -> None:
    assert split_index(place / "one.clipdex", tmp_path / "4", 4) == clipdex.Split(55, 4)
    with Index.open(place / "one.clipdex") as one, Index.open(tmp_path / "4") as parts:
        for mine, theirs in zip(one.search(QUERIES, 70), parts.search(QUERIES, 70), strict=True):
            assert sorted((h.path, h.score) for h in mine) == sorted((h.path, h.score) for h in theirs)
            assert [h.score for h in mine] == [h.score for h in theirs]


def test_flags_filter_as_rows_do_and_wrong_ones_are_refused(both: tuple[Index, Index]) -> None:
    parts, one = both
    flags = np.arange(len(one.vectors)) % 3 == 0
    assert seen(parts.search(QUERIES, 9, where=flags)) == seen(one.search(QUERIES, 9, where=flags))
    for wrong in (flags[:-1], [1000], "no condition"):
        said = []
        for index in both:
            with pytest.raises(clipdex.InvalidArgument) as raised:
                index.search(QUERIES, where=wrong)
            said.append(str(raised.value))
        assert said[0] == said[1]


def test_everything_that_is_read_by_row_or_path_is_the_same(both: tuple[Index, Index]) -> None:
    parts, one = both
    rows = len(one.vectors)
    assert (len(parts), parts.tombstones.tolist()) == (len(one), one.tombstones.tolist())
    assert parts.vectors.shape == one.vectors.shape and parts.vectors.dtype == one.vectors.dtype
    for which in (slice(None), slice(7, 41), slice(3, 40, 5), [4, 50, 4, -1], 17, np.arange(0), np.s_[:, 2]):
        assert np.array_equal(parts.vectors[which], one.vectors[which])
    assert np.array_equal(np.asarray(parts.vectors), one.vectors)
    assert parts.live_paths() == one.live_paths() and parts.live_paths(9, 44) == one.live_paths(9, 44)
    assert parts.pictures(range(0, rows, 3)) == one.pictures(range(0, rows, 3))
    assert parts.contents(5, 50) == one.contents(5, 50)
    assert parts.signatures(0, rows) == one.signatures(0, rows)
    for row, path in one.live_paths():
        assert parts.known(path) == one.known(path)
        assert np.array_equal(parts.vector(row), one.vector(row)) and parts.picture(row) == one.picture(row)
    assert parts.row("/p/é.jpg") == one.row("/p/e\u0301.jpg") and parts.row("id:item") == one.row("id:item")
    assert Query().plus(like="/p/even/002.jpg").liked_rows(parts) == Query().plus(
        like="/p/even/002.jpg"
    ).liked_rows(one)
    assert present(parts.known(b"/p/bad")).row is None and parts.known(b"/nowhere") is None
    for wrong in (rows, -1, "/nowhere"):
        with pytest.raises(clipdex.InvalidArgument):
            parts.row(wrong)
    assert parts.failures() == one.failures() and parts.failed_paths() == one.failed_paths()
    assert parts.failures_page(2, 1) == one.failures_page(2, 1)
    mine, theirs = parts.info(), one.info()
    assert (mine.rows, mine.tombstones, mine.failures) == (theirs.rows, theirs.tombstones, theirs.failures)
    assert parts.manifest == one.manifest
    assert parts.where("width > :w", {"w": 90}).tolist() == one.where("width > :w", {"w": 90}).tolist()


def test_counts_of_values_are_the_same(both: tuple[Index, Index]) -> None:
    facets = [Facets(index) for index in both]
    for by in ("folder", "width", "caption", "tags"):
        assert facets[0].counts(by) == facets[1].counts(by)
    assert facets[0].counts("folder", where="width > 100") == facets[1].counts("folder", where="width > 100")
    assert facets[0].columns() == facets[1].columns()


def test_duplicates_are_found_across_parts(both: tuple[Index, Index]) -> None:
    for kind in ("exact", "near", "semantic"):
        assert find_duplicates(both[0], kind) == find_duplicates(both[1], kind)
    assert find_duplicates(both[0], "exact").groups


def test_dumps_are_the_same(both: tuple[Index, Index], tmp_path: Path) -> None:
    for name, index in zip("ab", both, strict=True):
        dump_npy(index, tmp_path / f"{name}.npy")
        dump_table(index, tmp_path / f"{name}.csv")
    for suffix in ("npy", "csv"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.slow
def test_codes_and_many_close_rows_change_no_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vectors = unit_vectors(3, 32, seed=3)[rng.integers(0, 2, 5000)] + 2e-3 * rng.standard_normal((5000, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    drawn_index(tmp_path / "one", vectors=vectors.astype(np.float32))
    split_index(tmp_path / "one", tmp_path / "parts", 3)
    clipdex.merge_indexes([tmp_path / "parts"], tmp_path / "merged")
    queries = np.concatenate([unit_vectors(2, 32, seed=3), unit_vectors(6, 32, seed=4)])
    asked: list[dict[str, Any]] = [
        {"top_k": 20},
        {"top_k": 300, "offset": 50},
        {"min_score": 0.2, "where": "width > 20000"},
        {"exclude": [5, 4000], "where": "row % 9 = 0"},
    ]
    with Index.open(tmp_path / "merged") as one:
        expected = [seen(one.search(queries, **options)) for options in asked]
    for _ in range(2):  # without codes, then with them
        with Index.open(tmp_path / "parts") as parts:
            assert [seen(parts.search(queries, **options)) for options in asked] == expected
            for each in (0, 1, 5):
                assert seen(parts.search(queries[each], 20)) == [expected[0][each]]
        optimize_index(tmp_path / "parts")


def test_an_unsound_row_is_named_with_its_number_in_the_whole(tmp_path: Path) -> None:
    one_index(tmp_path / "one")
    split_index(tmp_path / "one", tmp_path / "parts", 3)
    with Index.open(tmp_path / "parts") as parts:
        first, last = parts.pieces()[-1]
        query = parts.vector(first + 1)
        with (last.directory / "vectors.f16").open("r+b") as file:
            file.seek(2 * DIM)
            file.write(b"\x00\x7c")  # infinity
        with pytest.raises(clipdex.IndexDamaged, match=f"row {first + 1} is damaged"):
            parts.search(query)
        assert parts.search(query, exclude=[first + 1])
