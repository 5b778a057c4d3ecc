"""Pictures in a bucket: what is listed, read, read again, forgotten and refused."""

from __future__ import annotations

import itertools
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from conftest import no_failure, png
from s3_server import BUCKET, serving_s3

import clipdex
from clipdex.base.errors import InvalidArgument, MissingExtra, SourceError
from clipdex.base.object_paths import is_object, object_meant
from clipdex.pipeline.departures import forget_pictures, is_gone
from clipdex.sources import object_store
from clipdex.sources.census import Surveyed
from clipdex.sources.fetch_ahead import FetchAhead
from clipdex.sources.object_folder import ObjectFolder, Objects
from clipdex.sources.object_store import Bucket
from clipdex.sources.opening import member_bytes, open_source, open_sources, retry_source

pytest.importorskip("obstore")

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
HOLIDAY = f"s3://{BUCKET}/holiday"


@pytest.fixture
def server(monkeypatch):
    with serving_s3(monkeypatch) as server:
        for number in range(5):
            server.put(f"holiday/{number}.png", png(number), WHEN)
        yield server


def paths(source):
    return [os.fsdecode(file.path) for file in source.files(no_failure)]


def rows(index):
    with clipdex.Index.open(index) as opened:
        return sorted(os.fsdecode(path) for _, path in opened.live_paths())


def ledger(index):
    with clipdex.Index.open(index) as opened:
        return {os.fsdecode(failure.path): failure.reason for failure in opened.failures()}


def test_a_prefix_is_a_folder_known_by_its_listing_alone(server):
    server.page = 2
    server.put("holiday-old/x.png", png(9))
    server.put("holiday/ä ö/%41+&.JPG", png(10))
    server.put("holiday/.hidden/x.png", png(11))
    server.put("holiday/notes.txt", b"no picture")
    source = open_source(HOLIDAY)
    assert paths(source) == [*(f"{HOLIDAY}/{n}.png" for n in range(5)), f"{HOLIDAY}/ä ö/%41+&.JPG"]
    assert set(server.asked) == {"LIST"}
    assert isinstance(source, Surveyed)
    assert source.passed_over().left_out_files == 1
    assert source.passed_over().others == {".txt": 1}


@pytest.mark.slow
def test_a_name_of_any_characters_is_read(server, update, tmp_path):
    server.objects.clear()
    names = ["ä ö/%41+&.JPG", "a=b?c#d.png", "x!/y.png", "[0] {1}.png", "日本.png"]
    for seed, name in enumerate(names):
        server.put(f"holiday/{name}", png(seed))
    report, _ = update(HOLIDAY)
    assert (report.indexed, report.failed) == (5, 0)
    assert rows(tmp_path / "x") == sorted(f"{HOLIDAY}/{name}" for name in names)


def test_a_bucket_gives_the_vectors_that_the_same_files_give(server, update, tmp_path, transport):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number))
    update(HOLIDAY)
    with clipdex.Client(transport) as client:
        clipdex.index_pictures(client, folder, tmp_path / "local", workers=1)
    with clipdex.Index.open(tmp_path / "x") as there, clipdex.Index.open(tmp_path / "local") as here:
        for number in range(5):
            far = there.vector(f"{HOLIDAY}/{number}.png")
            assert (far == here.vector(folder / f"{number}.png")).all()


@pytest.mark.slow
def test_only_what_is_new_or_changed_is_read_again_and_what_is_gone_is_forgotten(server, update, tmp_path):
    update(HOLIDAY)
    assert server.asked["GET"] == 5
    server.put("holiday/1.png", png(21), WHEN)
    server.put("holiday/5.png", png(22), WHEN)
    del server.objects["holiday/2.png"]
    report, embedded = update(HOLIDAY)
    assert (report.unchanged, report.indexed, report.changed, report.removed, embedded) == (3, 2, 1, 1, 2)
    assert server.asked["GET"] == 7
    assert rows(tmp_path / "x") == [f"{HOLIDAY}/{n}.png" for n in (0, 1, 3, 4, 5)]
    assert set(server.asked) == {"LIST", "GET"}


@pytest.mark.slow
def test_another_etag_alone_or_another_time_alone_makes_an_object_read_again(server, update):
    update(HOLIDAY)
    data, when, _ = server.objects["holiday/0.png"]
    server.objects["holiday/0.png"] = (data, when, '"made of parts-2"')
    data, _, tag = server.objects["holiday/1.png"]
    server.objects["holiday/1.png"] = (data, datetime.now(timezone.utc), tag)
    report, embedded = update(HOLIDAY)
    assert server.asked["GET"] == 7
    assert (report.unchanged, report.indexed, embedded) == (5, 0, 0)  # the same bytes
    update(HOLIDAY)
    assert server.asked["GET"] == 7


def test_a_listing_that_fails_forgets_nothing(server, update, tmp_path):
    update(HOLIDAY)
    server.page = 2
    pages = itertools.count()
    source = open_source(HOLIDAY)
    server.refuse = lambda kind, key: (403, "AccessDenied") if kind == "LIST" and next(pages) % 2 else None
    with pytest.raises(SourceError, match="may not list or read"):
        list(source.files(no_failure))
    assert source.vanished([f"{HOLIDAY}/{n}.png".encode() for n in range(9)]) == []
    with pytest.raises(SourceError):
        update(HOLIDAY)
    assert len(rows(tmp_path / "x")) == 5


def test_an_empty_prefix_is_an_error_and_forgets_nothing(server, update, tmp_path):
    update(HOLIDAY)
    server.objects.clear()
    with pytest.raises(SourceError, match=f"{HOLIDAY}: holds no picture"):
        update(HOLIDAY)
    assert len(rows(tmp_path / "x")) == 5


def test_an_object_that_changes_or_vanishes_in_mid_run_fails_and_is_never_mixed(server, update, tmp_path):
    def meddle(kind, key):
        if kind == "GET" and key == "holiday/1.png":
            server.objects.pop("holiday/1.png", None)
        if kind == "GET" and key == "holiday/2.png":
            server.put("holiday/2.png", png(30))
        return None

    server.refuse = meddle
    report, _ = update(HOLIDAY)
    assert (report.indexed, report.failed) == (3, 2)
    assert ledger(tmp_path / "x") == {f"{HOLIDAY}/1.png": "vanished", f"{HOLIDAY}/2.png": "vanished"}
    server.refuse = lambda kind, key: None
    report, _ = update(HOLIDAY)
    assert (report.indexed, report.unchanged, report.failed) == (1, 3, 0)
    assert not ledger(tmp_path / "x")


def test_an_object_that_the_store_refuses_alone_is_a_failure_and_the_others_go_on(server, update, tmp_path):
    server.refuse = lambda kind, key: (403, "InvalidObjectState") if key == "holiday/1.png" else None
    report, _ = update(HOLIDAY)
    assert (report.indexed, report.failed) == (4, 1)
    with clipdex.Index.open(tmp_path / "x") as opened:
        (failure,) = opened.failures()
    assert (failure.reason, failure.detail) == ("unreadable", "the store refuses the object: InvalidObjectState")


def test_an_object_beyond_the_limit_is_not_fetched(server, update, tmp_path):
    server.put("holiday/large.png", png(1) + bytes(100_000))
    report, _ = update(HOLIDAY, limits=clipdex.Limits(max_file_bytes=50_000))
    assert (report.indexed, report.failed, server.asked["GET"]) == (5, 1, 5)
    assert ledger(tmp_path / "x") == {f"{HOLIDAY}/large.png": "too_large"}


REFUSALS = {
    (403, "InvalidAccessKeyId"): r"the store refuses the credentials \(InvalidAccessKeyId\)",
    (403, "SignatureDoesNotMatch"): r"the store refuses the credentials \(SignatureDoesNotMatch\)",
    (400, "ExpiredToken"): r"the store refuses the credentials \(ExpiredToken\)",
    (403, "AccessDenied"): r"may not list or read the bucket \(AccessDenied\)",
    (403, "RequestTimeTooSkewed"): r"the clock of this machine differs",
    (400, "AuthorizationHeaderMalformed"): "the bucket is in another region; set AWS_REGION",
    (404, "NoSuchBucket"): "there is no such bucket",
    (500, "InternalError"): "the store fails: InternalError",
}


@pytest.mark.parametrize(("refusal", "words"), REFUSALS.items(), ids=lambda each: each[1] if each else "")
def test_a_store_that_refuses_is_one_sentence(server, run, tmp_path, refusal, words):
    server.refuse = lambda kind, key: refusal
    status, out, err = run("index", HOLIDAY, "-i", tmp_path / "x", "--dry-run")
    assert status != 0
    assert out == ""
    assert len(err.splitlines()) == 1
    with pytest.raises(SourceError, match=f"^s3://{BUCKET}: .*{words}"):
        list(open_source(HOLIDAY).files(no_failure))


def test_a_bucket_that_does_not_exist_and_a_store_that_is_not_there_are_one_sentence(server, monkeypatch):
    with pytest.raises(SourceError, match=r"s3://other: there is no such bucket"):
        list(open_source("s3://other/x").files(no_failure))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="cannot be reached; check the network"):
        list(open_source(HOLIDAY).files(no_failure))


def test_a_store_that_is_lost_in_mid_run_ends_it_and_keeps_what_was_committed(server, update, tmp_path):
    seen = itertools.count()
    server.refuse = lambda kind, key: (403, "ExpiredToken") if kind == "GET" and next(seen) >= 2 else None
    lost = itertools.count()
    first = server.refuse

    def refuse(kind, key):
        if kind == "LIST" and server.asked["GET"] >= 3 and next(lost) >= 0:
            return 403, "ExpiredToken"
        return first(kind, key)

    server.refuse = refuse
    with pytest.raises(SourceError, match="ExpiredToken"):
        update(open_source(HOLIDAY, fetches=1))
    assert not ledger(tmp_path / "x")
    server.refuse = lambda kind, key: None
    report, _ = update(HOLIDAY)
    assert (report.indexed + report.unchanged, report.failed) == (5, 0)


@pytest.mark.slow
def test_as_many_objects_are_fetched_at_once_as_asked_and_no_more(server):
    server.latency_s = 0.05
    for number in range(40):
        server.put(f"holiday/{number:03}.png", b"x")
    for fetches in (1, 8):
        server.at_once = 0
        with FetchAhead(1000) as ahead:
            fetched = [file.path for file in ahead.over(open_source(HOLIDAY, fetches=fetches).files(no_failure))]
        assert fetched == [file.path for file in open_source(HOLIDAY).files(no_failure)]
        assert server.at_once == fetches


def test_files_of_this_machine_do_not_wait_for_a_bucket(tmp_path, pictures):
    with FetchAhead(1 << 20) as ahead:
        endless = (file for _ in itertools.count() for file in clipdex.open_source(pictures).files(no_failure))
        assert next(ahead.over(endless)).member is None


def test_one_object_and_several_sources_can_be_named(server, pictures):
    assert paths(open_source(f"{HOLIDAY}/3.png")) == [f"{HOLIDAY}/3.png"]
    both = open_sources([HOLIDAY, pictures, Path(f"{HOLIDAY}/1.png")])
    assert len(paths(both)) == 5 + len(paths(clipdex.open_source(pictures)))
    failures: list[clipdex.Failure] = []
    assert list(Objects([f"{HOLIDAY}/none.png"]).files(failures.append)) == []
    assert [failure.reason for failure in failures] == ["vanished"]


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(SourceError, match="names no bucket"):
        open_source("s3://")


def test_a_url_keeps_its_form_through_pathlib():
    assert object_meant(str(Path("s3://b/c/d.png"))) == "s3://b/c/d.png"
    assert object_meant("./s3:/b") is None
    assert object_meant("/s3://b") is None
    assert is_object(b"gs://b/x")
    assert not is_object(b"/gs://b/x")


def test_nothing_but_a_listing_says_that_an_object_is_gone(server, update, tmp_path):
    update(HOLIDAY)
    assert not is_gone(f"{HOLIDAY}/0.png".encode())
    assert forget_pictures(tmp_path / "x", missing=True, whole_folders=True).rows == 0
    assert forget_pictures(tmp_path / "x", [f"{HOLIDAY}/0.png"]).rows == 1
    with pytest.raises(InvalidArgument, match=f"{HOLIDAY}x: "):
        forget_pictures(tmp_path / "x", [f"{HOLIDAY}x"])
    assert forget_pictures(tmp_path / "x", [Path(HOLIDAY)]).folders == {HOLIDAY: 4}


def test_where_knows_an_object_by_name_and_folder(server, update, tmp_path):
    update(HOLIDAY)
    with clipdex.Index.open(tmp_path / "x") as opened:
        found = opened.search(
            opened.vector(f"{HOLIDAY}/3.png"), 5, where=f"name = '3.png' and folder = '{HOLIDAY}'"
        )
    assert [hit.path for hit in found[0]] == [f"{HOLIDAY}/3.png"]


def test_the_bytes_of_an_object_are_fetched_for_a_thumbnail(server):
    assert member_bytes(f"{HOLIDAY}/1.png") == png(1)
    assert member_bytes(f"{HOLIDAY}/none.png") is None


def test_failures_and_rows_are_read_again_from_the_bucket(server):
    source = retry_source([f"{HOLIDAY}/1.png".encode()], "the rows")
    assert paths(source) == [f"{HOLIDAY}/1.png"]


@pytest.mark.slow
def test_a_duplicate_in_a_bucket_is_not_moved(server, update, tmp_path, run):
    server.put("holiday/copy.png", png(1))
    update(HOLIDAY)
    _, _, err = run("duplicates", tmp_path / "x", "--move-to", tmp_path / "moved")
    assert "it is an object in a bucket, which is not changed" in err
    assert "holiday/copy.png" in server.objects


def test_without_obstore_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    object_store._opened.cache_clear()
    with pytest.raises(MissingExtra, match="buckets"):
        open_source("s3://nowhere/x")


def test_memory_store_without_etags_compares_size_and_time():
    class NoTags:
        def __init__(self, store):
            self._store = store

        def list(self, prefix, chunk_size):
            return ([meta | {"e_tag": None} for meta in page] for page in self._store.list(prefix))

        def get(self, key, options):
            assert options == {}
            found = self._store.get(key)

            class Found:
                meta = found.meta | {"e_tag": None}
                bytes = found.bytes

            return Found

    from obstore.store import MemoryStore

    store = MemoryStore()
    store.put("a/1.png", png(1))
    bucket = Bucket("s3://b", NoTags(store))
    (file,) = ObjectFolder(bucket, "a").files(no_failure)
    assert file.ctime_ns is None
    assert b"vanished" not in file.request()
    (file,) = ObjectFolder(bucket, "a").files(no_failure)
    store.put("a/1.png", png(2))
    assert b"vanished" in file.request()
