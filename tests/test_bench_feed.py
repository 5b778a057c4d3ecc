"""Feeding a GPU, measured without one: a server that answers at a given rate, workers that decode nothing."""

import json
import time

import numpy as np
import pytest
from conftest import present

import clipdex
from clipdex.apps.bench.measure_feed import draw_copies, touch_pictures
from clipdex.apps.bench.stub_worker import stub_decoder
from clipdex.base.blocks import blocks
from clipdex.base.errors import InvalidArgument
from clipdex.base.read_request import ReadRequest, whole_file
from clipdex.client.client import SharedMemoryUse
from clipdex.index import Index, IndexWriter, Manifest
from clipdex.index.verify import verify_index
from clipdex.pipeline.index_one import index_one
from clipdex.sources import open_source
from clipdex.wire import FakeTransport, SharedMemory
from clipdex.wire.rated_server import Rate, RatedServer

pytestmark = pytest.mark.thin

SMALL = Rate(image_size=8, embedding_dim=4, max_batch_size=16)


@pytest.fixture(scope="module")
def rated():
    with RatedServer(SMALL) as server:
        yield server.address


def test_a_server_of_a_rate_answers_by_shared_memory_and_by_wire(rated, tmp_path):
    touch_pictures(tmp_path / "pictures", 40)
    ways: list[tuple[SharedMemoryUse, str]] = [("always", "shared memory"), ("never", "wire")]
    for use, transfer in ways:
        with clipdex.connect(rated, shared_memory=use, cache_dir=tmp_path) as client:
            before = client.statistics("image")
            index = tmp_path / f"{use}.clipdex"
            report = index_one(client, open_source(tmp_path), index, workers=2, decoder=stub_decoder())
            counted = client.statistics("image").since(before)
        assert (report.indexed, report.failed, report.transfer) == (40, 0, transfer)
        assert (counted.requests, counted.rows) == (3, 40)  # 16 + 16 + 8
        assert not verify_index(index).damages


def test_a_server_of_a_rate_maps_no_file_but_those_of_clipdex(rated, tmp_path):
    with clipdex.connect(rated, cache_dir=tmp_path) as client, SharedMemory(4096, named=True) as memory:
        assert client.share(memory)
        client.unshare(memory)
        memory.name = f"../..{tmp_path}"
        assert not client.share(memory)


def test_a_server_takes_the_time_that_its_rate_gives_a_batch(tmp_path):
    """Never less: how much more depends on the machine."""
    with (
        RatedServer(Rate(400, image_size=8, embedding_dim=4, max_batch_size=16)) as server,
        clipdex.connect(server.address, cache_dir=tmp_path) as client,
    ):
        began = time.monotonic()
        vectors = client.embed_pixels(np.zeros((64, 8, 8, 3), np.uint8))
        assert time.monotonic() - began >= 64 / 400
    assert vectors.shape == (64, 4)


def test_items_come_in_blocks_that_grow_while_they_come_quickly():
    assert [len(block) for block in blocks(range(20), 4, 60.0)] == [1, 2, 4, 4, 4, 4, 1]
    assert [item for block in blocks(range(20), 4, 60.0) for item in block] == list(range(20))
    assert [len(block) for block in blocks(range(5), 4, -1.0)] == [1] * 5  # too slow: none waits for another
    assert list(blocks((), 4, 1.0)) == []


def test_the_request_for_a_file_of_its_own_is_that_of_the_class():
    assert whole_file(b"/a/b.jpg") == ReadRequest(b"/a/b.jpg").encode()


def test_many_contents_are_found_by_one_look_up(tmp_path):
    card = FakeTransport().card
    vectors = np.zeros((700, card.embedding_dim), np.float32)
    vectors[:, 0] = 1

    def picture(i):
        return clipdex.Picture(b"/p/%04d" % i, 1, 2, b"%016d" % i, 3, 4, ctime_ns=5, phash=bytes(158))

    index = tmp_path / "x.clipdex"
    with IndexWriter.open_or_create(index, Manifest.of(card, "float16", "off")) as writer:
        writer.append([picture(i) for i in range(699)], vectors[:699])
        writer.fail(clipdex.Failure(b"/p/0699", "corrupt", "", 1, 2))
        assert writer.contents_among([b"%016d" % 1, b"%016d" % 699]) == {b"%016d" % 1}
        writer.commit()
        assert len(writer.contents_among([b"%016d" % i for i in range(5, 900, 5)])) == 139
        writer.append([picture(699)], vectors[:1])  # heals its line in the ledger
        writer.remove(b"/p/0000")
    assert not verify_index(index).damages
    with Index.open(index) as opened:
        assert (len(opened), opened.failures()) == (699, [])
        assert opened.known(b"/p/0000") is None
        assert present(opened.known(b"/p/0698")).content_hash == b"%016d" % 698


def test_a_writer_notices_the_table_that_it_makes_itself(tmp_path):
    card = FakeTransport().card
    vectors = np.eye(card.embedding_dim, dtype=np.float32)[:2]
    with IndexWriter.open_or_create(tmp_path / "x", Manifest.of(card, "float16", "off")) as writer:
        for i, exif in enumerate((None, clipdex.Exif(camera="K-1"))):
            writer.append([clipdex.Picture(b"/%d" % i, 1, 2, b"%016d" % i, 3, 4, exif=exif)], vectors[i : i + 1])
            writer.commit()
            assert present(writer.known(b"/%d" % i)).row == i
        assert present(writer.live_pictures(0, 2)[1].exif).camera == "K-1"


def test_copies_of_a_drawn_picture_decode_alike_and_are_different_files(tmp_path):
    draw_copies(tmp_path, (40, 30), 9)
    files = sorted(tmp_path.iterdir())
    assert len({file.read_bytes() for file in files}) == len(files) == 9


def test_sizes_are_widths_and_heights():
    pytest.importorskip("typer")
    from clipdex.cli.bench.bench_feed import sizes_of

    assert sizes_of("640x480, 4000x3000,640x480") == [(640, 480), (4000, 3000)]
    for bad in ("640", "640x", "0x5", "640x480;1x1", "", "-1x5", "٣x٣"):
        with pytest.raises(InvalidArgument, match="as in 640x480,4000x3000"):
            sizes_of(bad)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_is_more_than_nothing(rate):
    with pytest.raises(InvalidArgument, match="expected more than 0"):
        Rate(rate)


@pytest.mark.slow
def test_feed_shows_the_ceiling_of_both_transfers_and_the_cores_a_rate_needs(run, tmp_path):
    file = tmp_path / "r.json"
    words = (
        "--sizes",
        "64x48,128x96",
        "--pictures",
        "8",
        "--ceiling-pictures",
        "64",
        "--batch",
        "16",
        "--rate",
        "900",
    )
    status, out, _ = run("bench", "feed", *words, "--workers", "1", "--save", file)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[5:7]] == ["shared", "wire"]
    assert "cores for 900/s" in out
    report = json.loads(file.read_text())
    assert report["kind"] == "feed"
    assert [each["transfer"] for each in report["ceilings"]] == ["shared", "wire"]
    for each in report["ceilings"]:
        assert each["bytes_per_s"] == pytest.approx(each["pictures_per_s"] * 224 * 224 * 3)
        assert each["requests_per_s"] == pytest.approx(each["pictures_per_s"] / 16)
    for each in report["decoding"]:
        assert each["cores_needed"] == pytest.approx(900 * (each["decode_core_s"] + each["client_core_s"]))
    printed = run("bench", "feed", *words[:8], "--transfer", "wire", "--json")[1]
    assert len(json.loads(printed)["ceilings"]) == 1
    assert "as in 640x480,4000x3000" in run("bench", "feed", "--sizes", "big")[2]


@pytest.mark.slow
def test_feed_decodes_a_source_that_is_given(run, pictures):
    status, out, _ = run("bench", "feed", pictures, "--pictures", "4", "--ceiling-pictures", "32")
    assert status == 0
    assert "no limit" not in out
    assert "cores for 1,000/s" in out
