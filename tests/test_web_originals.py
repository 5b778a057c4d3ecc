"""Originals over REST: by row, only with the content that was indexed, as attachments, whole or a range."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import noise
from waiting import wait_until

import clipdex

pytest.importorskip("fastapi")
from web_server import answering, settings_of

from clipdex.web.pictures.conditions import attachment, range_of
from clipdex.web.pictures.media_types import media_type
from clipdex.web.pictures.originals import Original, Originals

pytestmark = pytest.mark.once

NAMES = ('a "quoted".png', "line\nbreak.png", "naïve 猫.png", "semi;colon.png", "a..png", "%2e%2e.png")


def encoded(seed: int, kind: str, size: tuple[int, int] = (60, 40)) -> bytes:
    data = io.BytesIO()
    noise(seed, size).save(data, kind)
    return data.getvalue()


def indexed(source: Path, out: Path) -> Path:
    with clipdex.Client(clipdex.wire.FakeTransport()) as client:
        clipdex.index_pictures(client, source, out)
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    folder = tmp_path_factory.mktemp("site")
    pictures = folder / "pictures"
    pictures.mkdir()
    for i, kind in enumerate(("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")):
        (pictures / f"{kind.lower()}.jpg").write_bytes(encoded(i, kind))
    for i, name in enumerate(NAMES):
        (pictures / name).write_bytes(encoded(20 + i, "PNG"))
    for name in ("changed", "swapped", "gone", "grows", "fifo"):
        (pictures / f"{name}.png").write_bytes(encoded(len(name) + 40, "PNG"))
    (pictures / "big.bmp").write_bytes(encoded(9, "BMP", (700, 700)))
    index = indexed(pictures, folder / "x.clipdex")
    with answering(settings_of(index, thumbnail_cache=folder / "cache")) as client:
        yield client, pictures


def record(client: Any, name: str) -> dict[str, Any]:
    items = client.get("/v1/items?limit=1000").json()["items"]
    (found,) = [each for each in items if each["name"] == name]
    return dict(found)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_an_original_is_the_file_as_an_attachment_of_its_real_type(site: Any, kind: str) -> None:
    client, pictures = site
    found = record(client, f"{kind}.jpg")
    answer = client.get(found["original"])
    assert answer.status_code == 200
    assert answer.content == (pictures / f"{kind}.jpg").read_bytes()
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["content-length"] == str(found["size"]) == str(len(answer.content))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="{kind}.jpg"')
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert client.get(f"/v1/pictures/{found['row']}/original").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("at", range(len(NAMES)))
def test_any_name_is_safe_in_a_header(site: Any, at: int) -> None:
    client, pictures = site
    rows = client.get("/v1/items?limit=1000").json()["items"]
    answers = [client.get(each["original"]) for each in rows]
    (answer,) = [each for each in answers if each.content == (pictures / NAMES[at]).read_bytes()]
    said = answer.headers["content-disposition"]
    assert said.isascii() and "\n" not in said and said.count('"') == 2
    assert unquote(said.partition("filename*=UTF-8''")[2]) == NAMES[at]


def test_a_name_with_bytes_that_are_no_text_is_safe() -> None:
    said = attachment("a\udcff\r\nX: 1\0.png")
    assert said.isascii() and not set(said) & set("\r\n\0")


def test_a_head_request_and_a_known_version_send_no_bytes(site: Any) -> None:
    client, _ = site
    found = record(client, "jpeg.jpg")
    head = client.head(found["original"])
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(found["size"]) and head.headers["accept-ranges"] == "bytes"
    again = client.get(found["original"], headers={"If-None-Match": head.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999", slice(5, None)),
        ("bytes=-99999999", slice(None)),
        ("BYTES = 3 - 3", slice(3, 4)),
        ("bytes=300000-600000", slice(300_000, 600_001)),
    ],
)
def test_a_range_is_that_part(site: Any, asked: str, part: slice) -> None:
    client, pictures = site
    data = (pictures / "big.bmp").read_bytes()
    answer = client.get(record(client, "big.bmp")["original"], headers={"Range": asked})
    assert answer.status_code == 206 and answer.content == data[part]
    start, end, _ = part.indices(len(data))
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "bytes=", "bytes=-", "bytes=9-3", "lines=0-1", "bytes=a-b", "bytes=" + "9" * 99]
)
def test_several_ranges_and_wrong_ones_are_answered_with_the_whole(site: Any, asked: str) -> None:
    client, pictures = site
    answer = client.get(record(client, "jpeg.jpg")["original"], headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, (pictures / "jpeg.jpg").read_bytes())


def test_a_range_that_is_not_there_is_416_with_the_size(site: Any) -> None:
    client, _ = site
    found = record(client, "jpeg.jpg")
    for asked in (f"bytes={found['size']}-", "bytes=-0", "bytes=99999999999999999999-"):
        answer = client.get(found["original"], headers={"Range": asked})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{found['size']}")


def test_a_range_of_another_version_is_the_whole(site: Any) -> None:
    client, _ = site
    found = record(client, "jpeg.jpg")
    tag = client.head(found["original"]).headers["etag"]
    part = client.get(found["original"], headers={"Range": "bytes=0-4", "If-Range": tag})
    assert (part.status_code, len(part.content)) == (206, 5)
    for other in ('"other"', f"W/{tag}", "Sat, 28 Nov 2026 09:00:00 GMT"):
        whole = client.get(found["original"], headers={"Range": "bytes=0-4", "If-Range": other})
        assert (whole.status_code, len(whole.content)) == (200, found["size"])
    assert range_of("bytes=0-", None, tag, 0) == "unsatisfiable"


def refused(client: Any, pictures: Path, name: str, words: str) -> None:
    answer = client.get(record(client, name)["original"])
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:clipdex:ItemNotFound")
    assert words in answer.json()["detail"]
    assert str(pictures) not in answer.text


def test_a_file_with_another_content_is_not_sent(site: Any) -> None:
    client, pictures = site
    path = pictures / "changed.png"
    assert client.get(record(client, "changed.png")["original"]).status_code == 200
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    refused(client, pictures, "changed.png", "has changed since it was indexed")


def test_a_link_in_place_of_a_file_is_not_followed(site: Any, tmp_path: Path) -> None:
    client, pictures = site
    path = pictures / "swapped.png"
    (tmp_path / "secret").write_text("secret")
    path.rename(tmp_path / "kept.png")
    for target in (tmp_path / "secret", "/etc/passwd", tmp_path / "kept.png", "/dev/zero"):
        path.symlink_to(target)
        refused(client, pictures, "swapped.png", "cannot be read")
        path.unlink()


def test_a_folder_swapped_for_a_link_leads_to_nothing_else(site: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(encoded(1, "PNG"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_text("secret")
    index = indexed(tmp_path / "pictures", tmp_path / "y.clipdex")
    with answering(settings_of(index, thumbnail_cache=tmp_path / "cache")) as client:
        (tmp_path / "pictures").rename(tmp_path / "away")
        (tmp_path / "pictures").symlink_to(tmp_path / "other")
        refused(client, tmp_path, "a.png", "has changed since it was indexed")


def test_what_is_gone_or_no_file_any_more_is_not_found(site: Any, not_for_ever: None) -> None:
    client, pictures = site
    (pictures / "gone.png").unlink()
    refused(client, pictures, "gone.png", "cannot be read")
    (pictures / "fifo.png").unlink()
    os.mkfifo(pictures / "fifo.png")
    refused(client, pictures, "fifo.png", "it is not a regular file")
    (pictures / "fifo.png").unlink()
    (pictures / "fifo.png").mkdir()
    refused(client, pictures, "fifo.png", "cannot be read")


def test_no_descriptor_stays_open(site: Any) -> None:
    client, _ = site
    url = record(client, "big.bmp")["original"]
    client.get(url)
    before = len(os.listdir("/proc/self/fd"))
    for headers in ({}, {"Range": "bytes=0-1"}, {"Range": "bytes=99999999-"}, {"If-None-Match": "*"}):
        for _ in range(5):
            client.get(url, headers=headers)
            client.head(url, headers=headers)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.slow
def test_a_file_that_is_still_being_read_when_its_time_is_up_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "slow.png").write_bytes(encoded(1, "PNG"))
    index = indexed(tmp_path / "pictures", tmp_path / "x.clipdex")
    opened: list[Original] = []
    goes_on = threading.Event()
    made = Originals.open

    def slowly(self: Originals, *given: Any) -> Original:
        opened.append(made(self, *given))
        goes_on.wait(10)
        return opened[-1]

    monkeypatch.setattr(Originals, "open", slowly)
    with answering(settings_of(index, request_timeout_s=0.3)) as client:
        assert client.get("/v1/pictures/0/original").status_code == 504
        assert opened[0].descriptor >= 0
        goes_on.set()
        wait_until(lambda: opened[0].descriptor < 0, 5)


def test_a_member_of_a_tar_is_its_bytes_and_has_ranges_and_a_thumbnail(tmp_path: Path) -> None:
    data = encoded(3, "PNG")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (("x/other.png", encoded(4, "PNG")), ("x/cat.png", data)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    index = indexed(tmp_path / "0.tar", tmp_path / "x.clipdex")
    with answering(settings_of(index, thumbnail_cache=tmp_path / "cache")) as client:
        found = record(client, "cat.png")
        answer = client.get(found["original"])
        assert (answer.status_code, answer.content) == (200, data)
        assert 'filename="cat.png"' in answer.headers["content-disposition"]
        part = client.get(found["original"], headers={"Range": "bytes=2-8"})
        assert (part.status_code, part.content) == (206, data[2:9])
        assert client.get(found["thumbnail"]).status_code == 200
        shard = (tmp_path / "0.tar").read_bytes()
        (tmp_path / "0.tar").write_bytes(shard.replace(data[-40:-30], b"0123456789"))
        assert client.get(found["original"]).status_code == 404


@pytest.mark.slow
def test_a_cell_of_a_table_is_its_bytes(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    cells = [encoded(i, "JPEG") for i in range(3)]
    pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), tmp_path / "t.parquet")
    index = indexed(tmp_path / "t.parquet", tmp_path / "x.clipdex")
    with answering(settings_of(index, thumbnail_cache=tmp_path / "cache")) as client:
        for each in client.get("/v1/items").json()["items"]:
            answer = client.get(each["original"])
            assert (answer.status_code, answer.content) == (200, cells[each["row"]])
            assert f'filename="{each["row"]}.jpg"' in answer.headers["content-disposition"]
            assert client.get(each["thumbnail"]).status_code == 200


@pytest.mark.parametrize("head", [b"", b"<html>", b"<svg xmlns=", b"%PDF-1.7", b"\xff", b"RIFF1234WAVE"])
def test_what_is_no_picture_has_no_type_that_a_browser_runs(head: bytes) -> None:
    assert media_type(head) == ("application/octet-stream", "")
