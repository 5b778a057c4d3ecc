"""Single pictures decoded in worker processes, at any time and from any thread."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, png
from hazards import many_scans, png_of, zlib_zeros
from pictures_with_exif import exif_block, packet
from pictures_with_exif import picture as encoded
from PIL import Image
from waiting import wait_until

import clipdex
from clipdex import Collection, ImageError, Item, Query
from clipdex.base.limits import Limits
from clipdex.model.images import open_image, to_pixels
from clipdex.pipeline.decode_service import DecodedPicture, DecodeService
from clipdex.pipeline.thumbnail_service import ThumbnailService
from clipdex.pipeline.worker_service import Given
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

SPEC = FakeTransport().card.image


def reason(future: Future[Any]) -> str:
    error = future.exception(60)
    return error.reason if isinstance(error, ImageError) else ""


@pytest.fixture(scope="module")
def service() -> Iterator[DecodeService]:
    with DecodeService(SPEC, workers=2) as made:
        yield made


def test_no_process_runs_before_the_first_picture_and_after_a_while_without_any() -> None:
    with DecodeService(SPEC, workers=2, idle_s=0.2) as made:
        assert made.processes() == []
        made.decode(Given(png(0))).result(60)
        (process,) = made.processes()
        wait_until(lambda: not made.processes())
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
        assert made.decode(Given(png(0))).result(60).width == 40


def test_a_service_that_is_warmed_has_its_processes_before_the_first_picture() -> None:
    with ThumbnailService(workers=2) as made:
        made.warm()
        made.warm()  # no more than there may be
        wait_until(lambda: len(made.processes()) == 2)
        before = set(made.processes())
        assert made.draw(Given(png(0)), 160, 1 << 20).result(60)[:2] == b"\xff\xd8"
        assert set(made.processes()) == before
    made.warm()  # closed: nothing starts
    assert made.processes() == []


def test_a_hundred_pictures_at_once_from_many_threads_get_their_own_pixels(service: DecodeService) -> None:
    pictures = [png(seed, (20 + seed, 33)) for seed in range(100)]
    found: list[DecodedPicture | None] = [None] * 100

    def ask(i: int) -> None:
        found[i] = service.decode(Given(pictures[i])).result(60)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for data, picture in zip(pictures, found, strict=True):
        assert picture is not None
        assert np.array_equal(picture.pixels, to_pixels(open_image(data), SPEC))
        assert picture.size == len(data)
    assert len(service.processes()) == 2


def test_a_path_is_read_by_the_worker_within_the_limits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    with DecodeService(SPEC, workers=1, limits=Limits(max_file_bytes=len(png(1)))) as made:
        path = os.fsencode(tmp_path / "a.png")
        assert made.decode(Given(path=path)).result(60) == made.decode(Given(png(1))).result(60)
        (tmp_path / "a.png").write_bytes(png(1) + b"x")
        assert reason(made.decode(Given(path=path))) == "too_large"
        assert reason(made.decode(Given(png(1) + b"x"))) == "too_large"


def test_a_bomb_costs_only_itself() -> None:
    bomb = png_of(9_000, 9_000, zlib_zeros(9_000 * 27_001))
    with DecodeService(
        SPEC, workers=1, limits=Limits(worker_memory_bytes=256 << 20, large_memory_bytes=0)
    ) as made:
        futures = [made.decode(Given(data)) for data in (png(0), bomb, png(1))]
        assert [reason(each) for each in futures] == ["", "out_of_memory", ""]


@pytest.mark.slow
def test_a_picture_that_takes_too_long_is_given_up_and_the_next_is_decoded() -> None:
    with DecodeService(SPEC, workers=1, limits=Limits(file_timeout_s=1.0)) as made:
        made.decode(Given(png(0))).result(60)
        before = made.processes()
        slow, after = made.decode(Given(many_scans(4000))), made.decode(Given(png(1)))
        assert reason(slow) == "timeout"
        assert str(slow.exception()) == "decoding took longer than 1 s"
        assert after.result(60).width == 40
        assert made.processes() != before


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_the_picture_it_was_at() -> None:
    with DecodeService(SPEC, workers=1) as made:
        made.decode(Given(png(0))).result(60)
        slow, after = made.decode(Given(many_scans(2000))), made.decode(Given(png(1)))
        wait_until(slow.running)
        time.sleep(0.1)
        os.kill(made.processes()[0], signal.SIGKILL)
        assert reason(slow) == "worker_died"
        assert "signal 9" in str(slow.exception())
        assert after.result(60).width == 40


@pytest.mark.slow
def test_a_worker_killed_while_idle_costs_no_picture() -> None:
    with DecodeService(SPEC, workers=1) as made:
        for seed in range(3):
            made.decode(Given(png(seed))).result(60)
            (pid,) = made.processes()
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # until it is dead


@pytest.mark.slow
def test_too_many_waiting_pictures_are_refused_and_the_others_done() -> None:
    with DecodeService(SPEC, workers=1, waiting=3) as made:
        busy = made.decode(Given(many_scans(40)))
        wait_until(busy.running)
        waiting = [made.decode(Given(png(seed))) for seed in range(3)]
        with pytest.raises(clipdex.ServerBusy, match="3 pictures already wait to be decoded: try again"):
            made.decode(Given(png(4)))
        assert [each.result(60).width for each in waiting] == [40] * 3
        assert made.decode(Given(png(4))).result(60).width == 40


@pytest.mark.slow
def test_what_is_cancelled_while_it_waits_is_not_decoded_and_frees_its_place() -> None:
    with DecodeService(SPEC, workers=1) as made:
        busy, gone, last = (made.decode(Given(data)) for data in (many_scans(40), b"", png(1)))
        assert gone.cancel()
        assert last.result(60).width == 40
        assert busy.done()


def test_closing_ends_processes_and_pictures_that_wait() -> None:
    made = DecodeService(SPEC, workers=1)
    futures = [made.decode(Given(many_scans(4000))) for _ in range(3)]
    wait_until(lambda: futures[0].running() and made.processes())
    (process,) = made.processes()
    made.close()
    made.close()
    assert all(isinstance(each.exception(10), clipdex.Closed) for each in futures)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(clipdex.Closed):
        made.decode(Given(png(0)))


def test_workers_that_cannot_run_at_all_are_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with DecodeService(SPEC, workers=1) as made:
        with pytest.raises(clipdex.ClipdexError, match="in a row did not start") as caught:
            made.decode(Given(png(0))).result(60)
        assert not isinstance(caught.value, ImageError)
    assert sys.executable == "/bin/false"


# Through the collection: the same as in this process


@pytest.fixture(scope="module", params=["blocking", "asyncio"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two collections: one decodes in this process, the other in workers."""
    folder = tmp_path_factory.mktemp("pair")
    with clipdex.Client(FakeTransport()) as client:
        opened: Callable[..., Any] = Collection.open
        if request.param == "asyncio":
            opened = _twin
        with (
            opened(folder / "here.clipdex", client=client) as here,
            opened(folder / "workers.clipdex", client=client, decode_workers=2) as workers,
        ):
            yield here, workers


class _Awaited:
    """An asyncio collection whose methods are awaited in a loop of its own."""

    def __init__(self, twin: Any) -> None:
        import asyncio

        self._twin, self._loop = twin, asyncio.new_event_loop()

    def __enter__(self) -> Any:
        self._loop.run_until_complete(self._twin.__aenter__())
        return self

    def __exit__(self, *raised: Any) -> None:
        self._loop.run_until_complete(self._twin.__aexit__(*raised))
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **more: self._loop.run_until_complete(getattr(self._twin, name)(*given, **more))


def _twin(*given: Any, **more: Any) -> Any:
    import clipdex.aio

    return _Awaited(clipdex.aio.Collection.open(*given, **more))


def _kinds(folder: Path) -> dict[str, Callable[[], Any]]:
    profiled = io.BytesIO(encoded(exif=exif_block(model="Pixel 7"), seed=5))
    (folder / "a.jpg").write_bytes(profiled.getvalue())
    (folder / "a.xmp").write_bytes(packet("", 'xmp:Rating="5"'))
    return {
        "bytes": lambda: profiled.getvalue(),
        "path": lambda: folder / "a.jpg",
        "text": lambda: str(folder / "a.jpg"),
        "open file": lambda: io.BytesIO(profiled.getvalue()),
        "image": lambda: noise(6),
        "array": lambda: np.asarray(noise(7)),
        "large": lambda: png(8, (700, 500)),
    }


def test_records_and_vectors_are_those_of_this_process_bit_for_bit(pair: Any, tmp_path: Path) -> None:
    for collection in pair:
        for name, make in _kinds(tmp_path).items():
            assert collection.add(Item(name, make(), metadata={"kind": name})) == 1
        several = [Item(f"{name} again", make()) for name, make in _kinds(tmp_path).items()]
        assert collection.add(several) == len(several)
    here, workers = pair
    for name in _kinds(tmp_path):
        one, other = here.get(name), workers.get(name)
        assert one.exif == other.exif
        assert (one.width, one.height, one.size, one.content_hash, one.metadata) == (
            other.width,
            other.height,
            other.size,
            other.content_hash,
            other.metadata,
        )
        assert np.array_equal(here.vector(name), workers.vector(name))
    assert workers.get("path").exif.rating == 5 and workers.get("open file").exif.rating is None
    records = [[each.phash for each in _index(collection).pictures(range(14)).values()] for collection in pair]
    assert records[0] == records[1] and all(records[0])
    for name, make in _kinds(tmp_path).items():
        hits = [[(hit.id, hit.score) for hit in each.search(image=make())] for each in pair]
        assert hits[0] == hits[1], name
        mixed = [
            [(hit.id, hit.score) for hit in each.search(Query().plus(image=make()).minus(text="a cat"))]
            for each in pair
        ]
        assert mixed[0] == mixed[1], name


def _index(collection: Any) -> clipdex.Index:
    twin = getattr(collection, "_twin", collection)
    return twin._core.index


def _faults(folder: Path) -> dict[str, Any]:
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes(png(1)[:200])
    if not (folder / "fifo").exists():
        os.mkfifo(folder / "fifo")
    (folder / "closed.png").write_bytes(png(1))
    closed = open(folder / "closed.png", "rb")  # noqa: SIM115
    closed.close()
    return {
        "bytes": b"no picture",
        "no bytes": b"",
        "cut": png(1)[:200],
        "text": folder / "text.jpg",
        "empty": folder / "empty.jpg",
        "cut file": str(folder / "cut.png"),
        "missing": folder / "missing.jpg",
        "folder": folder,
        "fifo": folder / "fifo",
        "below a file": folder / "text.jpg" / "a.jpg",
        "zero byte": f"{folder}/a\0b.jpg",
        "long name": folder / ("x" * 300),
        "closed": closed,
        "open text": io.StringIO("text"),
        "other": 17,
    }


def test_errors_are_those_of_this_process(pair: Any, tmp_path: Path) -> None:
    def told(call: Callable[..., Any], *given: Any, **more: Any) -> tuple[type, str, str]:
        with pytest.raises(clipdex.ClipdexError) as caught:
            call(*given, **more)
        return type(caught.value), str(caught.value), getattr(caught.value, "reason", "")

    for name, source in _faults(tmp_path).items():
        adding = [told(each.add, Item("x", source)) for each in pair]
        assert adding[0] == adding[1], name
        asking = [told(each.search, image=source) for each in pair]
        assert asking[0] == asking[1], name


def test_of_several_items_the_bad_ones_fail_alone(pair: Any) -> None:
    items = [Item(f"n{i}", b"no picture" if i % 3 == 1 else png(20 + i)) for i in range(9)]
    for each in pair:
        with pytest.raises(clipdex.AddFailed) as caught:
            each.add(items)
        assert caught.value.added == 6
        assert set(caught.value.failures) == {"n1", "n4", "n7"}
        assert each.get("n8") is not None and each.get("n7") is None


def test_of_two_items_with_one_id_the_later_stays(pair: Any) -> None:
    for each in pair:
        vector = np.zeros(_index(each).manifest.embedding_dim, np.float32)
        vector[3] = 1
        each.add([Item("twice", png(1, (600, 600))), Item("twice", vector=vector)])
        assert np.array_equal(each.vector("twice"), vector)


def test_decode_workers_must_be_a_number(fake: clipdex.Client, tmp_path: Path) -> None:
    for wrong in (-1, 1.5, "2", True):
        with pytest.raises(clipdex.InvalidArgument, match="decode_workers is"):
            Collection.open(tmp_path / "x.clipdex", client=fake, decode_workers=wrong)  # type: ignore[arg-type]


# Thumbnails of items


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_keeps_a_thumbnail_through_compaction_and_merge(
    workers: int, fake: clipdex.Client, tmp_path: Path
) -> None:
    wide = io.BytesIO()
    noise(3, (1600, 400)).save(wide, "JPEG", quality=95)
    with Collection.open(
        tmp_path / "x.clipdex", client=fake, decode_workers=workers, thumbnails=True
    ) as collection:
        collection.add([Item("gone", png(0)), Item("wide", wide.getvalue()), Item("pixels", noise(1))])
        collection.add(Item("vector", vector=collection.vector("wide")))
        jpeg = collection.thumbnail("wide")
        assert jpeg is not None and len(jpeg) <= 24 << 10
        image = Image.open(io.BytesIO(jpeg))
        assert image.format == "JPEG" and image.width <= 320 and abs(image.width - 4 * image.height) <= 4
        assert collection.thumbnail("pixels") is not None
        assert collection.thumbnail("vector") is None
        with pytest.raises(clipdex.ItemNotFound):
            collection.thumbnail("nobody")
        gone = collection.get("gone")
        assert gone is not None
        collection.remove("gone")
    assert clipdex.verify_index(tmp_path / "x.clipdex").damages == []
    clipdex.compact_index(tmp_path / "x.clipdex")
    clipdex.merge_indexes([tmp_path / "x.clipdex"], tmp_path / "y.clipdex")
    for name in ("x", "y"):
        with Collection.open(tmp_path / f"{name}.clipdex", read_only=True) as collection:
            assert collection.thumbnail("wide") == jpeg
            with collection._core.reading() as index:
                assert index.thumbnail(gone.content_hash) is None
        assert clipdex.verify_index(tmp_path / f"{name}.clipdex").damages == []


def test_an_open_reader_sees_new_thumbnails_and_none_where_they_are_off(
    fake: clipdex.Client, tmp_path: Path
) -> None:
    with Collection.open(tmp_path / "x.clipdex", client=fake, lock="per_commit") as plain:
        plain.add(Item("a", png(0)))
        assert plain.thumbnail("a") is None
        assert not (tmp_path / "x.clipdex" / "thumbnails.sqlite").exists()
        with Collection.open(tmp_path / "x.clipdex", client=fake, lock="per_commit", thumbnails=True) as other:
            other.add([Item("a", png(0)), Item("b", png(1))])
        assert plain.thumbnail("a") is not None and plain.thumbnail("b") is not None
        clipdex.compact_index(tmp_path / "x.clipdex", drop_damaged=True)
        assert plain.thumbnail("a") is not None


def test_damaged_thumbnails_are_found_by_verify_and_cost_nothing_else(
    fake: clipdex.Client, tmp_path: Path
) -> None:
    directory = tmp_path / "x.clipdex"
    with Collection.open(directory, client=fake, thumbnails=True) as collection:
        collection.add([Item("a", png(0)), Item("b", png(1))])
        jpeg = collection.thumbnail("a")
        assert jpeg is not None
    file = directory / "thumbnails.sqlite"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE thumbnails SET jpeg = ? WHERE jpeg = ?", (jpeg[:-30] + bytes(3) + jpeg[-27:], jpeg))
    (damage,) = clipdex.verify_index(directory).damages
    assert damage.what == "thumbnails.sqlite: 1 thumbnails are not what was stored"
    with Collection.open(directory, client=fake, thumbnails=True) as collection:
        assert collection.thumbnail("a") is None and collection.thumbnail("b") is not None
        assert len(collection.search("a cat")) == 2
    for each in directory.glob("thumbnails.sqlite-*"):
        each.unlink()
    file.write_bytes(b"no database" * 500)
    assert clipdex.verify_index(directory).damages
    with Collection.open(directory, client=fake, thumbnails=True) as collection:
        collection.add(Item("c", png(2)))
        assert "c" in collection
        with pytest.raises(clipdex.IndexDamaged):
            collection.thumbnail("a")


def test_thumbnails_are_upright_in_srgb_and_never_larger_than_the_picture() -> None:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1200, 300), (200, 10, 10)).save(turned, "JPEG", exif=exif)
    with ThumbnailService(workers=1) as drawing:
        image = Image.open(io.BytesIO(drawing.draw(Given(turned.getvalue()), 160, 1 << 20).result(60)))
        assert image.size == (40, 160)
        small = Image.open(io.BytesIO(drawing.draw(Given(png(0)), 160, 1 << 20).result(60)))
        assert small.size == (40, 30)
        assert reason(drawing.draw(Given(png(0)), 160, 1 << 20, bytes(15) + b"x")) == "changed"
        assert reason(drawing.draw(Given(b"no picture"), 160, 1 << 20)) == "not_a_picture"
