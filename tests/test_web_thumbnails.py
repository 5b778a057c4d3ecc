"""Thumbnails over REST: drawn once by worker processes, cached on disk, and never of another content."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import noise
from hazards import many_scans, png_of, zlib_zeros
from PIL import Image

import clipdex

pytest.importorskip("fastapi")
from web_server import answering, settings_of

from clipdex.base.limits import Limits
from clipdex.pipeline.thumbnail_service import ThumbnailService
from clipdex.web.pictures import thumbnails as thumbnails_module
from clipdex.web.pictures.cache import ThumbnailCache

pytestmark = pytest.mark.once


def index_of(folder: Path, out: Path) -> Path:
    with clipdex.Client(clipdex.wire.FakeTransport()) as client:
        clipdex.index_pictures(client, folder, out)
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path, Path]]:
    """A client, the folder, and the cache, of an index of a few pictures."""
    folder = tmp_path_factory.mktemp("site")
    pictures = folder / "pictures"
    pictures.mkdir()
    noise(0, (1600, 400)).save(pictures / "0 wide.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(1, (300, 200)).save(pictures / "1 turned.jpg", exif=turned)
    noise(2, (40, 30)).save(pictures / "2 small.png")
    for i in range(3, 6):
        noise(i, (500, 500)).save(pictures / f"{i}.jpg")
    index = index_of(pictures, folder / "x.clipdex")
    with answering(settings_of(index, thumbnail_cache=folder / "cache", allow_write=True)) as client:
        yield client, pictures, folder / "cache"


def image_of(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return Image.open(io.BytesIO(answer.content))


def row_of(client: Any, name: str) -> dict[str, Any]:
    (found,) = [each for each in client.get("/v1/items").json()["items"] if each["name"] == name]
    return dict(found)


@pytest.mark.parametrize("side", [160, 320, 640, 1280])
def test_a_thumbnail_is_whole_upright_and_of_the_side_asked_for(site: Any, side: int) -> None:
    client, _, _ = site
    wide = image_of(client.get(row_of(client, "0 wide.jpg")["thumbnail"], params={"side": side}))
    assert wide.size == (side, side // 4)
    turned = image_of(client.get(f"/v1/pictures/{row_of(client, '1 turned.jpg')['row']}/thumbnail?side={side}"))
    assert turned.height == min(side, 300) and abs(turned.width * 3 - turned.height * 2) <= 3
    small = image_of(client.get(f"/v1/pictures/{row_of(client, '2 small.png')['row']}/thumbnail?side={side}"))
    assert small.size == (40, 30)


def test_the_url_of_a_hit_is_cached_for_ever_and_a_plain_one_is_asked_again(site: Any) -> None:
    client, _, _ = site
    found = row_of(client, "3.jpg")
    versioned = client.get(found["thumbnail"])
    assert versioned.headers["cache-control"] == "private, max-age=31536000, immutable"
    plain = client.get(f"/v1/pictures/{found['row']}/thumbnail")
    assert plain.headers["cache-control"] == "no-cache"
    assert plain.content == versioned.content
    tag = plain.headers["etag"]
    for given in (tag, f'"x", W/{tag}', "*"):
        again = client.get(f"/v1/pictures/{found['row']}/thumbnail", headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = client.get(f"/v1/pictures/{found['row']}/thumbnail?side=160", headers={"If-None-Match": tag})
    assert other.status_code == 200
    head = client.head(f"/v1/pictures/{found['row']}/thumbnail")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)


@pytest.mark.parametrize("side", ["100", "0", "-320", "x", "99999"])
def test_another_side_is_refused(site: Any, side: str) -> None:
    answer = site[0].get("/v1/pictures/0/thumbnail", params={"side": side})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:clipdex:InvalidArgument")


@pytest.mark.parametrize("what", ["thumbnail", "original"])
def test_no_such_row_and_an_outdated_version_are_not_found(site: Any, what: str) -> None:
    client, _, _ = site
    version = row_of(client, "3.jpg")["version"]
    row = row_of(client, "4.jpg")["row"]
    for url in (f"/v1/pictures/999/{what}", f"/v1/pictures/-1/{what}", f"/v1/pictures/{row}/{what}?v={version}"):
        answer = client.get(url)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:clipdex:ItemNotFound"), url


@pytest.mark.slow
def test_a_hundred_requests_for_one_thumbnail_draw_it_once(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _, _ = site
    row = row_of(client, "5.jpg")["row"]
    drawn = []
    draw = ThumbnailService.draw

    def counted(*given: Any, **more: Any) -> Any:
        drawn.append(given)
        time.sleep(0.2)
        return draw(*given, **more)

    monkeypatch.setattr(ThumbnailService, "draw", counted)
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(client.get, [f"/v1/pictures/{row}/thumbnail?side=640"] * 100))
    assert len({image_of(each).tobytes() for each in answers}) == 1
    assert len(drawn) == 1
    image_of(client.get(f"/v1/pictures/{row}/thumbnail?side=640"))
    assert len(drawn) == 1


def test_an_item_has_the_thumbnail_that_was_kept_of_it(site: Any) -> None:
    client, _, _ = site
    data = io.BytesIO()
    noise(9, (900, 300)).save(data, "PNG")
    put = client.put("/v1/items/up/load", content=data.getvalue(), headers={"Content-Type": "image/png"})
    assert put.status_code == 200, put.text
    found = client.get("/v1/items/up/load").json()
    assert found["original"] is None
    image = image_of(client.get(found["thumbnail"]))
    assert image.width <= 320 and abs(image.width - 3 * image.height) <= 3
    assert client.get(f"/v1/pictures/{found['row']}/original").status_code == 404
    vector = [1.0] + [0.0] * (client.get("/v1/info").json().get("embedding_dim", 8) - 1)
    added = client.put("/v1/items/vector", json={"vector": vector})
    assert added.status_code == 200, added.text
    row = client.get("/v1/items/vector").json()["row"]
    none = client.get(f"/v1/pictures/{row}/thumbnail")
    assert none.status_code == 404 and "has no thumbnail of the item 'vector'" in none.json()["detail"]


def test_a_changed_file_is_not_shown_and_one_back_again_is(site: Any) -> None:
    client, pictures, _ = site
    found = row_of(client, "4.jpg")
    shutil.move(pictures / "4.jpg", pictures / "kept")
    gone = client.get(found["thumbnail"])
    assert gone.status_code == 404 and str(pictures) not in gone.text
    noise(77, (500, 500)).save(pictures / "4.jpg")
    changed = client.get(found["thumbnail"])
    assert changed.status_code == 404 and "has changed since it was indexed" in changed.json()["detail"]
    os.replace(pictures / "kept", pictures / "4.jpg")
    image_of(client.get(found["thumbnail"]))
    os.remove(pictures / "4.jpg")
    image_of(client.get(found["thumbnail"]))  # what was drawn of the content is what the row is


@pytest.mark.slow
def test_after_a_compaction_an_old_address_is_not_found_and_shows_no_other_picture(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        noise(i).save(tmp_path / "pictures" / f"{i}.png")
    index = index_of(tmp_path / "pictures", tmp_path / "x.clipdex")
    with answering(settings_of(index, thumbnail_cache=tmp_path / "cache")) as client:
        before = [row_of(client, f"{i}.png")["thumbnail"] for i in range(3)]
        shown = [client.get(each).content for each in before]
        (tmp_path / "pictures" / "0.png").unlink()
        index_of(tmp_path / "pictures", index)
        clipdex.compact_index(index)
        assert [client.get(each).status_code for each in before] == [404, 404, 404]
        assert [client.get(row_of(client, f"{i}.png")["thumbnail"]).content for i in (1, 2)] == shown[1:]


@pytest.mark.slow
def test_pictures_that_break_a_decoder_cost_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("bomb.png", "slow.jpg", "sound.png"):
        noise(len(name)).save(pictures / name)
    index = index_of(pictures, tmp_path / "x.clipdex")
    bad = {"bomb.png": png_of(9_000, 9_000, zlib_zeros(9_000 * 27_001)), "slow.jpg": many_scans(4000)}
    for name, data in bad.items():
        (pictures / name).write_bytes(data)
    # As if they had been indexed so: only then are they decoded.
    limits = Limits(worker_memory_bytes=256 << 20, large_memory_bytes=0, file_timeout_s=2.0)
    real = ThumbnailService
    monkeypatch.setattr(
        thumbnails_module, "ThumbnailService", lambda **more: _Unchecked(real(**(more | {"limits": limits})))
    )
    with answering(settings_of(index, thumbnail_cache=tmp_path / "cache", decode_workers=1)) as client:
        for name, reason in (("bomb.png", "out_of_memory"), ("slow.jpg", "timeout")):
            answer = client.get(f"/v1/pictures/{row_of(client, name)['row']}/thumbnail")
            assert (answer.status_code, answer.json()["reason"]) == (422, reason)
            assert str(tmp_path) not in answer.text
        image_of(client.get(f"/v1/pictures/{row_of(client, 'sound.png')['row']}/thumbnail"))


class _Unchecked:
    """A service that draws whatever is in the file."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def draw(self, given: Any, side: int, most: int, content_hash: bytes | None) -> Any:
        return self._real.draw(given, side, most)

    def close(self) -> None:
        self._real.close()


# The cache


def key(i: int) -> bytes:
    return bytes([i]) * 16


def size_of(directory: Path) -> int:
    return sum(each.stat().st_size for each in directory.rglob("*") if each.is_file())


def test_the_cache_stays_within_its_bound_and_drops_what_was_not_read_longest(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path / "c", 10_500)
    for i in range(10):
        cache.put(key(i), 160, bytes([i]) * 984)
        os.utime(cache._path(key(i), 160), (1000 + i, 1000 + i))
    assert cache.get(key(0), 160) == bytes([0]) * 984  # young again
    cache.put(key(10), 160, bytes([10]) * 984)
    assert cache.get(key(0), 160) is not None and cache.get(key(10), 160) is not None
    assert cache.get(key(1), 160) is None and cache.get(key(2), 160) is None
    assert size_of(tmp_path / "c") <= 10_500
    for i in range(11, 60):
        cache.put(key(i), 320, bytes(984))
        assert size_of(tmp_path / "c") <= 10_500
    cache.put(key(99), 320, bytes(20_000))  # larger than all of it
    assert cache.get(key(99), 320) is None


def test_processes_that_share_a_cache_keep_its_bound_together(tmp_path: Path) -> None:
    caches = [ThumbnailCache(tmp_path, 50_000) for _ in range(4)]
    for i in range(200):
        caches[i % 4].put(key(i), 160, bytes(984))
    assert size_of(tmp_path) <= 50_000 * 1.3


def test_threads_may_share_a_cache(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, 20_000)

    def work(n: int) -> None:
        for i in range(60):
            cache.put(key(i), 160, bytes([i]) * 900)
            found = cache.get(key((i + n) % 60), 160)
            assert found is None or found == bytes([(i + n) % 60]) * 900

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert size_of(tmp_path) <= 20_000
    assert threading.active_count() < 50


def test_a_torn_file_is_no_picture_and_a_left_one_is_removed(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, 20_000)
    cache.put(key(1), 160, b"jpeg" * 100)
    path = cache._path(key(1), 160)
    path.write_bytes(path.read_bytes()[:200])
    assert cache.get(key(1), 160) is None and not path.exists()
    left = path.parent / "x.part"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    ThumbnailCache(tmp_path, 20_000).put(key(1), 160, b"jpeg")
    assert not left.exists()
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert cache.get(key(1), 160) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ThumbnailCache(tmp_path / "file", 20_000)
    cache.put(key(1), 160, b"jpeg")
    assert cache.get(key(1), 160) is None
