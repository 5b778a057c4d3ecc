"""Tars and tables in a bucket, and tables and lists that name objects: as those of this machine, but by ranges."""

from __future__ import annotations

import csv
import io
import itertools
import os
import tarfile
from datetime import datetime, timezone

import numpy as np
import pytest
from conftest import no_failure, png
from s3_server import BUCKET, serving_s3
from test_tar_shards import write_tar

import clipdex
from clipdex.base.errors import SourceError
from clipdex.base.records import Failure
from clipdex.pipeline import standing
from clipdex.sources import object_file, tar_shards
from clipdex.sources.fetch_ahead import FetchAhead
from clipdex.sources.opening import ledger_source, member_bytes, open_source, open_sources, retry_source
from clipdex.sources.source import PathList

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ROOT = f"s3://{BUCKET}"


def tar_of(members, **options):
    """members: (name, bytes or a TarInfo's fields)."""
    buffer = io.BytesIO()
    write_tar(None, members, fileobj=buffer, **options)
    return buffer.getvalue()


def parquet_of(group=4, **columns):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=group)
    return buffer.getvalue()


PICTURES = [(f"{number}.png", png(number)) for number in range(5)]
TEXTS = [("0.txt", b"a cat"), ("1.json", b'{"a": [1, 2]}'), ("2.cls", b"7"), ("notes.md", b"-")]
SOUND = tar_of(PICTURES + TEXTS)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCKS", object_file._Blocks())
    tar_shards._listing_as_of.cache_clear()  # other tests list the same bytes
    with serving_s3(monkeypatch) as server:
        yield server


@pytest.fixture
def local(transport, tmp_path):
    """Index a file of this machine with these bytes -> the index."""

    def local(name, data):
        (tmp_path / "local").mkdir(exist_ok=True)
        path = tmp_path / "local" / name
        path.write_bytes(data)
        with clipdex.Client(transport) as client:
            clipdex.index_pictures(client, path, tmp_path / "y", workers=1)
        return tmp_path / "y"

    return local


def rows(index):
    """Path below its folder -> (metadata, vector) of each row."""
    with clipdex.Index.open(index) as opened:
        query = np.eye(1, opened.manifest.embedding_dim, dtype=np.float32)
        hits = opened.search(query, len(opened))[0] if len(opened) else []
        return {hit.path.rpartition("/")[2]: (hit.metadata, opened.vector(hit.path).tobytes()) for hit in hits}


def live(index):
    with clipdex.Index.open(index) as opened:
        return sorted(os.fsdecode(path).removeprefix(f"{ROOT}/") for _, path in opened.live_paths())


def ledger(index):
    with clipdex.Index.open(index) as opened:
        failures = list(opened.failures())
    return {os.fsdecode(each.path).rpartition("/")[2]: (each.reason, each.detail) for each in failures}


BROKEN = {
    "sound": SOUND,
    "twice": tar_of([("a.png", png(1)), ("a.png", png(2))]),
    "links": tar_of([*PICTURES, ("l.png", {"type": tarfile.SYMTYPE, "linkname": "0.png"})]),
    "pax": tar_of([("ä" * 200 + ".png", png(3))], format=tarfile.PAX_FORMAT),
    "no end mark": SOUND[: SOUND.index(b"notes.md")],
    "cut in a member": SOUND[: SOUND.index(b"4.png") + 600],
    "cut in a header": SOUND[: SOUND.index(b"4.png") + 100],
    "damaged header": SOUND.replace(b"3.png\0", b"3.pnG\0"),
    "no tar": b"no tar" * 200,
    "empty": b"",
    "packed": b"\x1f\x8b" + bytes(1022),
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n" + bytes(0),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_tar_in_a_bucket_gives_the_rows_texts_and_failures_of_the_same_tar_here(
    server, update, local, tmp_path, kind
):
    server.put("a/0.tar", BROKEN[kind], WHEN)
    here = there = None
    try:
        here = local("0.tar", BROKEN[kind])
    except SourceError as exc:
        words = str(exc).partition(": ")[2]
        with pytest.raises(SourceError) as caught:
            update(f"{ROOT}/a/0.tar")
        assert str(caught.value).partition(": ")[2] == words
    else:
        update(f"{ROOT}/a/0.tar")
        there = tmp_path / "x"
        assert rows(there) == rows(here)
        assert ledger(there) == ledger(here)
        assert rows(there) or ledger(there)


def test_a_tar_is_read_by_ranges_and_no_member_is_asked_for(server, update, monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCK", 4096)
    data = tar_of([(f"{n:03}.png", png(n % 7) + bytes(2000)) for n in range(30)])
    server.put("a/0.tar", data, WHEN)
    report, _ = update(f"{ROOT}/a/0.tar")
    assert (report.indexed, report.failed) == (30, 0)
    assert set(server.asked) <= {"LIST", "HEAD", "GET"}
    assert server.asked["HEAD"] <= 8
    assert len(server.spans) == server.asked["GET"] <= len(data) / 4096 + 1  # members come from the blocks
    assert max(end - start for _, start, end in server.spans) == 4096
    assert server.unmatched == 0


def test_the_blocks_in_memory_are_bounded(server, monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCK", 1024)
    monkeypatch.setattr(object_file, "_KEPT", 16)
    server.put("a/0.tar", tar_of([(f"{n:03}.png", bytes(3000)) for n in range(60)]), WHEN)
    assert len(list(open_source(f"{ROOT}/a/0.tar").files(no_failure))) == 60
    assert len(object_file._BLOCKS._held) <= 16
    with FetchAhead(1 << 20) as ahead:  # what is no longer there is read by itself
        fetched = list(ahead.over(open_source(f"{ROOT}/a/0.tar").files(no_failure)))
    assert len(fetched) == 60
    assert any(end - start == 3000 for _, start, end in server.spans)


def test_blocks_are_requested_ahead_of_a_reader_that_reads_on(server, monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCK", 1024)
    server.latency_s = 0.02
    server.put("a/0.tar", tar_of([(f"{n:03}.png", bytes(700)) for n in range(60)]), WHEN)
    assert len(list(open_source(f"{ROOT}/a/0.tar").files(no_failure))) == 60
    assert 3 <= server.at_once <= object_file._THREADS


def test_tars_below_a_prefix_are_kept_up_to_date(server, update, tmp_path):
    for number in range(3):
        server.put(f"a/{number}.tar", tar_of([(f"{n}.png", png(10 * number + n)) for n in range(3)]), WHEN)
    report, embedded = update(f"{ROOT}/a")
    assert (report.indexed, embedded) == (9, 9)
    report, embedded = update(f"{ROOT}/a")
    assert (report.unchanged, report.indexed, embedded) == (9, 0, 0)
    server.put("a/0.tar", tar_of([("0.png", png(0)), ("9.png", png(99))]), WHEN)  # the ETag alone says so
    del server.objects["a/2.tar"]
    report, embedded = update(f"{ROOT}/a")
    assert (report.unchanged, report.indexed, report.removed, embedded) == (4, 1, 5, 1)
    assert live(tmp_path / "x") == ["a/0.tar!/0.png", "a/0.tar!/9.png", *(f"a/1.tar!/{n}.png" for n in range(3))]
    server.put("a/holiday/x.png", png(50), WHEN)
    update(open_source(f"{ROOT}/a", tar=True))
    report, _ = update(f"{ROOT}/a/holiday")
    assert (report.removed, len(live(tmp_path / "x"))) == (0, 6)


def test_a_folder_of_pictures_forgets_members_only_with_their_tar(server, update, tmp_path):
    server.put("a/0.tar", SOUND, WHEN)
    update(f"{ROOT}/a/0.tar")
    server.put("a/x.png", png(50), WHEN)
    report, _ = update(f"{ROOT}/a")
    assert (report.indexed, report.removed) == (1, 0)
    del server.objects["a/0.tar"]
    report, _ = update(f"{ROOT}/a")
    assert (report.unchanged, report.removed) == (1, 5)


def test_a_named_tar_that_is_gone_is_forgotten_and_a_store_that_is_away_forgets_nothing(server, update, tmp_path):
    server.put("a/0.tar", SOUND, WHEN)
    server.put("a/1.tar", tar_of([("9.png", png(9))]), WHEN)
    both = [f"{ROOT}/a/0.tar", f"{ROOT}/a/1.tar"]
    update(open_sources(both))
    server.refuse = lambda kind, key: (403, "ExpiredToken")
    with pytest.raises(SourceError, match="ExpiredToken"):
        update(open_sources(both))
    assert len(live(tmp_path / "x")) == 6
    server.refuse = lambda kind, key: None
    del server.objects["a/0.tar"]
    report, _ = update(open_sources(both))
    assert (report.removed, report.failed) == (5, 1)
    assert ledger(tmp_path / "x") == {"0.tar": ("vanished", "there is no such object")}


def test_a_tar_that_changes_while_its_headers_are_read_is_one_failure(server, update, tmp_path, monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCK", 1024)
    server.put("a/0.tar", SOUND, WHEN)
    server.put("a/1.tar", tar_of([("9.png", png(9))]), WHEN)
    reads = itertools.count(1)

    def meddle(kind, key):
        if kind == "GET" and key == "a/0.tar":  # in each pass, after its state was asked for
            server.put("a/0.tar", tar_of(reversed(PICTURES)) + bytes(next(reads)))
        return None

    server.refuse = meddle
    update(f"{ROOT}/a")
    assert live(tmp_path / "x") == ["a/1.tar!/9.png"]
    assert ledger(tmp_path / "x") == {"0.tar": ("vanished", "the object was changed after it was listed")}
    server.refuse = lambda kind, key: None
    report, _ = update(f"{ROOT}/a")
    assert (report.indexed, report.failed) == (5, 0)
    assert not ledger(tmp_path / "x")


class Meddling:
    """A source during whose pass something happens, once so many files were found."""

    def __init__(self, source, number, happens):
        self.source, self.number, self.happens = source, number, happens
        self.vanished, self.nothing_found = source.vanished, source.nothing_found

    def files(self, on_failure):
        for number, file in enumerate(self.source.files(on_failure)):
            if number == self.number:
                self.happens()
            yield file


def test_a_tar_that_changes_or_vanishes_after_its_headers_were_read_fails_and_is_never_mixed(
    server, update, tmp_path, monkeypatch
):
    members = [(f"{n:02}.png", png(n)) for n in range(12)]
    before, after = tar_of(members), tar_of(reversed(members))
    monkeypatch.setattr(object_file, "_KEPT", 0)  # so that each member is a request
    monkeypatch.setattr(standing, "_LOOKED_UP", 1)  # the source is asked for one more when one is decoded
    for name, change in (("0.tar", lambda: server.put("a/0.tar", after)), ("1.tar", server.objects.clear)):
        server.put(f"a/{name}", before, WHEN)
        report, _ = update(Meddling(open_source(f"{ROOT}/a/{name}", fetches=1), 5, change))
        assert (report.indexed + report.recognised) % 12 in (4, 5, 8, 10)  # one may be on its way
        assert report.indexed + report.failed == 12
        why = "the file that contains it was rewritten after it was listed"
        said = set(ledger(tmp_path / "x").values())
        assert said == ({("vanished", why)} if name == "0.tar" else set())  # gone: its lines, too
        server.put(f"a/{name}", after)
        update(f"{ROOT}/a/{name}")
        assert not ledger(tmp_path / "x")


def test_a_run_over_tars_that_loses_the_store_keeps_what_it_has_and_resumes(server, update, tmp_path, monkeypatch):
    monkeypatch.setattr(object_file, "_KEPT", 0)
    for number in range(4):
        server.put(f"a/{number}.tar", tar_of([(f"{n}.png", png(10 * number + n)) for n in range(8)]), WHEN)
    reads = itertools.count()
    lost = []

    def refuse(kind, key):
        if kind == "GET" and next(reads) > 20:
            lost.append(key)
        return (403, "ExpiredToken") if lost else None

    server.refuse = refuse
    with pytest.raises(SourceError, match="ExpiredToken"):
        update(open_source(f"{ROOT}/a", fetches=2))
    assert not ledger(tmp_path / "x")
    server.refuse = lambda kind, key: None
    report, embedded = update(f"{ROOT}/a")
    assert (report.discovered, report.indexed + report.unchanged, report.failed) == (32, 32, 0)
    assert embedded == report.indexed


@pytest.mark.parametrize("pattern", ["a/*.tar", "a/{0,2}.tar", "**/[02].tar"])
def test_tars_are_named_by_globs_and_braces(server, pattern):
    for number in range(3):
        server.put(f"a/{number}.tar", tar_of([(f"{number}.png", png(number))]), WHEN)
    server.put("a/b/9.tar", tar_of([("9.png", png(9))]), WHEN)
    found = [os.fsdecode(file.path)[-5:] for file in open_source(f"{ROOT}/{pattern}").files(no_failure)]
    assert found == (["0.png", "1.png", "2.png"] if "*.tar" in pattern else ["0.png", "2.png"])


def test_pictures_are_named_by_a_glob_and_others_are_not_forgotten(server, update, tmp_path):
    for name in ("a/1.png", "a/2.jpg.png", "b/1.png", "a/b/1.png"):
        server.put(name, png(len(name)), WHEN)
    server.put("a/[1].png", png(70), WHEN)
    update(ROOT)
    del server.objects["a/1.png"]
    del server.objects["b/1.png"]
    report, _ = update(f"{ROOT}/a/*.png")
    assert (report.unchanged, report.removed) == (2, 1)
    assert [file.path for file in open_source(f"{ROOT}/a/[1].png").files(no_failure)] == [
        f"{ROOT}/a/[1].png".encode()
    ]


def test_a_packed_tar_and_a_mixture_are_refused_in_one_sentence(server):
    server.put("a/0.tar", SOUND, WHEN)
    server.put("a/t.csv", b"path\nx.png\n", WHEN)
    with pytest.raises(SourceError, match=r"decompress it to a \.tar first"):
        open_source(f"{ROOT}/a/0.tar.gz")
    with pytest.raises(SourceError, match=f"{ROOT}/a: holds no picture, but 1 .tar file and 1 .csv file"):
        open_source(f"{ROOT}/a")
    with pytest.raises(SourceError, match="name each table"):
        open_source(f"{ROOT}/a/*.csv")


def test_tars_of_a_bucket_go_to_parts_whole(server, transport, tmp_path):
    for number in range(4):
        server.put(f"a/{number}.tar", tar_of([(f"{n}.png", png(10 * number + n)) for n in range(3)]), WHEN)
    for _ in range(2):
        with clipdex.Client(transport) as client:
            report = clipdex.index_pictures(client, f"{ROOT}/a", tmp_path / "p", workers=1, parts=2)
    assert (report.discovered, report.unchanged) == (12, 12)


def test_no_pass_is_made_only_to_count(server, update):
    server.put("a/0.tar", SOUND, WHEN)
    source = open_source(f"{ROOT}/a/0.tar")
    passes = []
    files = source.files
    source.files = lambda on_failure: passes.append(1) or files(on_failure)  # type: ignore[method-assign]
    update(source, progress=lambda done: None)
    assert len(passes) == 2  # is there a picture? and the run


def test_members_are_read_again_for_thumbnails_and_to_retry(server, update, tmp_path):
    server.put("a/0.tar", tar_of([*PICTURES, ("bad.png", b"no picture")]), WHEN)
    assert member_bytes(f"{ROOT}/a/0.tar!/3.png") == png(3)
    assert member_bytes(f"{ROOT}/a/0.tar!/none.png") is None
    assert member_bytes(f"{ROOT}/a/none.tar!/3.png") is None
    server.put("a/x.tar!/3.png", png(40), WHEN)
    assert member_bytes(f"{ROOT}/a/x.tar!/3.png") == png(40)
    again = retry_source([f"{ROOT}/a/0.tar!/3.png".encode(), f"{ROOT}/a/x.tar!/3.png".encode()], "the rows")
    assert sorted(os.fsdecode(file.path)[-14:] for file in again.files(no_failure)) == [
        "/a/0.tar!/3.png"[-14:],
        "/a/x.tar!/3.png"[-14:],
    ]
    update(f"{ROOT}/a/0.tar")
    with clipdex.Index.open(tmp_path / "x") as opened:
        source = ledger_source(opened.failures(), "the ledger")
    assert [os.path.basename(os.fsdecode(file.path)) for file in source.files(no_failure)] == ["bad.png"]


# Tables


def test_parquet_in_a_bucket_gives_the_rows_and_texts_of_the_same_table_here(server, update, local, tmp_path):
    data = parquet_of(jpg=[*map(png, range(9)), None], txt=[f"number {n}" for n in range(10)])
    server.put("a/t.parquet", data, WHEN)
    update(f"{ROOT}/a/t.parquet")
    here = local("t.parquet", data)
    assert rows(tmp_path / "x") == rows(here)
    assert ledger(tmp_path / "x") == ledger(here) == {"9": ("empty", "the row has no picture")}
    gets = server.asked["GET"]
    report, embedded = update(f"{ROOT}/a")
    assert (report.unchanged, report.indexed, embedded) == (9, 0, 0)
    assert server.asked["GET"] <= gets + 3  # the footer, not the pictures
    assert member_bytes(f"{ROOT}/a/t.parquet!/jpg/3") == png(3)
    server.put("a/t.parquet", parquet_of(jpg=[png(n) for n in range(3)]), WHEN)
    report, embedded = update(f"{ROOT}/a/*.parquet")
    assert (report.unchanged, report.removed, embedded) == (3, 6, 0)
    del server.objects["a/t.parquet"]
    server.put("a/u.parquet", parquet_of(jpg=[png(30)]), WHEN)
    report, _ = update(f"{ROOT}/a")
    assert (report.indexed, report.removed) == (1, 3)


def test_damaged_parquet_in_a_bucket_is_refused_in_the_words_for_a_file(server, local):
    data = parquet_of(jpg=[png(n) for n in range(9)])
    for broken in (data[:-10], b"", b"PAR1 no", data.replace(b"jpg", b"jpe")):
        server.put("a/t.parquet", broken, WHEN)
        with pytest.raises(SourceError) as here:
            local("t.parquet", broken)
        with pytest.raises(SourceError) as there:
            open_source(f"{ROOT}/a/t.parquet")
        said = str(there.value).replace(f"{ROOT}/a/t.parquet", "t.parquet")
        assert said.partition(": ")[2][:40] == str(here.value).partition(": ")[2][:40]


def test_a_parquet_table_that_changes_in_mid_run_fails_from_there_on(server, update, tmp_path, monkeypatch):
    monkeypatch.setattr(object_file, "_KEPT", 0)
    monkeypatch.setattr(object_file, "_BLOCK", 4096)
    monkeypatch.setattr(standing, "_LOOKED_UP", 1)
    data = parquet_of(jpg=[png(n) for n in range(40)])
    server.put("a/t.parquet", data, WHEN)
    other = parquet_of(jpg=[png(50 + n) for n in range(40)])
    source = open_source(f"{ROOT}/a/t.parquet")
    report, _ = update(Meddling(source, 20, lambda: server.put("a/t.parquet", other)))
    assert report.indexed + report.failed == 40
    assert report.failed == 20
    (why,) = {detail for _, detail in ledger(tmp_path / "x").values()}
    assert "the object was changed after it was listed" in why
    report, _ = update(f"{ROOT}/a/t.parquet")
    assert (report.indexed, report.failed) == (40, 0)


def test_a_store_that_is_lost_ends_a_run_over_parquet(server, update, tmp_path, monkeypatch):
    monkeypatch.setattr(object_file, "_KEPT", 0)
    monkeypatch.setattr(object_file, "_BLOCK", 4096)
    server.put("a/t.parquet", parquet_of(jpg=[png(n) + bytes(9000) for n in range(40)]), WHEN)
    source = open_source(f"{ROOT}/a/t.parquet")
    reads = itertools.count()
    lost = []

    def refuse(kind, key):
        if kind == "GET" and next(reads) > 60:
            lost.append(key)
        return (403, "ExpiredToken") if lost else None

    server.refuse = refuse
    with pytest.raises(SourceError, match="ExpiredToken"):
        update(source)
    assert not ledger(tmp_path / "x")


def table(*lines):
    text = io.StringIO()
    csv.writer(text).writerows([["path", "caption"], *lines])
    return text.getvalue().encode()


def test_a_csv_in_a_bucket_names_objects_from_its_own_folder(server, update, tmp_path):
    for name in ("a/0.png", "a/in/1.png", "b/2.png", "c d/3%20.png"):
        server.put(name, png(len(name)), WHEN)
    lines = [
        ("0.png", "zero"),
        ("in/1.png", "one"),
        ("../b/2.png", "two"),
        (f"S3://{BUCKET}/c d/3%20.png", "three"),
        ("in/none.png", ""),
        ("s3://", ""),
        ("https://x.test/y.png", ""),
    ]
    server.put("a/t.csv", table(*lines), WHEN)
    report, _ = update(f"{ROOT}/a/t.csv")
    assert (report.indexed, report.failed) == (4, 3)
    assert live(tmp_path / "x") == ["a/0.png", "a/in/1.png", "b/2.png", "c d/3%20.png"]
    assert rows(tmp_path / "x")["2.png"][0] == {"caption": "two"}
    assert {reason for reason, _ in ledger(tmp_path / "x").values()} == {"vanished", "not_a_path"}
    report, embedded = update(f"{ROOT}/a/t.csv")
    assert (report.unchanged, embedded) == (4, 0)
    server.put("a/t.csv", table(*lines[:4]).decode().encode("utf-16"), WHEN)
    report, embedded = update(f"{ROOT}/a/t.csv")
    assert (report.unchanged, report.failed) == (4, 0)
    assert "none.png" in ledger(tmp_path / "x")  # as for a file: a table says nothing of what it no longer names


def test_a_table_here_names_objects_and_they_are_examined_many_at_once(server, update, tmp_path):
    server.latency_s = 0.02
    for number in range(40):
        server.put(f"a/{number:02}.png", png(number), WHEN)
    path = tmp_path / "t.csv"
    path.write_bytes(table(*((f"{ROOT}/a/{number:02}.png", f"number {number}") for number in range(40))))
    source = open_source(path, fetches=8)
    found = [os.fsdecode(file.path) for file in source.files(no_failure)]
    assert found == [f"{ROOT}/a/{number:02}.png" for number in range(40)]
    assert server.asked["HEAD"] == 40
    assert 4 <= server.heads_at_once <= 8
    report, _ = update(path)
    assert (report.indexed, report.failed) == (40, 0)
    assert rows(tmp_path / "x")["07.png"][0] == {"caption": "number 7"}


def test_a_parquet_table_of_urls_and_structs_names_objects(server, update, tmp_path):
    for number in range(4):
        server.put(f"a/{number}.png", png(number), WHEN)
    server.put("t/urls.parquet", parquet_of(path=[f"{ROOT}/a/0.png", "../a/1.png"]), WHEN)
    cells = [
        {"bytes": png(70), "path": "x"},
        {"bytes": None, "path": "../a/2.png"},
        {"bytes": None, "path": f"{ROOT}/a/none.png"},
    ]
    server.put("t/cells.parquet", parquet_of(image=cells), WHEN)
    report, _ = update(f"{ROOT}/t/urls.parquet")
    assert report.indexed == 2
    report, _ = update(f"{ROOT}/t/cells.parquet")
    assert (report.indexed, report.failed) == (2, 1)
    assert ledger(tmp_path / "x") == {"2": ("vanished", f"{ROOT}/a/none.png: there is no such object")}


def test_a_list_names_objects_and_files(server, update, pictures, tmp_path):
    server.put("a/0.png", png(0), WHEN)
    here = sorted(pictures.iterdir())[0]
    listed = PathList.parse(f"{ROOT}/a/0.png\n{here}\n{ROOT}/a/gone.png\n".encode(), "the list")
    failures: list[Failure] = []
    assert [os.fsdecode(file.path) for file in listed.files(failures.append)] == [f"{ROOT}/a/0.png", str(here)]
    assert [(each.reason, each.detail) for each in failures] == [("vanished", "there is no such object")]
    update(PathList.parse(f"{ROOT}/a/0.png\n".encode(), "the list"))
    del server.objects["a/0.png"]
    server.put("a/1.png", png(1), WHEN)
    report, _ = update(PathList.parse(f"{ROOT}/a/0.png\n{ROOT}/a/1.png\n".encode(), "the list"))
    assert (report.indexed, report.failed) == (1, 1)
    assert ledger(tmp_path / "x") == {"0.png": ("vanished", "there is no such object")}


def test_an_item_is_not_added_from_a_bucket(server, tmp_path):
    from clipdex.sources.id_list import IdList

    path = tmp_path / "items.csv"
    path.write_text(f"id,path\n1,{ROOT}/a/0.png\n")
    (line,) = IdList(path)
    assert "items are added from files of this machine" in line.why
