"""The commits of a collection: shared by threads, durable, refused to a second writer, and failing as one."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from conftest import noise, unit_vectors
from proofs.collection_kills import kill_collections

import clipdex
import clipdex.index.vectors
from clipdex import Collection, Index, IndexWriter, Item
from clipdex.collection import commits as commits_module
from clipdex.collection.shared_lock import Gate
from clipdex.index.rows import RowStore
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

VECTORS = unit_vectors(200, 8)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Counts the syncs of vectors, and makes each as slow as that of a disk."""
    counted: list[float] = []
    sync = clipdex.index.vectors._datasync

    def slow(fd: int) -> None:
        counted.append(time.monotonic())
        time.sleep(0.02)
        sync(fd)

    monkeypatch.setattr(clipdex.index.vectors, "_datasync", slow)
    return counted


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Do some work in as many threads, begun together -> the results, or what was raised."""
    start = threading.Barrier(count)

    def one(i: int) -> Any:
        start.wait()
        try:
            return work(i)
        except Exception as exc:
            return exc

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_a_hundred_adds_at_once_share_their_syncs(
    fake: clipdex.Client, tmp_path: Path, syncs: list[float]
) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        done = at_once(100, lambda i: collection.add(Item(str(i), vector=VECTORS[i])))
        assert done == [1] * 100
        assert 1 <= len(syncs) <= 20
        assert len(collection) == 100


def test_a_hundred_pictures_at_once_share_requests(tmp_path: Path) -> None:
    transport = FakeTransport()
    with clipdex.Client(transport) as client, Collection.open(tmp_path / "x", client=client) as collection:
        collection._core._batcher._max_wait_s = 0.2  # type: ignore[union-attr]  # a busy machine decodes slowly
        pictures = [noise(i) for i in range(100)]
        assert at_once(100, lambda i: collection.add(Item(str(i), pictures[i]))) == [1] * 100
        assert sum(rows for model, rows in transport.requests if model == "fake_image") == 100
        assert len([rows for model, rows in transport.requests if model == "fake_image"]) <= 25


def test_tasks_share_syncs_too(fake: clipdex.Client, tmp_path: Path, syncs: list[float]) -> None:
    async def main() -> None:
        async with clipdex.aio.Collection.open(tmp_path / "x", client=fake) as collection:
            adds = (collection.add(Item(str(i), vector=VECTORS[i])) for i in range(100))
            assert await asyncio.gather(*adds) == [1] * 100
            assert await collection.count() == 100

    asyncio.run(main())
    assert len(syncs) <= 50


def test_what_add_returned_for_is_on_disk_though_the_process_never_closes(tmp_path: Path) -> None:
    script = (
        "import os, sys, clipdex, numpy as np\n"
        "from clipdex.wire import FakeTransport\n"
        f"c = clipdex.Collection.open({str(tmp_path / 'x')!r}, client=clipdex.Client(FakeTransport()))\n"
        "c.add(clipdex.Item('a', vector=np.eye(8, dtype=np.float32)[0]))\n"
        "c.add(clipdex.Item('b', vector=np.eye(8, dtype=np.float32)[1]), flush=False)\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    with Collection.open(tmp_path / "x", read_only=True) as collection:
        assert list(collection.ids()) == ["a"]


def test_what_was_not_flushed_is_committed_within_seconds(
    fake: clipdex.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits_module, "_COMMIT_S", 0.1)
    with Collection.open(tmp_path / "x", client=fake) as collection:
        watched = collection.watch(poll_s=0.01, timeout_s=10)
        collection.add(Item("a", vector=VECTORS[0]), flush=False)
        assert next(watched).pictures == 1


@pytest.mark.slow
def test_every_acknowledged_item_survives_kills_once(tmp_path: Path) -> None:
    changes, amid = kill_collections(tmp_path, 8, Random(5))
    assert changes > 0 and amid > 0


def test_many_threads_change_the_same_ids_and_the_index_stays_whole(tmp_path: Path, fake: clipdex.Client) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:

        def work(thread: int) -> None:
            rng = Random(thread)
            for i in range(30):
                name = str(rng.randrange(5))
                what = rng.randrange(4)
                if what == 0:
                    collection.remove(name)
                elif what == 1:
                    with suppress(clipdex.ItemNotFound):
                        collection.update_metadata(name, {"thread": thread})
                elif what == 2:
                    collection.search(vector=VECTORS[i])
                else:
                    collection.add(Item(name, vector=VECTORS[rng.randrange(200)]), flush=rng.random() < 0.5)

        assert at_once(8, work) == [None] * 8
        collection.add([Item(str(i), vector=VECTORS[i]) for i in range(5)])
        assert sorted(collection.ids()) == ["0", "1", "2", "3", "4"]
        assert all(collection.search(vector=VECTORS[i], top_k=1)[0].id == str(i) for i in range(5))
    assert clipdex.verify_index(tmp_path / "x").damages == []


def test_a_search_meets_a_replaced_item_once_while_it_is_replaced(tmp_path: Path, fake: clipdex.Client) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        collection.add([Item(str(i), vector=VECTORS[i]) for i in range(20)])
        stop = threading.Event()

        def replace() -> None:
            for i in range(20, 150):
                collection.add(Item("0", vector=VECTORS[i]))
            stop.set()

        thread = threading.Thread(target=replace)
        thread.start()
        while not stop.is_set():
            found = [hit.id for hit in collection.search(vector=VECTORS[3], top_k=50)]
            assert sorted(found, key=str) == sorted(map(str, range(20)))
        thread.join()


def test_the_view_moves_on_when_nobody_reads_and_before_the_next_does() -> None:
    gate, order = Gate(), []
    inside, leave = threading.Event(), threading.Event()

    def read_long() -> None:
        with gate.shared():
            inside.set()
            assert leave.wait(10)
            order.append("read")

    def move() -> None:
        with gate.alone():
            order.append("moved")

    def read() -> None:
        with gate.shared():
            order.append("read after")

    threads = [threading.Thread(target=read_long)]
    threads[0].start()
    assert inside.wait(10)
    with gate.shared():
        pass  # readers do not wait for each other
    for work in (move, read):
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        time.sleep(0.05)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["read", "moved", "read after"]


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path, fake: clipdex.Client) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        for lock in ("held", "per_commit"):
            with pytest.raises(clipdex.IndexLocked, match=f"is being written to by process {os.getpid()} since"):
                Collection.open(tmp_path / "x", client=fake, lock=lock)
        with pytest.raises(clipdex.IndexLocked):
            IndexWriter(tmp_path / "x")
        collection.add(Item("a", vector=VECTORS[0]))
    with Collection.open(tmp_path / "x", client=fake):
        pass


def test_with_a_lock_per_commit_others_write_in_between(
    tmp_path: Path, fake: clipdex.Client, pictures: Path
) -> None:
    with Collection.open(tmp_path / "x", client=fake, lock="per_commit") as collection:
        collection.add(Item("a", vector=VECTORS[0]))
        clipdex.index_pictures(fake, pictures, tmp_path / "x", workers=1)
        collection.add(Item("b", vector=VECTORS[1]))
        assert len(collection) == 14
        collection.remove("a")
        assert clipdex.compact_index(tmp_path / "x") == 1
        assert [hit.id for hit in collection.search(vector=VECTORS[1], top_k=1)] == ["b"]
        collection.add(Item("c", vector=VECTORS[2]))
        assert list(collection.ids()) == ["b", "c"]
        with IndexWriter(tmp_path / "x"):
            with pytest.raises(clipdex.IndexLocked, match="is being written to"):
                collection.add(Item("d", vector=VECTORS[3]))
            with pytest.raises(clipdex.IndexLocked, match="is being written to"):
                collection.remove("c")
        collection.add(Item("d", vector=VECTORS[3]))
        assert list(collection.ids()) == ["b", "c", "d"]


def test_a_compaction_by_another_process_is_seen_and_renumbers(tmp_path: Path, fake: clipdex.Client) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        collection.add([Item(str(i), vector=VECTORS[i]) for i in range(4)])
        collection.remove("0")
    with Collection.open(tmp_path / "x", client=fake, read_only=True) as reader:
        watched = reader.watch(poll_s=0.01, timeout_s=10)
        threading.Timer(0.1, clipdex.compact_index, [tmp_path / "x"]).start()
        assert next(watched) == clipdex.Commit(3, 3, renumbered=True)
        assert [each.row for each in reader] == [0, 1, 2]
        assert reader.search(vector=VECTORS[2], top_k=1)[0].id == "2"


def test_an_index_of_another_model_that_takes_its_place_is_refused(tmp_path: Path, fake: clipdex.Client) -> None:
    with clipdex.Client(FakeTransport(weights="others")) as other:
        with Collection.open(tmp_path / "y", client=other) as collection:
            collection.add(Item("a", vector=VECTORS[0]))
        with Collection.open(tmp_path / "x", client=fake, lock="per_commit") as collection:
            collection.add(Item("a", vector=VECTORS[0]))
            (tmp_path / "x").rename(tmp_path / "old")
            (tmp_path / "y").rename(tmp_path / "x")
            for use in (
                lambda: collection.search(vector=VECTORS[0]),
                lambda: collection.add(Item("b", vector=VECTORS[1])),
                lambda: collection.get("a"),
            ):
                with pytest.raises(clipdex.FingerprintMismatch):
                    use()
    with Collection.open(tmp_path / "x", read_only=True) as collection:
        assert list(collection.ids()) == ["a"]


def test_a_collection_whose_index_was_away_goes_on_when_it_is_back(tmp_path: Path, fake: clipdex.Client) -> None:
    with Collection.open(tmp_path / "x", client=fake, lock="per_commit") as collection:
        collection.add(Item("a", vector=VECTORS[0]))
        (tmp_path / "x").rename(tmp_path / "old")
        for _ in range(2):
            for use in (
                lambda: collection.get("a"),
                lambda: collection.search(vector=VECTORS[0]),
                lambda: collection.add(Item("b", vector=VECTORS[1])),
            ):
                with pytest.raises(clipdex.IndexFault):
                    use()
            (tmp_path / "x").mkdir(exist_ok=True)  # what is there now is no index
        assert list((tmp_path / "x").iterdir()) == [], "no index was made in its place"
        (tmp_path / "x").rmdir()
        (tmp_path / "old").rename(tmp_path / "x")
        collection.add(Item("b", vector=VECTORS[1]))
        assert list(collection.ids()) == ["a", "b"]


def test_a_forked_child_is_told_to_open_its_own_and_leaves_the_parents_alone(
    tmp_path: Path, fake: clipdex.Client
) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        collection.add(Item("a", vector=VECTORS[0]))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for use in (lambda: collection.get("a"), lambda: collection.add(Item("b", vector=VECTORS[1]))):
                    try:
                        use()
                    except clipdex.ClipdexError as exc:
                        assert "forked" in str(exc)
                    else:
                        os._exit(2)
                collection.close()
                assert collection._core.index.is_open, "the files are the parent's"
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        collection.add(Item("c", vector=VECTORS[2]))
        assert list(collection.ids()) == ["a", "c"]


def test_a_fault_of_our_own_fails_what_waits_and_nobody_waits_for_ever(
    tmp_path: Path, fake: clipdex.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a fault of our own")

    with Collection.open(tmp_path / "x", client=fake) as collection:
        with monkeypatch.context() as patch:
            patch.setattr(commits_module.Commits, "_forget", broken)
            failed = at_once(5, lambda i: collection.add(Item(str(i), vector=VECTORS[i])))
            assert all(each == 1 or isinstance(each, RuntimeError) for each in failed)
        collection.add(Item("after", vector=VECTORS[9]))
        assert "after" in collection


@pytest.fixture(params=["append", "sync", "commit"])
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that is full while the event is set: when a row is written, synced, or committed."""
    event = threading.Event()

    def refusing(real: Callable[..., Any], error: Callable[[], Exception]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if event.is_set():
                raise error()
            return real(*args, **options)

        return call

    no_space = lambda: OSError(28, "No space left on device")  # noqa: E731
    if request.param == "append":
        right = vars(clipdex.index.vectors)["write_at"]
        monkeypatch.setattr(clipdex.index.vectors, "write_at", refusing(right, no_space))
    elif request.param == "sync":
        monkeypatch.setattr(
            clipdex.index.vectors, "_datasync", refusing(clipdex.index.vectors._datasync, no_space)
        )
    else:
        refused = lambda: clipdex.IndexWriteError("x: the commit was refused: database or disk is full")  # noqa: E731
        monkeypatch.setattr(RowStore, "commit", refusing(RowStore.commit, refused))
    yield event


def test_a_full_disk_fails_the_adds_that_wait_and_the_collection_goes_on(
    tmp_path: Path, fake: clipdex.Client, full: threading.Event
) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        collection.add(Item("before", vector=VECTORS[0]))
        full.set()
        failed = at_once(20, lambda i: collection.add(Item(str(i), vector=VECTORS[i])))
        assert all(isinstance(each, clipdex.IndexWriteError) for each in failed)
        assert len({id(each) for each in failed}) == 20, "one exception raised in many threads"
        assert list(collection.ids()) == ["before"]
        assert collection.search(vector=VECTORS[0], top_k=1)[0].id == "before"
        full.clear()
        collection.add(Item("after", vector=VECTORS[1]))
        assert list(collection.ids()) == ["before", "after"]
    assert clipdex.verify_index(tmp_path / "x").damages == []


def test_a_commit_says_what_was_lost_that_nobody_waited_for(
    tmp_path: Path, fake: clipdex.Client, full: threading.Event
) -> None:
    collection = Collection.open(tmp_path / "x", client=fake)
    try:
        collection.add([Item(str(i), vector=VECTORS[i]) for i in range(3)], flush=False)
    except clipdex.IndexWriteError:
        pytest.fail("nothing is full yet")
    full.set()
    with pytest.raises(clipdex.IndexWriteError):
        collection.add(Item("x", vector=VECTORS[9]))
    full.clear()
    with pytest.raises(clipdex.IndexWriteError, match=r"3 changes made with flush=False did not .*again$"):
        collection.commit()
    collection.commit()
    assert list(collection.ids()) == []
    full.set()
    try:
        collection.add(Item("y", vector=VECTORS[8]), flush=False)
    except clipdex.IndexWriteError:
        collection.close()  # it failed at once: the caller knows
    else:
        with pytest.raises(clipdex.IndexWriteError, match="1 change made"):
            collection.close()
    full.clear()
    collection.close()


def test_a_bad_vector_among_waiting_adds_fails_alone(
    tmp_path: Path, fake: clipdex.Client, syncs: list[float]
) -> None:
    with Collection.open(tmp_path / "x", client=fake) as collection:
        done = at_once(30, lambda i: collection.add(Item(str(i), vector=VECTORS[i] * (2 if i == 7 else 1))))
        assert isinstance(done.pop(7), clipdex.InvalidArgument)
        assert done == [1] * 29
        assert len(collection) == 29


def test_who_brings_too_much_waits_and_loses_nothing(
    tmp_path: Path, fake: clipdex.Client, monkeypatch: pytest.MonkeyPatch, syncs: list[float]
) -> None:
    monkeypatch.setattr(commits_module, "_WAITING", 4)
    with Collection.open(tmp_path / "x", client=fake) as collection:
        assert collection._core.commits()._queue.maxsize == 4
        done = at_once(8, lambda i: collection.add([Item(f"{i} {j}", vector=VECTORS[j]) for j in range(20)]))
        assert done == [20] * 8
        assert len(collection) == 160


def test_closing_commits_what_waits_and_refuses_what_comes(tmp_path: Path, fake: clipdex.Client) -> None:
    collection = Collection.open(tmp_path / "x", client=fake)
    outcomes = []

    def work(i: int) -> None:
        if i == 0:
            time.sleep(0.01)
            collection.close()
            return
        for j in range(1000):
            try:
                collection.add(Item(f"{i} {j}", vector=VECTORS[j % 200]))
                outcomes.append(f"{i} {j}")
            except clipdex.Closed:
                return

    assert at_once(9, work) == [None] * 9
    with Collection.open(tmp_path / "x", read_only=True) as reader:
        assert sorted(reader.ids()) == sorted(outcomes)


def test_an_index_of_the_released_version_takes_items(
    tmp_path: Path, fake: clipdex.Client, pictures: Path
) -> None:
    import sqlite3

    clipdex.index_pictures(fake, pictures, tmp_path / "x", workers=1)
    db = sqlite3.connect(tmp_path / "x" / "rows.sqlite")
    db.executescript("DROP TABLE phashes; DROP TABLE ctimes; DROP TABLE failure_ctimes;")
    db.close()
    with Collection.open(tmp_path / "x", client=fake) as collection:
        collection.add(Item("a", noise(50)))
        assert len(collection) == 13
    with Index.open(tmp_path / "x") as index:
        assert len(index.signatures(0, 13)) == 1
    assert np.allclose(clipdex.verify_index(tmp_path / "x").rows, 13)


@pytest.mark.parametrize("away", ["removed", "replaced"])
def test_a_change_is_never_acknowledged_by_an_index_that_is_no_longer_in_its_place(
    tmp_path: Path, fake: clipdex.Client, away: str
) -> None:
    place = tmp_path / "x"
    with Collection.open(place, client=fake) as collection:
        collection.add(Item("a", vector=VECTORS[0]))
        if away == "removed":
            shutil.rmtree(place)
        else:
            with Collection.open(tmp_path / "y", client=fake) as other:
                other.add(Item("b", vector=VECTORS[1]))
            place.rename(tmp_path / "old")
            (tmp_path / "y").rename(place)
        with pytest.raises(clipdex.IndexWriteError, match="moved, replaced or removed while it was open"):
            collection.add(Item("c", vector=VECTORS[2]))
        if away == "replaced":  # the next change goes to what is there now
            collection.add(Item("c", vector=VECTORS[2]))
            assert sorted(collection.ids()) == ["b", "c"]


def test_a_collection_stays_the_same_when_the_current_folder_changes(
    tmp_path: Path, fake: clipdex.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for lock in ("held", "per_commit"):
        with Collection.open("x", client=fake, lock=lock) as collection:
            monkeypatch.chdir("/")
            collection.add(Item(lock, vector=VECTORS[0]))
            assert lock in collection
            monkeypatch.chdir(tmp_path)
