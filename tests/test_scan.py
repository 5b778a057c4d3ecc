"""Finding pictures below a folder."""

import os
import socket
from pathlib import Path

import pytest
from conftest import no_failure, noise

import clipdex
from clipdex.base.records import Failure
from clipdex.sources.scan import scan

pytestmark = pytest.mark.thin


def found(folder, failures=None):
    failures = [] if failures is None else failures
    root = os.path.join(os.fsencode(folder), b"")
    return [file.path.removeprefix(root) for file in scan(folder, failures.append)]


def test_pictures_by_suffix_in_the_order_of_their_names(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "c.webp", "sub/d.tiff", "sub/e.avif", "movie.mp4", "jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert found(tmp_path) == [b"a.png", b"b.JPG", b"c.webp", b"sub/d.tiff", b"sub/e.avif"]


def test_size_and_time_are_the_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12345")
    os.utime(tmp_path / "a.png", ns=(5, 1_234_567_890_123_456_789))
    (file,) = scan(tmp_path, no_failure)
    assert (file.size, file.mtime_ns) == (5, 1_234_567_890_123_456_789)


def test_a_relative_folder_gives_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    (file,) = scan(Path("in"), no_failure)
    assert file.path == os.fsencode(tmp_path / "in" / "a.png")


def test_names_are_bytes(tmp_path):
    names = [b"caf\xe9.jpg", b"new\nline.jpg", b"<b>&.jpg", "日本.jpg".encode(), b"x" * 250 + b".jpg"]
    for name in names:
        open(os.path.join(os.fsencode(tmp_path), name), "w").close()
    assert found(tmp_path) == sorted(names)


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "2.png").symlink_to(tmp_path / "a" / "1.png")
    assert found(tmp_path) == [b"2.png", b"a/1.png"]


def test_a_folder_is_entered_once_by_its_own_path_or_else_by_the_first_link(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "real").mkdir(parents=True)
    (inside / "real" / "1.png").touch()
    (inside / "before").symlink_to(inside / "real")
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "2.png").touch()
    for name in ("b", "a", "c"):
        (inside / name).symlink_to(outside)
    (inside / "zz.png").touch()
    assert found(inside) == [b"real/1.png", b"zz.png", b"a/deep/2.png"]


def test_a_folder_below_a_links_folder_is_entered_once(tmp_path):
    """A link to a parent of the folder, and two links, of which the later leads to a parent of the earlier's."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "deep", tmp_path / "sibling", outside / "x" / "y", outside / "z"):
        folder.mkdir(parents=True)
        (folder / "1.png").touch()
    (inside / "up").symlink_to("..")
    assert found(inside) == [
        b"deep/1.png",
        *(b"up/%s/1.png" % name for name in (b"out/x/y", b"out/z", b"sibling")),
    ]
    (inside / "up").unlink()
    (inside / "a").symlink_to(outside / "x")
    (inside / "b").symlink_to(outside)
    assert found(inside) == [b"deep/1.png", b"a/y/1.png", b"b/z/1.png"]


def test_folders_that_link_to_each_other_are_entered_once(tmp_path):
    for i in range(30):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "a.png").touch()
        for j in range(30):
            (tmp_path / str(i) / f"to{j}").symlink_to(tmp_path / str(j))
    assert found(tmp_path) == sorted(b"%d/a.png" % i for i in range(30))


@pytest.mark.slow
def test_a_thousand_folders_inside_each_other(tmp_path):
    folders = [tmp_path / ("d/" * depth) for depth in range(1, 1_501)]
    try:
        for folder in folders:
            os.mkdir(folder)
        (folders[-1] / "a.png").touch()
        assert found(tmp_path) == [b"d/" * 1_500 + b"a.png"]
    finally:  # shutil.rmtree, with which pytest clears up, calls itself for every folder
        (folders[-1] / "a.png").unlink()
        for folder in reversed(folders):
            folder.rmdir()


def test_a_folder_whose_entries_may_not_be_looked_at_hides_no_folder(tmp_path, monkeypatch):
    """Listed, but not entered: as a folder with r and without x."""
    (tmp_path / "sub").mkdir()
    stat = os.stat

    def refuse(path, **options):
        if os.fsencode(path).endswith(b"sub"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    failures: list[Failure] = []
    assert found(tmp_path, failures) == []
    assert [(os.path.basename(f.path), f.reason) for f in failures] == [(b"sub", "unreadable")]


def test_what_is_no_file_is_noted_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's path may not be long
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("socket.jpg")
            failures: list[Failure] = []
            assert found(tmp_path, failures) == []
    finally:
        os.chdir(here)
    assert {os.path.basename(f.path): f.reason for f in failures} == {
        b"fifo.jpg": "not_a_file",
        b"dangling.jpg": "broken_link",
        b"socket.jpg": "not_a_file",
    }


def test_a_folder_that_cannot_be_listed_is_noted(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "open.png").touch()
    scandir = os.scandir

    def refuse(path):
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list any folder
    failures: list[Failure] = []
    assert found(tmp_path, failures) == [b"open.png"]
    assert [(f.reason, f.detail) for f in failures] == [("unreadable", "Permission denied")]


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(clipdex.SourceError, match="no such directory"):
        found(tmp_path / "nothing")
    (tmp_path / "file.png").touch()
    with pytest.raises(clipdex.SourceError, match="is not a directory"):
        found(tmp_path / "file.png")


def test_a_link_to_nothing_is_called_that_and_read_once_it_leads_somewhere(tmp_path, fake):
    folder, index = tmp_path / "pictures", tmp_path / "x.clipdex"
    folder.mkdir()
    noise(1).save(folder / "there.png")
    (folder / "link.png").symlink_to(tmp_path / "away.png")
    report = clipdex.index_pictures(fake, folder, index, workers=1)
    assert (report.indexed, report.failed) == (1, 1)
    with clipdex.Index.open(index) as opened:
        (failure,) = opened.failures()
    assert (failure.reason, failure.detail) == ("broken_link", "the link points to nothing")
    assert not failure.may_pass
    with pytest.raises(clipdex.ImageError, match=r"link\.png: the link points to nothing$") as caught:
        fake.embed_images([folder / "link.png"])
    assert caught.value.reason == "broken_link"
    noise(2).save(tmp_path / "away.png")
    assert clipdex.index_pictures(fake, folder, index, workers=1).indexed == 1
