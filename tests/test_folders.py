"""What is taken of a folder and what is not, and what becomes of rows whose files are left out, moved or gone."""

import errno
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from conftest import noise

import clipdex
from clipdex import (
    Client,
    Exclusion,
    Folder,
    Index,
    PathList,
    forget_pictures,
    index_pictures,
    open_sources,
    plan_run,
)
from clipdex.sources.census import PassedOver
from clipdex.sources.exclusion import JUNK_FILES, JUNK_FOLDERS
from clipdex.sources.opening import open_source
from clipdex.sources.source import Several, Source
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def update(tmp_path):
    """Bring tmp_path/x up to date."""

    def update(source, **options):
        with Client(FakeTransport()) as client:
            return index_pictures(client, source, tmp_path / "x", workers=1, **options)

    return update


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(sum(map(ord, str(name)))).save(folder / name, "PNG")


def paths(index, below):
    with Index.open(index) as opened:
        return sorted(os.path.relpath(os.fsdecode(path), below) for _, path in opened.live_paths())


def listed(source):
    return [os.fsdecode(file.path) for file in source.files(pytest.fail)]


@pytest.fixture
def stick(tmp_path):
    """As a NAS or a camera's stick has it."""
    folder = tmp_path / "stick"
    draw(folder, "photo.png", "keep/photo2.png")
    draw(
        folder, "@eaDir/photo.png", ".thumbnails/a.png", "$Recycle.Bin/b.png", ".Trashes/501/c.png", ".hidden.png"
    )
    (folder / "__MACOSX").mkdir()
    for junk in ("._photo.png", "__MACOSX/._photo.png"):
        (folder / junk).write_bytes(b"\0\5\26\7 resource fork")
    return folder


def test_case_03_junk_and_hidden_folders_are_left_out_and_counted(update, stick, tmp_path):
    report = update(stick)
    assert (report.indexed, report.failed) == (2, 0)
    assert paths(tmp_path / "x", stick) == ["keep/photo2.png", "photo.png"]
    assert (report.passed_over.left_out_files, report.passed_over.left_out_folders) == (2, 5)
    assert report.passed_over.left_out == {
        "._photo.png": 1, ".hidden.png": 1, "$Recycle.Bin/": 1, ".Trashes/": 1, ".thumbnails/": 1, "@eaDir/": 1,
        "__MACOSX/": 1,
    }  # fmt: skip
    assert plan_run(stick, tmp_path / "x").passed_over == report.passed_over


def test_hidden_files_are_taken_when_asked_for_but_junk_is_not(stick):
    draw(stick, ".album/d.png")
    found = listed(Folder(stick, exclusion=Exclusion(hidden=True)))
    assert [os.path.relpath(path, stick) for path in found] == [
        ".album/d.png", ".hidden.png", "keep/photo2.png", "photo.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [".hidden", "@eaDir", "node_modules", "lost+found"])
def test_a_folder_that_is_named_is_never_left_out_because_of_its_name(tmp_path, name):
    draw(tmp_path, f"{name}/a.png", f"{name}/sub/b.png")
    assert len(listed(Folder(tmp_path / name))) == 2
    assert listed(Folder(tmp_path / name, exclusion=Exclusion([name]))) == listed(Folder(tmp_path / name))


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("*_thumb.png", ["a.png", "cache/c.png", "raw/cache/d.png", "raw/e.png"]),
        ("cache", ["a.png", "b_thumb.png", "raw/e.png"]),
        ("cache/", ["a.png", "b_thumb.png", "raw/e.png"]),
        ("/cache", ["a.png", "b_thumb.png", "raw/cache/d.png", "raw/e.png"]),
        ("raw/cache", ["a.png", "b_thumb.png", "cache/c.png", "raw/e.png"]),
        ("**/cache", ["a.png", "b_thumb.png", "raw/e.png"]),
        ("raw/**", ["a.png", "b_thumb.png", "cache/c.png"]),
        ("raw/*.png", ["a.png", "b_thumb.png", "cache/c.png", "raw/cache/d.png"]),
        ("a.png/", ["a.png", "b_thumb.png", "cache/c.png", "raw/cache/d.png", "raw/e.png"]),
        ("?.png", ["b_thumb.png"]),
        ("[!a].png", ["a.png", "b_thumb.png"]),
        ("[a-c].png", ["b_thumb.png", "raw/cache/d.png", "raw/e.png"]),
        ("A.PNG", ["a.png", "b_thumb.png", "cache/c.png", "raw/cache/d.png", "raw/e.png"]),
    ],
)
def test_globs_to_leave_out(tmp_path, glob, left):
    draw(tmp_path, "a.png", "b_thumb.png", "cache/c.png", "raw/cache/d.png", "raw/e.png")
    found = listed(Folder(tmp_path, exclusion=Exclusion([glob])))
    assert sorted(os.path.relpath(path, tmp_path) for path in found) == left


@pytest.mark.parametrize("glob", ["!a.png", "", "/", "[a", "[z-a]"])
def test_what_is_no_glob_is_refused(glob):
    with pytest.raises(clipdex.InvalidArgument):
        Exclusion([glob])


def test_a_wildcard_that_two_dots_take_back_is_refused():
    with pytest.raises(clipdex.InvalidArgument, match=r"takes back its wildcard"):
        open_source("*/../no-such.png")


@pytest.mark.slow
def test_rows_of_what_is_left_out_now_leave_the_index_and_are_counted(update, stick, tmp_path):
    update(Folder(stick, exclusion=Exclusion(hidden=True)))
    draw(stick, "raw/d.png")
    update(Folder(stick, exclusion=Exclusion(hidden=True)))
    source = Folder(stick, exclusion=Exclusion(["raw"]))
    plan = plan_run(source, tmp_path / "x")
    assert (plan.vanished, plan.left_out) == (0, 2)
    report = update(source)
    assert (report.removed, report.left_out, report.rows) == (0, 2, 2)
    report = update(Folder(stick, exclusion=Exclusion(hidden=True)))
    assert (report.indexed, report.recognised, report.rows) == (2, 2, 4)  # nothing is embedded again


def test_a_ledger_line_of_what_is_left_out_now_goes(update, tmp_path):
    draw(tmp_path / "in", "a.png")
    (tmp_path / "in" / "raw").mkdir()
    (tmp_path / "in" / "raw" / "bad.png").write_text("no picture")
    assert update(tmp_path / "in").failed == 1
    report = update(Folder(tmp_path / "in", exclusion=Exclusion(["raw/"])))
    assert (report.failed, report.left_out) == (0, 0)
    with Index.open(tmp_path / "x") as index:
        assert index.failures() == []


def test_what_another_source_of_the_same_run_names_is_not_left_out(update, stick, tmp_path):
    sources: list[Source] = [
        Folder(stick),
        Folder(stick / ".thumbnails"),
        PathList([os.fsencode(stick / ".hidden.png")], "x"),
    ]
    report = update(Several(sources))
    assert (report.indexed, report.left_out, report.rows) == (4, 0, 4)
    report = update(Several(sources))
    assert (report.unchanged, report.left_out, report.rows) == (4, 0, 4)


def test_left_out_folders_may_be_links(tmp_path):
    draw(tmp_path, "real/a.png", "in/b.png")
    (tmp_path / "in" / ".link").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    source = Folder(tmp_path / "in")
    assert [os.path.relpath(path, tmp_path) for path in listed(source)] == ["in/b.png", "in/link/a.png"]
    assert source.passed_over().left_out == {".link/": 1}


def test_the_junk_that_the_docs_name_is_that_of_the_code():
    page = (ROOT / "docs" / "sources.md").read_text()
    for name in (*JUNK_FILES, *JUNK_FOLDERS):
        assert f"`{name}`" in page, name


def test_case_28_files_of_other_suffixes_are_counted(update, tmp_path):
    draw(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    for i in range(6):
        (tmp_path / "in" / f"{i}.ARW").touch()
    (tmp_path / "in" / "6.arw").touch()
    (tmp_path / "in" / "README").touch()
    report = update(tmp_path / "in")
    assert report.discovered == 3
    assert report.passed_over == PassedOver(others={".ARW": 7, "": 1})


def test_the_counts_of_other_suffixes_are_bounded(tmp_path):
    for i in range(1200):
        (tmp_path / f"x.{i:04}").touch()
    source = Folder(tmp_path)
    assert listed(source) == []
    others = source.passed_over().others
    assert len(others) <= 1001
    assert sum(others.values()) == 1200


def test_a_folder_without_a_picture_says_what_it_has(update, tmp_path):
    draw(tmp_path / "in", ".hidden/a.png")
    (tmp_path / "in" / "a.ARW").touch()
    with pytest.raises(clipdex.SourceError, match="it has 1 other file and 1 file or folder that is left out"):
        update(tmp_path / "in")


# Single pictures and globs


def test_a_picture_is_a_source_of_its_own(update, tmp_path):
    draw(tmp_path, "a.png", "b.png", "c.png")
    report = update(tmp_path / "a.png")
    assert (report.indexed, report.rows) == (1, 1)
    report = update(open_sources([tmp_path / "a.png", tmp_path / "b.png"]))
    assert (report.indexed, report.unchanged, report.rows) == (1, 1, 2)
    (tmp_path / "a.png").unlink()
    assert update(tmp_path / "b.png").rows == 2  # of the others it says nothing


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.png", ["a.png", "b.png"]),
        ("**/*.png", ["a.png", "b.png", "sub/c.png", "sub/deep/e.png"]),
        ("sub/*", ["sub/c.png", "sub/d.jpg"]),
        ("*/*/*.png", ["sub/deep/e.png"]),
        ("s?b/**", ["sub/c.png", "sub/d.jpg", "sub/deep/e.png"]),
        ("**/.hidden/*.png", []),
        (".hidden/*.png", [".hidden/f.png"]),
    ],
)
def test_a_glob_means_the_pictures_that_match(tmp_path, glob, found, monkeypatch):
    draw(tmp_path, "a.png", "b.png", "sub/c.png", "sub/d.jpg", "sub/deep/e.png", ".hidden/f.png")
    (tmp_path / "sub" / "notes.txt").touch()
    for start in (tmp_path, Path()):
        monkeypatch.chdir(tmp_path)
        source = open_sources([start / glob])
        assert [os.path.relpath(path, tmp_path) for path in listed(source)] == found


def test_folders_that_a_glob_does_not_mean_are_not_looked_into(tmp_path, monkeypatch):
    draw(tmp_path, "a/x.png", "b/y.png", "a/deep/z.png")
    scandir, entered = os.scandir, []
    monkeypatch.setattr(
        os, "scandir", lambda path: entered.append(os.path.relpath(path, os.fsencode(tmp_path))) or scandir(path)
    )
    assert len(listed(open_sources([tmp_path / "[a]" / "*.png"]))) == 1
    assert entered == [b".", b"a"]


def test_a_glob_forgets_what_matches_and_is_gone_and_nothing_else(update, tmp_path):
    draw(tmp_path, "in/a.png", "in/b.png", "in/c.jpg", "in/sub/d.png")
    update(tmp_path / "in")
    for name in ("a.png", "c.jpg", "sub/d.png"):
        (tmp_path / "in" / name).unlink()
    report = update(str(tmp_path / "in" / "*.png"))
    assert (report.unchanged, report.removed, report.rows) == (1, 1, 3)
    report = update(str(tmp_path / "in" / "**" / "*.png"))
    assert (report.unchanged, report.removed, report.rows) == (1, 1, 2)


def test_a_file_whose_name_looks_like_a_glob_is_that_file(update, tmp_path):
    draw(tmp_path, "a[1].png", "a1.png")
    assert update(tmp_path / "a[1].png").indexed == 1
    assert paths(tmp_path / "x", tmp_path) == ["a[1].png"]


def test_a_glob_that_matches_nothing_is_said(update, tmp_path):
    with pytest.raises(clipdex.SourceError, match=r"\*\.png: no picture matches"):
        update(tmp_path / "*.png")
    with pytest.raises(clipdex.SourceError, match="no such directory"):
        update(tmp_path / "nowhere" / "*.png")
    assert not (tmp_path / "x").exists()


# Forgetting


@pytest.fixture
def moved(update, tmp_path):
    """An index of a folder that was moved, and indexed again where it is now."""
    draw(tmp_path / "old", "a.png", "b.png", "sub/c.png")
    draw(tmp_path / "other", "z.png")
    update(open_sources([tmp_path / "old", tmp_path / "other"]))
    (tmp_path / "old").rename(tmp_path / "new")
    return update(tmp_path / "new")


def test_case_04_a_run_says_which_rows_a_moved_folder_left_behind(moved, update, tmp_path):
    assert (moved.indexed, moved.recognised) == (3, 3)
    assert moved.stranded.folders == {str(tmp_path / "old"): 3}
    assert moved.stranded.files == 0
    found = forget_pictures(tmp_path / "x", [tmp_path / "old"])
    assert (found.rows, found.failures) == (3, 0)
    assert found.folders == {str(tmp_path / "old"): 2, str(tmp_path / "old" / "sub"): 1}
    assert paths(tmp_path / "x", tmp_path) == ["new/a.png", "new/b.png", "new/sub/c.png", "other/z.png"]
    with Index.open(tmp_path / "x") as index:
        hits = index.search(index.vector(str(tmp_path / "new" / "a.png")), top_k=4)[0]
    assert all(os.path.exists(hit.path) for hit in hits)
    shutil.move(tmp_path / "new", tmp_path / "third")
    assert update(tmp_path / "third").stranded.folders == {str(tmp_path / "new"): 3}


def test_a_moved_file_whose_folder_is_there_is_said_too(update, tmp_path):
    draw(tmp_path / "old", "a.png", "b.png")
    update(tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "old" / "a.png").rename(tmp_path / "new" / "a.png")
    stranded = update(tmp_path / "new").stranded
    assert (stranded.folders, stranded.files) == ({}, 1)
    found = forget_pictures(tmp_path / "x", missing=True)
    assert (found.rows, paths(tmp_path / "x", tmp_path)) == (1, ["new/a.png", "old/b.png"])


def test_a_file_that_moved_inside_its_folder_leaves_nothing_behind(update, tmp_path):
    draw(tmp_path / "in", "a.png", "b.png")
    update(tmp_path / "in")
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / "c.png")
    report = update(tmp_path / "in")
    assert (report.recognised, report.removed) == (1, 1)
    assert (report.stranded.folders, report.stranded.files) == ({}, 0)


def test_forgetting_by_path_takes_what_lies_at_or_below_it_and_the_ledger(update, tmp_path):
    draw(tmp_path, "in/a.png", "in/ab.png", "in/a/b.png")
    (tmp_path / "in" / "a" / "bad.png").write_text("no picture")
    update(tmp_path / "in")
    before = (tmp_path / "x" / "vectors.f16").read_bytes()
    found = forget_pictures(tmp_path / "x", [tmp_path / "in" / "a"], dry_run=True)
    assert (found.rows, found.failures) == (1, 1)
    assert len(paths(tmp_path / "x", tmp_path)) == 3
    found = forget_pictures(tmp_path / "x", str(tmp_path / "in" / "a"))
    assert (found.rows, found.failures) == (1, 1)
    assert paths(tmp_path / "x", tmp_path) == ["in/a.png", "in/ab.png"]
    assert (tmp_path / "x" / "vectors.f16").read_bytes() == before
    with Index.open(tmp_path / "x") as index:
        assert index.failures() == []
    assert (tmp_path / "in" / "a" / "b.png").exists()


def test_forgetting_a_tar_takes_its_members(update, tmp_path):
    import tarfile

    draw(tmp_path, "a.png", "b.png")
    for shard in ("1.tar", "11.tar"):
        with tarfile.open(tmp_path / shard, "w") as tar:
            tar.add(tmp_path / "a.png", "a.png")
    update(open_sources([tmp_path / "1.tar", tmp_path / "11.tar"]))
    assert forget_pictures(tmp_path / "x", [tmp_path / "1.tar"]).rows == 1
    assert paths(tmp_path / "x", tmp_path) == ["11.tar!/a.png"]
    (tmp_path / "11.tar").unlink()
    assert forget_pictures(tmp_path / "x", missing=True).rows == 1


def test_a_path_of_which_the_index_knows_nothing_is_refused_and_nothing_forgotten(update, tmp_path):
    draw(tmp_path, "in/a.png")
    update(tmp_path / "in")
    with pytest.raises(clipdex.InvalidArgument, match=r"inn: .* has nothing at or below it"):
        forget_pictures(tmp_path / "x", [tmp_path / "in", tmp_path / "inn"])
    with pytest.raises(clipdex.InvalidArgument, match="there is nothing to forget"):
        forget_pictures(tmp_path / "x")
    assert paths(tmp_path / "x", tmp_path) == ["in/a.png"]


@pytest.mark.parametrize("how", ["gone", "an empty mount point"])
def test_what_is_missing_with_its_whole_folder_is_forgotten_only_by_name_or_with_yes(update, tmp_path, how):
    draw(tmp_path, "disk/a.png", "disk/sub/b.png", "here/c.png", "here/d.png")
    update(open_sources([tmp_path / "disk", tmp_path / "here"]))
    (tmp_path / "here" / "c.png").unlink()
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    if how != "gone":
        (tmp_path / "disk").mkdir()
    with pytest.raises(clipdex.InvalidArgument, match=r"disk, which is gone or empty as a whole.*not mounted"):
        forget_pictures(tmp_path / "x", missing=True)
    assert len(paths(tmp_path / "x", tmp_path)) == 4
    found = forget_pictures(tmp_path / "x", [tmp_path / "disk"], missing=True, dry_run=True)
    assert found.rows == 2
    found = forget_pictures(tmp_path / "x", missing=True, whole_folders=True)
    assert (found.rows, paths(tmp_path / "x", tmp_path)) == (3, ["here/d.png"])


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTCONN])
def test_a_file_that_cannot_be_looked_at_is_not_missing(update, tmp_path, monkeypatch, error):
    draw(tmp_path, "in/a.png", "in/b.png")
    update(tmp_path / "in")
    lstat = os.lstat

    def fail(path, **options):
        if os.fsencode(path).endswith(b"a.png"):
            raise OSError(error, os.strerror(error))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", fail)
    assert forget_pictures(tmp_path / "x", missing=True, whole_folders=True).rows == 0
    assert len(paths(tmp_path / "x", tmp_path)) == 2


def test_forgetting_is_one_transaction(update, tmp_path, monkeypatch):
    from clipdex.index.rows import RowStore

    draw(tmp_path, "in/a.png", "in/b.png")
    update(tmp_path / "in")
    commit = RowStore.commit

    def refuse(self, *args):
        monkeypatch.setattr(RowStore, "commit", commit)
        raise clipdex.IndexWriteError("the disk is full")

    monkeypatch.setattr(RowStore, "commit", refuse)
    with pytest.raises(clipdex.IndexWriteError):
        forget_pictures(tmp_path / "x", [tmp_path / "in"])
    assert len(paths(tmp_path / "x", tmp_path)) == 2


# Names that look the same


def test_case_27_a_decomposed_name_is_found_however_it_is_typed(update, tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    draw(tmp_path / "nf", decomposed, "cafe.png")
    update(tmp_path / "nf")
    with Index.open(tmp_path / "x") as index:
        row = index.row(tmp_path / "nf" / decomposed)
        assert index.row(tmp_path / "nf" / composed) == row
        for typed in (composed, decomposed):
            for condition in (f"path GLOB '*/{typed}'", f"name = '{typed}'", f"name LIKE '{typed[:-4]}%'"):
                assert index.where(condition).tolist() == [row], condition
            assert index.where("name = :n", {"n": typed}).tolist() == [row]
        assert index.where("name = 'cafe.png'").tolist() == [1 - row]
        assert index.picture(row).path == os.fsencode(tmp_path / "nf" / decomposed)
    assert forget_pictures(tmp_path / "x", [tmp_path / "nf" / composed]).rows == 1
    source = Folder(tmp_path / "nf", exclusion=Exclusion([composed]))
    assert [os.path.basename(path) for path in listed(source)] == ["cafe.png"]


def test_the_name_that_is_typed_exactly_wins(update, tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é/é.png") for form in ("NFC", "NFD"))
    mixed = decomposed.split("/")[0] + "/" + composed.split("/")[1]
    draw(tmp_path, composed, decomposed)
    update(tmp_path)
    with Index.open(tmp_path / "x") as index:
        rows = [index.row(tmp_path / typed) for typed in (composed, decomposed)]
        assert sorted(rows) == [0, 1]
        with pytest.raises(clipdex.InvalidArgument, match="2 pictures that differ in how their accents"):
            index.row(tmp_path / mixed)


def test_metadata_is_compared_as_it_looks(tmp_path):
    from conftest import unit_vectors

    decomposed = unicodedata.normalize("NFD", "é")
    said = f'{{"t":"{decomposed}","n":"\\n\u0301","l":["{decomposed}"]}}'
    picture = clipdex.Picture(b"/caf\xff.png", 1, 1, bytes(16), 1, 1, said)
    with clipdex.IndexWriter.open_or_create(tmp_path / "x", clipdex.Manifest("f" * 64, "demo", 4)) as writer:
        writer.append([picture], unit_vectors(1, 4))
    with Index.open(tmp_path / "x") as index:
        for typed in ("é", decomposed):
            assert index.where(f"meta ->> 't' = '{typed}'").tolist() == [0]
            assert index.where("has(meta, 'l', :v)", {"v": typed}).tolist() == [0]
        assert index.where("json_valid(meta) AND name GLOB 'caf?.png'").tolist() == [0]
