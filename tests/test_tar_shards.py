"""Pictures in tar archives: read where they lie, resumed, kept up to date, whatever the archive is like."""

import csv
import io
import json
import os
import subprocess
import tarfile
from typing import Any

import numpy as np
import pytest
from conftest import no_failure, noise, png
from killed_run import kill_a_run

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.apps.contact_sheet import Section, contact_sheet
from clipdex.apps.dump_files import dump_table
from clipdex.apps.results import Answer, as_json
from clipdex.index import IndexWriter
from clipdex.pipeline.plan import plan_run
from clipdex.sources import Folder, ledger_source, open_source, open_sources
from clipdex.sources.metadata import metadata_json
from clipdex.sources.sidecars import Sidecars, is_sidecar, stem_of
from clipdex.sources.tar_headers import BrokenTar, TarEntry, walk
from clipdex.sources.tar_shards import TarShards, tar_member
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]


def write_tar(path, members, **options):
    """members: (name, bytes or a TarInfo's fields)."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, dict):
                for key, value in data.items():
                    setattr(info, key, value)
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def run(source, index, transport=None, **options):
    with Client(transport or FakeTransport()) as client:
        return index_pictures(client, source, index, workers=1, **options)


def names(index, root):
    with Index.open(index) as opened:
        return [os.fsdecode(path).removeprefix(f"{root}/") for _, path in opened.live_paths()]


def ledger(index):
    with Index.open(index) as opened:
        return {os.path.basename(os.fsdecode(f.path)): f.reason for f in opened.failures()}


def metadata(index):
    with Index.open(index) as opened:
        query = np.eye(1, opened.manifest.embedding_dim, dtype=np.float32)
        return {os.path.basename(hit.path): hit.metadata for hit in opened.search(query, len(opened))[0]}


def listed(path):
    with path.open("rb") as file:
        return [(e.name, e.offset, e.length) for e in walk(file, path.stat().st_size) if not e.refused]


@pytest.fixture
def shard(tmp_path):
    return write_tar(tmp_path / "0.tar", [(f"{i:04}.png", png(i)) for i in range(6)])


# The archive


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_says(tmp_path, format):
    long = ["a" * 90 + "/" + "b" * 90 + ".jpg"]
    if format != tarfile.USTAR_FORMAT:
        long += ["deep/" * 60 + "x.jpg", "日本/" * 40 + "é.png"]
    members = [(name, os.urandom(7 * i)) for i, name in enumerate(["x.jpg", "sub/y.png", "./z.png", *long])]
    path = write_tar(tmp_path / "x.tar", [("sub", {"type": tarfile.DIRTYPE}), *members], format=format)
    with tarfile.open(path) as tar:
        expected = [
            (os.fsencode(m.name.removeprefix("./")), m.offset_data, m.size) for m in tar.getmembers() if m.isfile()
        ]
    assert listed(path) == expected
    assert len(expected) == len(members)


def test_a_pax_size_counts_as_the_headers_own(tmp_path):
    """As archives of members over 8 GiB have it, where the header's field is too small."""
    path = tmp_path / "x.tar"
    record = b"12 size=600\n"
    extra = tarfile.TarInfo("pax")
    extra.type, extra.size = tarfile.XHDTYPE, len(record)
    header = tarfile.TarInfo("a.jpg")
    data = os.urandom(600)
    path.write_bytes(
        extra.tobuf(tarfile.USTAR_FORMAT)
        + record.ljust(512, b"\0")
        + header.tobuf(tarfile.USTAR_FORMAT)
        + data.ljust(1024, b"\0")
        + bytes(1024)
    )
    assert listed(path) == [(b"a.jpg", 1536, 600)]


def test_hostile_headers_end_the_list_and_nothing_else(tmp_path):
    good = write_tar(tmp_path / "good.tar", [("a.jpg", b"x" * 600)]).read_bytes()[:1536]

    def block(kind, size, name="x"):
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf(tarfile.GNU_FORMAT)

    negative = bytearray(block(tarfile.REGTYPE, 0))
    negative[124:136] = b"\xff" * 11 + b"\x00"  # base 256, -256
    negative[148:156] = (
        b"%06o\0 "
        % tarfile.calc_chksums(  # type: ignore[attr-defined]
            bytes(negative)
        )[0]
    )
    for evil in (
        bytes(negative),
        block(tarfile.REGTYPE, 1 << 50),
        block(tarfile.GNUTYPE_LONGNAME, 1 << 40) + bytes(512),
        block(tarfile.XHDTYPE, 512) + b"99999999999 path=x\n".ljust(512, b"\0"),
        block(tarfile.XHDTYPE, 512) + b"0 path=x\n".ljust(512, b"\0"),
        block(tarfile.XHDTYPE, 512) + b"\xff" * 512,
        block(tarfile.GNUTYPE_LONGNAME, 512) + b"y" * 512,
        os.urandom(512),
    ):
        path = tmp_path / "evil.tar"
        path.write_bytes(good + evil + bytes(1024))
        found: list[Any] = []
        with path.open("rb") as file, pytest.raises(BrokenTar):
            found.extend(walk(file, path.stat().st_size))
        with path.open("rb") as file:
            assert next(walk(file, path.stat().st_size)).name == b"a.jpg"


def test_every_cut_of_a_shard_is_noticed(tmp_path, shard):
    whole = shard.read_bytes()
    members = listed(shard)
    end = (members[-1][1] + members[-1][2] + 511) // 512 * 512
    cut = tmp_path / "cut.tar"
    for length in [*range(0, end, 397), *range(0, end, 512)]:
        cut.write_bytes(whole[:length])
        found = []
        with cut.open("rb") as file, pytest.raises(BrokenTar):
            for entry in walk(file, length):
                found.append(entry)
        assert len(found) == sum(offset + size <= length for _, offset, size in members)


# The run


def test_a_shard_becomes_an_index(shard, tmp_path):
    report = run(shard, tmp_path / "x")
    assert (report.discovered, report.indexed, report.failed) == (6, 6, 0)
    assert names(tmp_path / "x", tmp_path) == [f"0.tar!/{i:04}.png" for i in range(6)]
    with Index.open(tmp_path / "x") as index, Client(FakeTransport()) as client:
        np.testing.assert_allclose(index.vectors, client.embed_images([png(i) for i in range(6)]), atol=1e-3)
        picture = index.picture(2)
    assert (picture.size, picture.mtime_ns) == (len(png(2)), shard.stat().st_mtime_ns)


def test_the_second_run_decodes_nothing(shard, tmp_path, monkeypatch):
    run(shard, tmp_path / "x")
    monkeypatch.setattr("clipdex.sources.tar_shards._TarPicture.request", lambda _: pytest.fail("read again"))
    report = run(shard, tmp_path / "x")
    assert (report.indexed, report.unchanged) == (0, 6)


def test_a_rewritten_shard_is_read_but_not_embedded_again(shard, tmp_path):
    run(shard, tmp_path / "x")
    write_tar(shard, [("0001.png", png(1)), ("0002.png", png(77)), ("new.png", png(3)), ("0005.png", png(5))])
    os.utime(shard, ns=(1, 1))
    transport = FakeTransport()
    report = run(shard, tmp_path / "x", transport)
    assert (report.indexed, report.recognised, report.unchanged, report.removed) == (2, 1, 2, 3)
    assert sorted(names(tmp_path / "x", tmp_path)) == [f"0.tar!/{n}.png" for n in ("0001", "0002", "0005", "new")]
    embedded = sum(count for model, count in transport.requests if model == "fake_image")
    assert embedded == 1


def test_what_webdataset_puts_beside_a_picture_is_kept(tmp_path):
    members = [
        ("a/0.json", b'{"width": 3, "tags": ["x", null], "odd": NaN}'),
        ("a/0.left.png", png(0)),
        ("a/0.right.png", png(1)),
        ("a/0.txt", "a café \n".encode()),
        ("a/0.cls", b"17"),
        ("b/0.png", png(2)),
        ("c.png", png(3)),
        ("c.json", b"not json"),
        ("c.caption", b"y" * 70_000),
        ("d.png", png(4)),
        ("d.txt", b"caf\xe9"),
    ]
    run(write_tar(tmp_path / "0.tar", members), tmp_path / "x")
    of_a = {"json": {"width": 3, "tags": ["x", None], "odd": None}, "txt": "a café", "cls": 17}
    assert metadata(tmp_path / "x") == {
        "0.left.png": of_a,
        "0.right.png": of_a,
        "0.png": None,
        "c.png": {"json": "not json"},
        "d.png": {"txt": "caf\\xe9"},
    }


def test_case_02_tar_names_with_dots(tmp_path):
    """The whole stem is what a caption belongs to; the members lie in no order."""
    members = [
        ("22.06.json", b'{"n": 6}'),
        ("22.05.png", png(0)),
        ("22.06.png", png(1)),
        ("22.05.json", b'{"n": 5}'),
        ("22.05.txt", b"red one"),
        ("22.07.png", png(2)),
        ("22.06.txt", b"red two"),
    ]
    run(write_tar(tmp_path / "0.tar", members), tmp_path / "x")
    assert metadata(tmp_path / "x") == {
        "22.05.png": {"txt": "red one", "json": {"n": 5}},
        "22.06.png": {"txt": "red two", "json": {"n": 6}},
        "22.07.png": None,
    }
    with Index.open(tmp_path / "x") as opened:
        (row,) = opened.where("meta ->> 'txt' = 'red one'")
        assert opened.picture(row).path.endswith(b"22.05.png")


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        # Webdataset's samples: all before the first dot is the key, and its pictures share what is said of it.
        (["0.left.png", "0.right.png", "0.txt"], {"0.left.png": ["0.txt"], "0.right.png": ["0.txt"]}),
        (["a.png", "a.seg.png", "a.txt"], {"a.png": ["a.txt"], "a.seg.png": ["a.txt"]}),
        (["a.png", "a.seg.png", "a.txt", "a.seg.txt"], {"a.png": ["a.txt"], "a.seg.png": ["a.seg.txt"]}),
        (["0.png", "0.clip.json", "0.json"], {"0.png": ["0.clip.json", "0.json"]}),
        (["0.a.png", "0.a.clip.json", "0.b.png"], {"0.a.png": ["0.a.clip.json"], "0.b.png": []}),
        # What is said of another member is nobody else's, whether that is taken for a picture or not.
        (["s.png", "s.1.arw", "s.1.txt"], {"s.png": []}),
        (["s.1.png", "s.2.txt", "s.3.txt"], {"s.1.png": []}),
        # Text before its picture, and far from it; the same stem in another folder; capitals; a leading dot.
        (["b.txt", *(f"{i}.png" for i in range(30)), "b.png"], {"b.png": ["b.txt"], "7.png": []}),
        (["x/1.2.png", "y/1.2.txt", "1.2.txt"], {"x/1.2.png": []}),
        (["v1.0/a.png", "v1.0/a.txt", "v1.0/b.png"], {"v1.0/a.png": ["v1.0/a.txt"], "v1.0/b.png": []}),
        (["A.1.PNG", "A.1.TXT", "B.png", "b.txt"], {"A.1.PNG": ["A.1.TXT"], "B.png": []}),
        ([".a.png", ".b.png", ".a.txt", ".txt"], {".a.png": [".a.txt"], ".b.png": []}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_whose_a_text_is(names, fields):
    entries = [TarEntry(name.encode(), 0, 0) for name in names]
    sidecars = Sidecars.among(entries, {stem_of(e.name) for e in entries if not is_sidecar(e.name)})
    for picture, expected in fields.items():
        found = [entry.name.decode() for entry in sidecars.of(picture.encode()).values()]
        assert sorted(found) == sorted(expected)


def test_case_12_unknown_picture_suffix_in_tar(tmp_path):
    """What is not looked at is counted, whatever its content is; the texts beside pictures are not left out."""
    members: list[tuple[str, object]] = [
        ("0.png", png(0)),
        ("0.txt", b"x"),
        ("1.img", png(1)),
        ("d/2.IMG", png(2)),
        ("3", png(3)),
    ]
    members += [("link.img", {"type": tarfile.SYMTYPE, "linkname": "0.png"})]
    shard = write_tar(tmp_path / "0.tar", members)
    report = run(shard, tmp_path / "x")
    assert (report.discovered, report.indexed) == (1, 1)
    assert report.passed_over.others == {".img": 2, "": 1}
    (tmp_path / "shards").mkdir()
    shard.rename(tmp_path / "shards" / "0.tar")
    (tmp_path / "shards" / "notes.md").write_text("x")
    report = run(TarShards(below=tmp_path / "shards"), tmp_path / "x")
    assert report.passed_over.others == {".img": 2, "": 1, ".md": 1}


def test_a_text_that_is_too_long_is_no_reason_to_take_anothers(tmp_path):
    members = [("22.05.png", png(0)), ("22.05.txt", b"x" * 70_000), ("22.txt", b"of the whole roll")]
    run(write_tar(tmp_path / "0.tar", members), tmp_path / "x")
    assert metadata(tmp_path / "x") == {"22.05.png": None}


def test_what_is_held_of_a_shard_grows_as_its_members_do():
    def held(count):
        names = [f"shoot.{i:05}.{kind}".encode() for i in range(count) for kind in ("png", "txt")]
        entries = [TarEntry(name, 0, 0) for name in [*names, *(b"shoot.x%d.txt" % i for i in range(count))]]
        sidecars = Sidecars.among(entries, {stem_of(e.name) for e in entries if not is_sidecar(e.name)})
        return sum(len(sidecars.of(name)) for name in names if name.endswith(b"png"))

    assert held(300) == 300
    assert held(3000) == 3000


def test_a_name_that_is_all_dots_takes_no_time():
    name = b"." * (1 << 20)
    sidecars = Sidecars.among([TarEntry(name + b"txt", 0, 0)], {b"a"})
    assert sidecars.of(name + b".png") == {}


def test_a_new_caption_in_a_rewritten_shard_replaces_the_old(tmp_path):
    shard = write_tar(
        tmp_path / "0.tar", [("0.png", png(0)), ("0.txt", b"old"), ("1.png", png(1)), ("1.txt", b"x")]
    )
    run(shard, tmp_path / "x")
    write_tar(shard, [("0.png", png(0)), ("0.txt", b"new"), ("1.png", png(1))])
    os.utime(shard, ns=(1, 1))
    report = run(shard, tmp_path / "x")
    assert (report.indexed, report.unchanged) == (0, 2)
    assert metadata(tmp_path / "x") == {"0.png": {"txt": "new"}, "1.png": None}


def test_bad_members_are_in_the_ledger_and_end_nothing(tmp_path):
    shard = write_tar(
        tmp_path / "0.tar",
        [
            ("good.png", png(0)),
            ("empty.jpg", b""),
            ("text.jpg", b"no picture"),
            ("soft.jpg", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
            ("hard.jpg", {"type": tarfile.LNKTYPE, "linkname": "good.png"}),
            ("fifo.jpg", {"type": tarfile.FIFOTYPE}),
            ("notes.md", b"not looked at"),
            ("twice.png", b"the first is not what unpacking leaves"),
            ("twice.png", png(1)),
            ("../../../escape.png", png(2)),
            ("/absolute.png", png(3)),
        ],
    )
    report = run(shard, tmp_path / "x")
    assert (report.discovered, report.indexed, report.failed) == (9, 4, 5)
    assert ledger(tmp_path / "x") == {
        "empty.jpg": "empty",
        "text.jpg": "not_a_picture",
        "soft.jpg": "not_a_file",
        "hard.jpg": "not_a_file",
        "fifo.jpg": "not_a_file",
    }
    assert names(tmp_path / "x", tmp_path)[2:] == ["0.tar!/../../../escape.png", "0.tar!//absolute.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "x"]
    report = run(shard, tmp_path / "x")
    assert (report.unchanged, report.failed, report.removed) == (4, 5, 0)


def test_a_sparse_member_is_refused_by_its_name(tmp_path):
    with (tmp_path / "holes.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    for format in ("gnu", "posix"):
        path = tmp_path / f"{format}.tar"
        made = subprocess.run(
            ["tar", "--sparse", f"--format={format}", "-cf", path, "-C", tmp_path, "holes.jpg"],
            capture_output=True,
        )
        if made.returncode:
            pytest.skip("GNU tar is not installed")
        with path.open("rb") as file:
            (entry,) = walk(file, path.stat().st_size)
        assert entry.name.endswith(b"holes.jpg")
        assert "sparse" in entry.refused


@pytest.mark.slow
def test_a_cut_shard_gives_what_it_has_and_one_line(shard, tmp_path):
    whole = shard.read_bytes()
    run(shard, tmp_path / "x")
    shard.write_bytes(whole[: len(whole) // 2])
    report = run(shard, tmp_path / "x")
    assert (report.indexed, report.failed, report.removed, report.rows) == (0, 1, 0, 6)
    assert ledger(tmp_path / "x") == {"0.tar": "broken_container"}
    shard.write_bytes(whole)
    os.utime(shard, ns=(1, 1))
    report = run(shard, tmp_path / "x")
    assert (report.unchanged, report.failed) == (6, 0)
    assert ledger(tmp_path / "x") == {}


def test_a_shard_that_changes_between_listing_and_reading_is_tried_again(shard, tmp_path):
    source = TarShards([shard])
    (first, *_) = source.files(no_failure)
    os.utime(shard, ns=(1, 1))

    class Stale:
        def files(self, on_failure):
            return iter([first])

        def vanished(self, paths):
            return []

    report = run(Stale(), tmp_path / "x")
    assert (report.failed, ledger(tmp_path / "x")) == (1, {"0000.png": "vanished"})
    assert run(shard, tmp_path / "x").indexed == 6
    assert ledger(tmp_path / "x") == {}


def test_a_folder_of_shards_forgets_one_that_is_gone(tmp_path):
    folder = tmp_path / "shards" / "sub"
    folder.mkdir(parents=True)
    for i in range(3):
        write_tar(folder / f"{i}.tar", [("a.png", png(2 * i)), ("b.png", png(2 * i + 1))])
    assert run(TarShards(below=tmp_path / "shards"), tmp_path / "x").indexed == 6
    (folder / "1.tar").unlink()
    report = run(TarShards(below=tmp_path / "shards"), tmp_path / "x")
    assert (report.unchanged, report.removed, report.rows) == (4, 2, 4)


def test_an_unreadable_folder_of_shards_leaves_the_ledger_when_it_can_be_read(shard, tmp_path, monkeypatch):
    (tmp_path / "shards" / "sub").mkdir(parents=True)
    shard.rename(tmp_path / "shards" / "sub" / "0.tar")
    scandir = os.scandir

    def refuse(path):
        if os.fsencode(path).endswith(b"sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run(TarShards(below=tmp_path / "shards"), tmp_path / "x").failed == 1
    monkeypatch.undo()
    report = run(TarShards(below=tmp_path / "shards"), tmp_path / "x")
    assert (report.indexed, report.failed, ledger(tmp_path / "x")) == (6, 0, {})


def test_a_run_lists_each_shard_no_more_than_twice(tmp_path, monkeypatch):
    """Once for the pictures, once for their number; a large index asks in parts what is gone."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(6):
        write_tar(folder / f"{i}.tar", [(f"{j}.png", png(10 * i + j)) for j in range(3)])
    run(TarShards(below=folder), tmp_path / "x")
    for i in range(6):
        write_tar(folder / f"{i}.tar", [(f"{j}.png", png(10 * i + j)) for j in range(1, 4)])
    listed = []
    monkeypatch.setattr("clipdex.pipeline.departures._PATHS_AT_ONCE", 2)
    monkeypatch.setattr(
        "clipdex.sources.tar_shards.walk", lambda file, size: listed.append(file.name) or walk(file, size)
    )
    report = run(TarShards(below=folder), tmp_path / "x", progress=lambda p: None)
    assert (report.indexed, report.removed, report.rows) == (6, 6, 18)
    assert max(map(listed.count, listed)) <= 2
    assert len(listed) <= 12


def test_a_named_shard_that_is_gone_takes_its_rows_along_and_no_others(shard, tmp_path):
    other = write_tar(tmp_path / "1.tar", [("a.png", png(50))])
    noise(60).save(tmp_path / "plain.png")
    run(open_sources([shard, other, tmp_path]), tmp_path / "x")
    shard.unlink()
    assert run(other, tmp_path / "x").removed == 0
    report = run(open_sources([shard, other]), tmp_path / "x")
    assert (report.removed, report.failed, report.unchanged) == (6, 1, 1)
    assert sorted(names(tmp_path / "x", tmp_path)) == ["1.tar!/a.png", "plain.png"]


def test_a_disk_that_is_not_mounted_says_nothing(tmp_path):
    (tmp_path / "disk").mkdir()
    shard = write_tar(tmp_path / "disk" / "0.tar", [("a.png", png(0))])
    run(shard, tmp_path / "x")
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    assert run(shard, tmp_path / "x").removed == 0


def test_a_folder_run_leaves_the_members_of_a_tar_alone_until_the_tar_is_gone(shard, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shard = shard.rename(pictures / "0.tar")
    noise(60).save(pictures / "plain.png")
    (pictures / "x.tar!").mkdir()
    noise(61).save(pictures / "x.tar!" / "real.png")
    run(open_sources([shard, pictures]), tmp_path / "x")
    assert run(pictures, tmp_path / "x").removed == 0
    (pictures / "x.tar!" / "real.png").unlink()
    assert plan_run(pictures, tmp_path / "x").vanished == 1
    assert run(pictures, tmp_path / "x").removed == 1
    shard.unlink()
    assert run(Folder(pictures), tmp_path / "x").removed == 6


def test_failed_members_can_be_tried_again_by_the_ledger_alone(shard, tmp_path):
    members = [(f"{i:04}.png", png(i)) for i in range(3)]
    write_tar(shard, [*members, ("bad.png", b"x")])
    mtime = shard.stat().st_mtime_ns
    run(shard, tmp_path / "x")
    write_tar(shard, [*members, ("bad.png", png(9))])
    os.utime(shard, ns=(mtime, mtime))
    with Index.open(tmp_path / "x") as opened:
        failed = opened.failures()
    report = run(ledger_source(failed, "the ledger"), tmp_path / "x", retry_failures=True)
    assert (report.discovered, report.indexed, report.rows) == (1, 1, 4)


@pytest.mark.slow
def test_killed_half_way_it_goes_on_where_it_was(tmp_path):
    shard = write_tar(tmp_path / "0.tar", [(f"{i:02}.png", png(i)) for i in range(40)])
    index = tmp_path / "x"
    before = kill_a_run(shard, index, after=5)
    assert before > 0
    report = run(shard, index)
    assert (report.unchanged >= before, report.discovered, report.rows) == (True, 40, 40)
    assert names(index, tmp_path) == [f"0.tar!/{i:02}.png" for i in range(40)]


# Around it


def test_thumbnails_of_members(shard, tmp_path):
    run(shard, tmp_path / "x")
    with Index.open(tmp_path / "x") as opened:
        hits = opened.search(np.eye(1, opened.manifest.embedding_dim, dtype=np.float32), 6)[0]
    page = contact_sheet([Section("q", hits)], title="t", summary="s")
    assert page.count("<img ") == 6
    assert tar_member(os.fsencode(shard), b"0003.png", 1 << 20) == png(3)
    assert tar_member(os.fsencode(shard), b"nope.png", 1 << 20) is None
    assert tar_member(os.fsencode(shard), b"0003.png", 10) is None
    shard.unlink()
    assert "vanished" in contact_sheet([Section("q", hits)], title="t", summary="s")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "x.docx"])
def test_other_files_are_refused_in_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(clipdex.SourceError, match=name) as caught:
        open_source(tmp_path / name)
    assert "decompress" in str(caught.value) or "--files-from" in str(caught.value)


def test_a_compressed_tar_by_another_name_is_named_in_the_ledger(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz") as tar:
        tar.add(__file__)
    report = run(tmp_path / "0.tar", tmp_path / "x")
    assert report.failed == 1
    with Index.open(tmp_path / "x") as opened:
        assert opened.failures()[0].detail == "it is compressed with gzip; decompress it first"


def test_a_shard_without_pictures_makes_no_index(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.txt", b"x")])
    with pytest.raises(clipdex.SourceError, match=r"0\.tar: no member is a picture"):
        run(tmp_path / "0.tar", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_metadata_is_json_that_other_parsers_read():
    text = metadata_json({"a": float("nan"), "b": b"x", "c": None, "d": "\udce9é", "e": {"f": [b"x", 1.5]}})
    assert text == '{"a":null,"d":"\ufffdé","e":{"f":[1.5]}}'
    assert json.loads(text)["d"] == "\ufffdé"


def jq(text):
    """The text as jq 1.6 reads it, which refuses what Python's parser takes: half a surrogate pair, NaN."""
    assert "NaN" not in text and "Infinity" not in text
    json.dumps(json.loads(text), ensure_ascii=False).encode()
    return json.loads(text)


def test_case_13_json_lone_surrogate(tmp_path):
    """And NaN, numbers beyond all numbers, JSON of a thousand floors, a mark before the text."""
    odd = {
        "t": '"\\ud800 cut", "\\udc00": 1, "whole": "\\ud83d\\ude00"',
        "nan": "NaN",
        "far": "[1e999, -Infinity]",
        "digits": "9" * 5000,
        "deep": "[" * 30_000 + "]" * 30_000,
    }
    members = [(f"{name}.json", f'{{"{name}": {text}}}'.encode()) for name, text in odd.items()]
    members += [("mark.json", b'\xef\xbb\xbf{"mark": "x"}'), ("mark.txt", "caf\u00e9".encode("utf-16"))]
    pictures = [(f"{name}.png", png(i)) for i, name in enumerate([*odd, "mark"])]
    run(write_tar(tmp_path / "0.tar", members + pictures), tmp_path / "x")
    found = {name.partition(".")[0]: fields for name, fields in metadata(tmp_path / "x").items()}
    assert found["t"] == {"json": {"t": "\ufffd cut", "\ufffd": 1, "whole": "\U0001f600"}}
    assert found["nan"] == {"json": {"nan": None}}
    assert found["far"] == {"json": {"far": [None, None]}}
    assert found["mark"] == {"txt": "caf\u00e9", "json": {"mark": "x"}}
    assert {"digits", "deep"} <= found.keys()
    with Index.open(tmp_path / "x") as opened:
        hits = opened.search(np.eye(1, opened.manifest.embedding_dim, dtype=np.float32), len(opened))[0]
    jq("".join(as_json([Answer("q", hits)])))


def test_case_13_an_index_that_holds_a_lone_surrogate_already(shard, tmp_path):
    """As an older version wrote it: nothing that is given out of it breaks a parser."""
    run(shard, tmp_path / "x")
    with IndexWriter(tmp_path / "x") as writer:
        writer.annotate(os.fsencode(shard) + b"!/0000.png", '{"t":"\\ud800","n":NaN}')
    assert metadata(tmp_path / "x")["0000.png"] == {"t": "\ufffd", "n": None}
    with Index.open(tmp_path / "x") as opened:
        dump_table(opened, tmp_path / "t.csv")
        hits = opened.search(np.eye(1, opened.manifest.embedding_dim, dtype=np.float32), len(opened))[0]
    jq("".join(as_json([Answer("q", hits)])))
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        (said,) = [line["metadata"] for line in csv.DictReader(file) if line["metadata"]]
    assert jq(said) == {"t": "\ufffd", "n": None}


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_metadata_of_an_index_that_is_no_object_is_damage(shard, tmp_path, text):
    run(shard, tmp_path / "x")
    with IndexWriter(tmp_path / "x") as writer:
        writer.annotate(os.fsencode(shard) + b"!/0000.png", text)
    with pytest.raises(clipdex.IndexDamaged, match="not a JSON object"):
        metadata(tmp_path / "x")
