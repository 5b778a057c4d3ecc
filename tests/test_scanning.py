"""Searches under way at once share scans: each finds exactly what it finds alone, and none harms another."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import unit_vectors
from search_cases import KINDS, drawn_case, small_pieces
from waiting import wait_until

import clipdex
import clipdex.aio
from clipdex import Collection, Item, Query
from clipdex.collection import scanning
from clipdex.collection.searching import search_steps
from clipdex.index import Index
from clipdex.index.asked import View
from clipdex.index.where import Where
from clipdex.search.topk import top_k

pytestmark = pytest.mark.thin

ROWS, DIM = 300, 16


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[Collection]:
    """Items "0" to "299", some of them equal or almost, some removed, with metadata."""
    with made(tmp_path / "x.clipdex") as opened:
        yield opened


def made(directory: Path) -> Collection:
    vectors = unit_vectors(ROWS, DIM)
    vectors[100:140] = vectors[7]
    vectors[200:220] = np.nextafter(vectors[9], np.float32(1))
    manifest = clipdex.Manifest("f" * 64, "drawn", DIM, "float32")
    clipdex.IndexWriter.open_or_create(directory, manifest).close()
    opened = Collection.open(directory)
    opened.add([Item(str(i), vector=vectors[i], metadata={"n": i % 7}) for i in range(ROWS)])
    opened.remove([str(i) for i in range(5, ROWS, 9)])
    return opened


class Held:
    """Holds scans until it is released, and counts them: the numbers of queries in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.threads: list[str] = []
        self.begun, self._go = threading.Event(), threading.Event()
        bare = View.ranked

        def ranked(view: View, asked: Any, *args: Any) -> Any:
            self.sizes.append(len(asked))
            self.threads.append(threading.current_thread().name)
            self.begun.set()
            assert self._go.wait(30)
            return bare(view, asked, *args)

        monkeypatch.setattr(View, "ranked", ranked)

    def release(self) -> None:
        self._go.set()


@pytest.fixture
def held(pictures: Collection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held(monkeypatch)
    yield found
    found.release()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64, thread_name_prefix="caller") as pool:
        yield pool


def waiting(pictures: Collection) -> int:
    return sum(map(len, list(pictures._core.scans._waiting.values())))


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_queries_of_one_scan_find_what_each_finds_alone(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch)
    for seed in range(kind, 5 * len(KINDS), len(KINDS)):
        case = drawn_case(seed)
        rng = np.random.default_rng(seed)
        n, count = len(case.vectors), len(case.queries)
        k = rng.choice([0, 1, 2, 5, n, n + 5], count).tolist()
        least = [replace(case, queries=case.queries[q : q + 1], k=3).search()[0].scores for q in range(count)]
        minimum = [float(s[rng.integers(len(s))]) if len(s) and rng.random() < 0.5 else -np.inf for s in least]
        excluded = [np.flatnonzero(rng.random(n) < share) for share in rng.choice([0, 0, 0.01, 0.5], count)]
        rest: dict[str, Any] = {"codes": case.codes, "allowed": case.allowed}
        shared = top_k(case.vectors, case.queries, k, dead=case.dead, minimum=minimum, excluded=excluded, **rest)
        for q in range(count):
            dead = np.union1d(case.dead, excluded[q])
            (alone,) = top_k(case.vectors, case.queries[q : q + 1], k[q], dead=dead, minimum=minimum[q], **rest)
            assert shared[q].rows.tolist() == alone.rows.tolist(), f"{case}: query {q}"
            assert shared[q].scores.tobytes() == alone.scores.tobytes(), f"{case}: query {q}"


def drawn_search(rng: random.Random, filters: list[Any]) -> dict[str, Any]:
    """The arguments of a random search of `pictures`."""
    alive = [i for i in range(ROWS) if i % 9 != 5]
    one: dict[str, Any] = {"top_k": rng.choice([None, 1, 5, 30, 1000]), "offset": rng.choice([0, 0, 3, 50])}
    one["min_score"] = rng.choice([None, None, -1, 0.0, 0.3, 1.0])
    one |= rng.choice(filters)
    kind = rng.randrange(5)
    if kind == 0:
        one["vector"] = unit_vectors(1, DIM, seed=rng.randrange(1000))[0]
    elif kind == 1:
        one["item"] = str(rng.choice(alive))
    elif kind == 2:
        one["item"] = rng.choice(alive)
    elif kind == 3:
        one["text"] = Query().plus(like=rng.choice(alive)).minus(like=f"id:{rng.choice(alive)}", weight=0.3)
    else:
        one |= {"item": str(rng.choice(alive)), "group": True, "top_k": 5, "offset": 0}
    return one


def alone(index: Index, search: dict[str, Any]) -> clipdex.Hits:
    """What `Index.search` gives for the arguments of `Collection.search`."""
    rest = dict(search)
    vector, item, mixed, group = (rest.pop(name, None) for name in ("vector", "item", "text", "group"))
    excluded: list[int] = []
    if item is not None:
        row = index.row(f"id:{item}" if isinstance(item, str) else item)
        vector, excluded = index.vector(row), [row]
    elif mixed is not None:
        vector, excluded = mixed.mixed(None, None, index), mixed.liked_rows(index)
    return index.search(vector, exclude=excluded, grouping=clipdex.Grouping() if group else None, **rest)[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_searches_at_once_find_what_each_finds_alone(
    pictures: Collection, threads: ThreadPoolExecutor, seed: int, held: Held
) -> None:
    rng = random.Random(seed)
    rows = np.flatnonzero(unit_vectors(ROWS, 1, seed=3)[:, 0] > 0)
    filters: list[Any] = [
        {},
        {},
        {"where": "meta ->> 'n' < :n", "params": {"n": 3}},
        {"where": "meta ->> 'n' < :n", "params": {"n": 5}},
        {"where": "id GLOB '1*'"},
        {"where": rows},
        {"where": list(range(40))},
    ]
    asked = [drawn_search(rng, filters) for _ in range(150)]
    started = [threads.submit(pictures.search, **one) for one in asked]
    wait_until(lambda: waiting(pictures) > 20)
    held.release()
    with Index.open(pictures.directory) as index:
        for one, future in zip(asked, started, strict=True):
            found, expected = future.result(30), alone(index, one)
            assert found == expected, one
            assert [hit.metadata for hit in found] == [hit.metadata for hit in expected]
            assert [hit.score.hex() for hit in found] == [hit.score.hex() for hit in expected]
            assert [hit.copies for hit in found] == [hit.copies for hit in expected]
    assert max(held.sizes) > 5


def test_a_lone_search_scans_at_once_in_its_own_thread(pictures: Collection, held: Held) -> None:
    held.release()
    for _ in range(3):
        pictures.similar("3")
    assert held.threads == [threading.current_thread().name] * 3


def test_those_that_come_during_a_scan_share_the_next(
    pictures: Collection, threads: ThreadPoolExecutor, held: Held
) -> None:
    first = threads.submit(pictures.similar, "3")
    assert held.begun.wait(30)
    others = [threads.submit(pictures.similar, str(i), i % 9 + 1) for i in range(40) if i % 9 != 5]
    wait_until(lambda: waiting(pictures) == len(others))
    held.release()
    assert [len(other.result(30)) for other in others] == [i % 9 + 1 for i in range(40) if i % 9 != 5]
    assert len(first.result(30)) == 5
    assert held.sizes == [1, len(others)]
    assert pictures._core.scans._waiting == {}


def test_a_search_that_is_wrong_fails_alone(pictures: Collection, threads: ThreadPoolExecutor, held: Held) -> None:
    first = threads.submit(pictures.similar, "3")
    assert held.begun.wait(30)
    good = [threads.submit(pictures.similar, str(i)) for i in range(5)]
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (clipdex.ItemNotFound, {"item": "nobody"}),
        (clipdex.InvalidArgument, {"vector": np.ones(DIM, np.float32)}),
        (clipdex.InvalidArgument, {"vector": unit_vectors(1, 3)[0]}),
        (clipdex.InvalidArgument, {"item": "3", "top_k": 0}),
        (clipdex.InvalidArgument, {"item": "3", "min_score": 2}),
        (clipdex.InvalidArgument, {"item": "3", "offset": -1}),
        (clipdex.InvalidArgument, {"item": "3", "offset": "1"}),
        (clipdex.InvalidArgument, {"item": "3", "where": "width >"}),
        (clipdex.InvalidArgument, {"item": "3", "where": "width > :x", "params": {"x": [1]}}),
        (clipdex.InvalidArgument, {"item": "3", "params": {"x": 1}}),
        (clipdex.InvalidArgument, {"item": "3", "where": [ROWS]}),
    ]
    bad = [(threads.submit(pictures.search, **one), kind, one) for kind, one in wrong]
    wait_until(lambda: waiting(pictures) >= 10)
    held.release()
    for future, kind, one in bad:
        with pytest.raises(kind):
            future.result(30)
            pytest.fail(f"{one} was answered")
    assert all(len(future.result(30)) == 5 for future in [first, *good])


def test_those_whose_filter_fails_all_get_its_error(
    pictures: Collection, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    bare = Where.rows

    def rows(*args: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return bare(*args)

    monkeypatch.setattr(Where, "rows", rows)
    some = [threads.submit(pictures.similar, str(i), where="width >") for i in range(5)]
    assert begun.wait(30)
    wait_until(lambda: waiting(pictures) == 4)
    # A filter that takes long holds up nobody without it.
    assert len(threads.submit(pictures.similar, "3").result(30)) == 5
    go.set()
    errors = [future.exception(30) for future in some]
    assert all(isinstance(error, clipdex.InvalidArgument) for error in errors)
    assert len({id(error) for error in errors}) == 5, "each has a traceback of its own"


def test_a_damaged_row_fails_only_the_searches_that_meet_it(
    pictures: Collection, threads: ThreadPoolExecutor, held: Held
) -> None:
    vectors = pictures.directory / Index.open(pictures.directory).manifest.vectors_file
    with vectors.open("r+b") as file:
        file.seek(3 * 4 * DIM)
        file.write(np.full(DIM, 9, np.float32).tobytes())
    first = threads.submit(pictures.search, vector=unit_vectors(1, DIM)[0], where=[1, 2])
    assert held.begun.wait(30)
    rows = [1, 2, 3, 4]
    bad = [threads.submit(pictures.similar, i, where=rows) for i in (1, 2)]
    good = threads.submit(pictures.search, Query().plus(like=1).plus(like=2), where=[1, 2, 4])
    held.release()
    for future in bad:
        with pytest.raises(clipdex.IndexDamaged, match="row 3 is damaged"):
            future.result(30)
    assert [hit.row for hit in good.result(30)] == [4]
    assert len(first.result(30)) == 2


def test_one_that_would_fail_the_scan_for_all_is_answered_alone(
    pictures: Collection, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    bare = View.ranked

    def ranked(view: View, asked: Any, *args: Any) -> Any:
        if any(one.depth == 17 for one in asked):
            raise clipdex.IndexDamaged("met by one")
        return bare(view, asked, *args)

    monkeypatch.setattr(View, "ranked", ranked)
    first = threads.submit(pictures.similar, "3")
    assert held.begun.wait(30)
    others = [threads.submit(pictures.similar, "4", top_k) for top_k in (16, 17, 18)]
    wait_until(lambda: waiting(pictures) == 3)
    held.release()
    with pytest.raises(clipdex.IndexDamaged, match="met by one"):
        others[1].result(30)
    assert [len(future.result(30)) for future in (first, others[0], others[2])] == [5, 16, 18]


def test_a_search_sees_what_was_committed_when_it_began(
    pictures: Collection, threads: ThreadPoolExecutor, held: Held
) -> None:
    vector = unit_vectors(1, DIM, seed=99)[0]
    first = threads.submit(pictures.search, vector=vector, top_k=1)
    assert held.begun.wait(30)
    pictures.add(Item("late", vector=vector))
    later = [threads.submit(pictures.search, vector=vector, top_k=1) for _ in range(5)]
    wait_until(lambda: waiting(pictures) == 5)
    held.release()
    assert first.result(30)[0].id != "late", "its scan had begun"
    assert [future.result(30)[0].id for future in later] == ["late"] * 5


def test_a_waiting_search_that_is_cancelled_takes_part_in_no_scan(pictures: Collection, held: Held) -> None:
    async def cancel() -> None:
        async with clipdex.aio.Collection.open(pictures.directory, read_only=True) as twin:
            first = asyncio.create_task(twin.similar("3"))
            await asyncio.to_thread(held.begun.wait, 30)
            others = [asyncio.create_task(twin.similar("4")) for _ in range(6)]
            await asyncio.to_thread(wait_until, lambda: waiting(twin.collection) == 6)
            for other in others[:4]:
                other.cancel()
            await asyncio.sleep(0)
            await asyncio.gather(*others[:4], return_exceptions=True)
            held.release()
            assert [len(await task) for task in (first, *others[4:])] == [5, 5, 5]
        assert held.sizes == [1, 2]

    asyncio.run(cancel())


def test_a_waiting_search_that_is_interrupted_takes_part_in_no_scan(
    pictures: Collection, threads: ThreadPoolExecutor, held: Held
) -> None:
    first = threads.submit(pictures.similar, "3")
    assert held.begun.wait(30)
    steps = search_steps(pictures._core, item="4")
    future = next(steps)
    steps.close()  # as Ctrl-C does in `run`
    assert future.cancelled()
    held.release()
    assert len(first.result(30)) == 5
    assert held.sizes == [1]


def test_at_most_so_many_wait_and_more_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    monkeypatch.setattr(scanning, "_WAITING", 8)
    monkeypatch.setattr(scanning, "_AT_ONCE", 4)
    with made(tmp_path / "small.clipdex") as pictures:
        held = Held(monkeypatch)
        some = [threads.submit(pictures.similar, "3") for _ in range(30)]
        wait_until(lambda: waiting(pictures) == 8)
        time.sleep(0.05)
        assert waiting(pictures) == 8
        held.release()
        assert all(len(future.result(30)) == 5 for future in some)
        assert max(held.sizes) == 4
        assert pictures._core.scans._room._value == 8


def test_searches_that_wait_when_the_collection_is_closed_say_so(
    pictures: Collection, threads: ThreadPoolExecutor, held: Held
) -> None:
    first = threads.submit(pictures.similar, "3")
    assert held.begun.wait(30)
    others = [threads.submit(pictures.similar, "4") for _ in range(10)]
    wait_until(lambda: waiting(pictures) == 10)
    closing = threads.submit(pictures.close)
    wait_until(pictures._core.closed.is_set)
    held.release()
    closing.result(30)
    assert len(first.result(30)) == 5
    for other in others:
        with pytest.raises(clipdex.Closed, match="is closed: open it again"):
            other.result(30)


def test_reads_and_commits_do_not_wait_for_a_scan(
    pictures: Collection, threads: ThreadPoolExecutor, held: Held
) -> None:
    first = threads.submit(pictures.similar, "3", top_k=1000)
    assert held.begun.wait(30)
    pictures.add(Item("late", vector=unit_vectors(1, DIM, seed=99)[0], metadata={"n": 9}))
    assert pictures.get("late").metadata == {"n": 9}  # type: ignore[union-attr]
    pictures.remove("4")
    assert not first.done()
    held.release()
    found = [hit.id for hit in first.result(30)]
    assert "late" not in found
    assert "4" in found, "it was there when the search began"


def test_a_search_during_a_compaction_begins_again(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "x.clipdex").close()
    with Collection.open(tmp_path / "x.clipdex", read_only=True) as pictures:
        expected = [(hit.id, hit.score) for hit in pictures.similar("3", top_k=1000)]
        rows = pictures.get("299").row  # type: ignore[union-attr]
        held = Held(monkeypatch)
        first = threads.submit(pictures.similar, "3", top_k=1000)
        assert held.begun.wait(30)
        clipdex.compact_index(tmp_path / "x.clipdex")
        assert pictures.get("299").row < rows  # type: ignore[union-attr]
        held.release()
        assert [(hit.id, hit.score) for hit in first.result(30)] == expected
        assert held.sizes == [1, 1]


def test_hits_of_one_scan_are_read_together(pictures: Collection, held: Held, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(pictures.search, item="0")
    assert held.begun.wait(30)
    later = [threads.submit(pictures.search, item=str(i), top_k=4) for i in (1, 2, 3)]
    wait_until(lambda: waiting(pictures) == 3)
    with counted_reads() as reads:
        held.release()
        found = [each.result(30) for each in (first, *later)]
    assert sorted(reads) == [5, 12]
    assert found[1:] == [pictures.search(item=str(i), top_k=4) for i in (1, 2, 3)]


def test_hits_are_made_of_some_searches_at_a_time(
    pictures: Collection, held: Held, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_HITS_AT_ONCE", 8)
    first = threads.submit(pictures.search, item="0")
    assert held.begun.wait(30)
    later = [threads.submit(pictures.search, item=str(i), top_k=4) for i in (1, 2, 3)]
    wait_until(lambda: waiting(pictures) == 3)
    with counted_reads() as reads:
        held.release()
        for each in (first, *later):
            each.result(30)
    assert len(reads) == 3


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """The numbers of rows whose hits are made together."""
    sizes: list[int] = []
    bare = Index.hits

    def hits(index: Index, asked: Any, rankings: Any) -> Any:
        sizes.append(sum(len(each.rows) for each in rankings))
        return bare(index, asked, rankings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "hits", hits)
        yield sizes
