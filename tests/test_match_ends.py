"""Matches that nobody waits for any more: they end soon, and their threads are free for others."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from scenes import give_features, scene, scene_png
from waiting import wait_until

pytest.importorskip("cv2")

import clipdex
from clipdex import Collection, Item, aio
from clipdex.features import Matcher, matching
from clipdex.testing import FakeTransport

pytestmark = pytest.mark.slow

MOST_S = 60


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "x.clipdex"
    with clipdex.Client(FakeTransport()) as client, Collection.open(path, client=client) as collection:
        collection.add([Item(str(n), scene_png(n)) for n in range(3)])
    give_features(path, *map(scene_png, range(3)))
    return path


class Long:
    """A comparison of pictures that takes minutes unless it is ended."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def __call__(self, neighbours: Any, store: Any, *_: object, **__: object) -> list[Any]:
        self.begun.set()
        ends = time.monotonic() + 3 * MOST_S
        try:
            while time.monotonic() < ends:
                store.of(0)
                time.sleep(0.01)
        except Exception:
            self.ended.set()
            raise
        return []


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Long:
    made = Long()
    monkeypatch.setattr(matching, "matches", made)
    return made


def test_a_cancelled_task_ends_its_match(index: Path, long: Long) -> None:
    async def cancel() -> None:
        async with aio.Collection.open(index, read_only=True) as pictures:
            task = asyncio.ensure_future(pictures.match(scene(1)))
            await asyncio.to_thread(wait_until, long.begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, long.ended.is_set)

    asyncio.run(cancel())


def test_a_closed_collection_ends_its_matches(index: Path, long: Long) -> None:
    told: list[BaseException] = []

    def match() -> None:
        try:
            pictures.match(scene(1))
        except clipdex.Closed as exc:
            told.append(exc)

    pictures = Collection.open(index, read_only=True)
    waiting = threading.Thread(target=match)
    waiting.start()
    wait_until(long.begun.is_set)
    pictures.close()
    waiting.join(MOST_S)
    assert long.ended.is_set() and "closed" in str(told[0])


def test_a_client_that_leaves_ends_its_match_and_one_that_waits_does_not(index: Path, long: Long) -> None:
    pytest.importorskip("fastapi", reason="the REST API needs the extra web")
    from test_contract_collection import _base64
    from web_server import serving, settings_of

    body = json.dumps({"image": _base64(scene_png(1))}).encode()
    head = f"POST /v1/match HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    with serving(settings_of(index, request_timeout_s=600)) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head.encode() + body)
            wait_until(long.begun.is_set)
            assert not long.ended.wait(0.2)
        wait_until(long.ended.is_set)


def test_what_is_compared_exactly_ends_between_two_blocks(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Enough

    monkeypatch.setattr("clipdex.features.store._BLOCK", 30)  # descriptors: a picture
    monkeypatch.setattr("clipdex.features.watched.Watched.of", lambda *_: pytest.fail("it came to the pictures"))
    with clipdex.Index.open(index) as opened, Matcher(opened) as matcher, pytest.raises(Enough):
        matcher.match(scene(1), check=check)


def test_the_condition_of_a_match_and_the_search_within_a_text_end_as_it_does(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    plain = clipdex.Index.allowed

    def allowed(self: clipdex.Index, where: Any, params: Any, check: Any = lambda: None) -> Any:
        check()
        return plain(self, where, params, check)

    monkeypatch.setattr(clipdex.Index, "allowed", allowed)
    monkeypatch.setattr(matching, "described", lambda *_: pytest.fail("the condition was not ended"))
    with clipdex.Index.open(index) as opened, Matcher(opened) as matcher:
        with pytest.raises(Left):
            matcher.match(scene(0), where="width > 1", check=leave)
        with pytest.raises(Left):
            matching.best_rows(opened, opened.vectors[0], 2, "width > 1", check=leave)
