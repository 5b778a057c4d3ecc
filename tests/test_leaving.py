"""Searches and comparisons that nobody waits for any more: they end, and those that somebody waits for go on."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import unit_vectors
from search_cases import small_pieces
from waiting import wait_until

import clipdex
from clipdex import Collection, Item, aio
from clipdex.apps.duplicates import find_duplicates
from clipdex.collection import scanning
from clipdex.index import Index, PartedIndex, asked, condition_guard, optimize_index, picture_view
from clipdex.index.facets import Facets
from clipdex.index.split import split_index
from clipdex.search.topk import Search, top_k
from clipdex.testing import FakeTransport

MOST_S = 20
ROWS = 300


class Enough(Exception):
    """Raised by a check that ends the work."""


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "x.clipdex"
    with clipdex.Client(FakeTransport()) as client, Collection.open(path, client=client) as collection:
        collection.add([Item(str(n), vector=vector) for n, vector in enumerate(unit_vectors(ROWS, 8))])
    return path


class Long:
    """A ranking that takes minutes unless it is ended or let go. sizes: how many queries each had."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real = real
        self.sizes: list[int] = []
        self.ended = 0
        self.go = threading.Event()

    def __call__(self, rows: Any, queries: Any, *args: Any, check: Callable[[], None], **options: Any) -> Any:
        self.sizes.append(len(queries))
        ends = time.monotonic() + 3 * MOST_S
        try:
            while not self.go.wait(0.01):
                assert time.monotonic() < ends
                check()
        except Exception:
            self.ended += 1
            raise
        return self.real(rows, queries, *args, **options)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Long:
    made = Long(top_k)
    monkeypatch.setattr(asked, "exact_top_k", made)
    return made


@contextmanager
def asking(port: int, path: str, body: dict[str, Any] | None = None) -> Iterator[None]:
    """Send a request, and close the connection at the end without reading the answer."""
    said = b"" if body is None else json.dumps(body).encode()
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + said)
        yield


# Searches


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/search?text=a+dog", None, id="by text"),
        pytest.param("/v1/search", {"vector": unit_vectors(1, 8)[0].tolist()}, id="by vector"),
        pytest.param("/v1/similar?row=0&where=row%3E3", None, id="with a condition"),
        pytest.param("/v1/similar?row=0&group=true", None, id="grouped"),
        pytest.param("/v1/similar?row=0&offset=10000", None, id="deep"),
        pytest.param("/?text=a+dog&group=0", None, id="of the page"),
    ],
)
def test_a_client_that_leaves_ends_its_search_and_one_that_waits_does_not(
    index: Path, long: Long, path: str, body: dict[str, Any] | None
) -> None:
    pytest.importorskip("fastapi", reason="the REST API needs the extra web")
    from web_server import serving, settings_of

    with serving(settings_of(index, request_timeout_s=600)) as port:
        with asking(port, path, body):
            wait_until(lambda: bool(long.sizes))
            time.sleep(0.2)
            assert not long.ended
        wait_until(lambda: long.ended == 1)
        long.go.set()


def test_a_request_whose_time_is_up_ends_its_search(index: Path, long: Long) -> None:
    pytest.importorskip("fastapi", reason="the REST API needs the extra web")
    from web_server import answering, settings_of

    with answering(settings_of(index, request_timeout_s=0.3)) as web:
        assert web.get("/v1/similar?row=0").status_code == 504
        wait_until(lambda: long.ended == 1)


def test_a_scan_goes_on_while_one_of_those_who_share_it_waits(index: Path, long: Long) -> None:
    async def share() -> None:
        async with aio.Collection.open(index, read_only=True) as pictures:
            waiting = pictures.collection._core.scans._waiting
            first = asyncio.ensure_future(pictures.similar("0"))
            await asyncio.to_thread(wait_until, lambda: long.sizes == [1])
            rest = [asyncio.ensure_future(pictures.similar(str(n))) for n in range(1, 4)]
            await asyncio.to_thread(wait_until, lambda: sum(map(len, waiting.values())) == 3)
            rest[0].cancel()
            first.cancel()
            await asyncio.to_thread(wait_until, lambda: long.sizes == [1, 2])
            assert long.ended == 1
            rest[1].cancel()
            await asyncio.sleep(0.2)
            assert long.ended == 1
            long.go.set()
            assert [hit.id for hit in await rest[2]] == expected

    with Collection.open(index, read_only=True) as pictures:
        long.go.set()
        expected = [hit.id for hit in pictures.similar("3")]
        long.go.clear()
        long.sizes.clear()
    asyncio.run(share())


def test_a_scan_ends_once_all_who_share_it_have_left(index: Path, long: Long) -> None:
    async def leave() -> None:
        async with aio.Collection.open(index, read_only=True) as pictures:
            waiting = pictures.collection._core.scans._waiting
            first = asyncio.ensure_future(pictures.similar("0"))
            await asyncio.to_thread(wait_until, lambda: long.sizes == [1])
            rest = [asyncio.ensure_future(pictures.similar(str(n))) for n in (1, 2)]
            await asyncio.to_thread(wait_until, lambda: sum(map(len, waiting.values())) == 2)
            first.cancel()
            await asyncio.to_thread(wait_until, lambda: long.sizes == [1, 2])
            for task in rest:
                task.cancel()
            await asyncio.to_thread(wait_until, lambda: long.ended == 2)

    asyncio.run(leave())


def test_a_search_that_nobody_waits_for_does_not_begin() -> None:
    withdrawn = threading.Event()
    wanted = [
        scanning.Wanted(lambda _: pytest.fail("it began"), None, None, None, {}, withdrawn) for _ in range(2)
    ]
    assert wanted[0].begins()
    withdrawn.set()
    assert not wanted[1].begins() and wanted[1].done.cancelled()


@pytest.mark.parametrize("coded", [False, True], ids=["plain", "with codes"])
def test_a_search_asks_before_each_piece_whether_to_go_on(
    index: Path, monkeypatch: pytest.MonkeyPatch, coded: bool
) -> None:
    small_pieces(monkeypatch)
    if coded:
        optimize_index(index)
    with Index.open(index) as opened:
        queries = unit_vectors(3, 8, seed=1)
        calls: list[int] = []
        spans: list[object] = []
        sift = Search._sift
        with monkeypatch.context() as patched:
            patched.setattr(Search, "_sift", lambda self, *of, **how: (spans.append(of), sift(self, *of, **how)))
            found = opened.search(queries, 5, check=lambda: calls.append(1))
        assert found == opened.search(queries, 5)
        assert len(calls) == len(spans) + len(queries) and len(spans) > 3
        for last in (1, 3, len(calls)):
            with pytest.raises(Enough):
                opened.search(queries, 5, check=ends_at(last))
        with pytest.raises(Enough):
            opened.search(queries[0], 5, grouping=clipdex.Grouping(), check=ends_at(3))


def test_a_search_of_parts_asks_before_each_piece_whether_to_go_on(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    split_index(index, tmp_path / "x.parts", 3)
    with Index.open(tmp_path / "x.parts") as opened:
        assert isinstance(opened, PartedIndex)
        calls: list[int] = []
        opened.search(unit_vectors(1, 8), 5, check=lambda: calls.append(1))
        assert len(calls) > 6
        with pytest.raises(Enough):
            opened.search(unit_vectors(1, 8), 5, check=ends_at(len(calls)))


# Conditions


class Slow:
    """The function `has` of conditions, as one that is slow until it is let go. rows: how many it has seen."""

    def __init__(self) -> None:
        self.rows = 0
        self.go = threading.Event()

    def __call__(self, *_: object) -> int:
        self.rows += 1
        self.go.wait(0.05)
        return 1

    def ends_soon(self) -> Callable[[], None]:
        """A check that raises once a row more has been seen."""
        before = self.rows

        def check() -> None:
            if self.rows > before:
                raise Enough

        return check


SLOW = "has(meta, 'k', 'v')"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    made = Slow()
    monkeypatch.setattr(picture_view, "_has", made)
    monkeypatch.setattr(condition_guard, "_STEPS", 10)  # less than one row
    return made


def test_a_condition_asks_now_and_then_whether_to_go_on(index: Path, tmp_path: Path, slow: Slow) -> None:
    split_index(index, tmp_path / "x.parts", 2)
    for path in (index, tmp_path / "x.parts"):
        with Index.open(path) as opened:
            for condition in (SLOW, f"{SLOW} AND row >= 0"):
                slow.go.clear()
                seen = slow.rows
                with pytest.raises(Enough):
                    opened.search(unit_vectors(1, 8), 5, where=condition, check=slow.ends_soon())
                assert slow.rows < seen + 10
                slow.go.set()
                assert (
                    len(opened.where(condition)) == ROWS
                )  # nothing is kept of what was ended, and nobody asked for
            with pytest.raises(Enough):
                Facets(opened, ends_at(1)).counts("width", where=f"{SLOW} AND row >= 1")
            with pytest.raises(Enough):
                Facets(opened, ends_at(1)).columns()


@pytest.mark.parametrize(
    "path", ["/v1/similar?row=0&where=", "/v1/similar?row=0&group=true&where=", "/v1/facets?by=width&where="]
)
def test_a_client_that_leaves_ends_its_condition(index: Path, slow: Slow, path: str) -> None:
    pytest.importorskip("fastapi", reason="the REST API needs the extra web")
    from web_server import serving, settings_of

    with serving(settings_of(index, request_timeout_s=600)) as port:
        with asking(port, path + quote(SLOW)):
            wait_until(lambda: slow.rows > 2)
        wait_until(lambda: stands_still(lambda: slow.rows))
        assert slow.rows < ROWS
        slow.go.set()
        with asking(port, path + quote(SLOW)):  # the next who asks is not given what was ended
            wait_until(lambda: slow.rows >= ROWS)


def stands_still(number: Callable[[], int]) -> bool:
    """Return whether a number that grows twenty times a second stays what it is for half a second."""
    before = number()
    time.sleep(0.5)
    return number() == before


def ends_at(call: int) -> Callable[..., None]:
    """A check, or a report of progress, that raises when it is called for the n-th time."""
    calls = itertools.count(1)

    def check(*_: object) -> None:
        if next(calls) == call:
            raise Enough

    return check


# Duplicates


@pytest.mark.parametrize("kind", ["exact", "near", "semantic"])
def test_a_comparison_says_where_it_is_from_the_first_row_on(
    index: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with Collection.open(index) as pictures:
        vectors = unit_vectors(ROWS, 8)
        pictures.add([Item(f"again {n}", vector=vectors[n], metadata={"of": n}) for n in range(3)])
    monkeypatch.setattr("clipdex.apps.duplicates.find._ROWS_AT_ONCE", 100)
    told: list[tuple[int, int]] = []
    groups = len(find_duplicates(index, kind, progress=lambda *each: told.append(each)).groups)
    assert told[:4] == [(0, ROWS + 3)] * 4
    assert told[-groups:] == [(ROWS, ROWS)] * groups  # of equal pictures one is compared
    for last in (1, 4, len(told)):
        with pytest.raises(Enough):
            find_duplicates(index, kind, progress=ends_at(last))


class Comparing:
    """A comparison that takes minutes unless it is ended or let go. looks: now and then, whether to go on."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.looks = True
        self.go = threading.Event()

    def __call__(self, *given: Any, progress: Callable[[int, int], None], **options: Any) -> Any:
        self.begun += 1
        ends = time.monotonic() + 3 * MOST_S
        try:
            while not self.go.wait(0.01):
                assert time.monotonic() < ends
                if self.looks:
                    progress(0, 1)
        except Exception:
            self.ended += 1
            raise
        return find_duplicates(*given, progress=progress, **options)


@pytest.fixture
def comparing(monkeypatch: pytest.MonkeyPatch) -> Comparing:
    pytest.importorskip("fastapi", reason="the REST API needs the extra web")
    from clipdex.web.routes import duplicates

    made = Comparing()
    monkeypatch.setattr(duplicates, "find_duplicates", made)
    return made


def test_a_comparison_ends_once_all_its_clients_have_left(index: Path, comparing: Comparing) -> None:
    from web_server import serving, settings_of

    with serving(settings_of(index, request_timeout_s=600)) as port:
        with asking(port, "/v1/duplicates"):
            wait_until(lambda: comparing.begun == 1)
            with asking(port, "/v1/duplicates"):
                time.sleep(0.2)
            time.sleep(0.2)
            assert (comparing.begun, comparing.ended) == (1, 0)
        wait_until(lambda: comparing.ended == 1)
        comparing.looks = False
        with asking(port, "/v1/duplicates"):
            wait_until(lambda: comparing.begun == 2)  # from the beginning
        time.sleep(0.2)
        with asking(port, "/v1/duplicates"):  # before the one that was given up has noticed
            time.sleep(0.2)
            comparing.looks = True
            wait_until(lambda: comparing.begun == 3)
        wait_until(lambda: comparing.ended == 3)


def test_a_comparison_that_waits_for_another_does_not_begin_once_its_client_has_left(
    index: Path, comparing: Comparing
) -> None:
    from web_server import serving, settings_of

    with serving(settings_of(index, request_timeout_s=600)) as port:
        with asking(port, "/v1/duplicates"):
            wait_until(lambda: comparing.begun == 1)
            with asking(port, "/v1/duplicates?kind=exact"):
                time.sleep(0.2)
            time.sleep(0.2)
        wait_until(lambda: comparing.ended == 1)
        time.sleep(0.2)
        assert comparing.begun == 1


def test_a_comparison_goes_on_for_a_client_that_was_told_to_come_back_until_it_is_late(
    index: Path, comparing: Comparing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from web_server import answering, settings_of

    from clipdex.web import computing
    from clipdex.web.routes import duplicates

    monkeypatch.setattr(duplicates, "_WAIT_S", 0.05)
    monkeypatch.setattr(computing, "_COMES_BACK_S", 0.5)
    with answering(settings_of(index)) as web:
        for _ in range(8):
            assert web.get("/v1/duplicates").status_code == 503
            time.sleep(0.1)
        assert (comparing.begun, comparing.ended) == (1, 0)
        wait_until(lambda: comparing.ended == 1)
        comparing.go.set()
        monkeypatch.setattr(duplicates, "_WAIT_S", MOST_S)
        assert web.get("/v1/duplicates").json()["total"] == 0
        assert comparing.begun == 2
