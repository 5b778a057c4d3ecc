"""Moving duplicates: nothing is lost, whatever is in the way."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY, noise, present
from PIL import Image

import clipdex
from clipdex.apps.duplicates import find_duplicates, move_back, move_duplicates, moves_of, transfer
from clipdex.base import replacing
from clipdex.index import Index, IndexWriter, Manifest, Picture
from clipdex.looks.signature import perceptual_signature

pytestmark = [pytest.mark.thin, pytest.mark.once]


@pytest.fixture
def folder(tmp_path):
    """a.png four times, the oldest at the top, and one of its own; one name is not UTF-8."""
    made = tmp_path / "photos"
    (made / "2020" / "trip").mkdir(parents=True)
    noise(1).save(made / "a.png")
    noise(2).save(made / "other.png")
    for name in (b"2020/b.png", b"2020/trip/a.png", b"2020/caf\xe9.png"):
        path = os.path.join(os.fsencode(made), name)
        shutil.copyfile(made / "a.png", path)
        os.utime(path, (2 * 10**9, 2 * 10**9))
    return made


@pytest.fixture
def index(folder, fake, tmp_path):
    clipdex.index_pictures(fake, folder, tmp_path / "x.clipdex", workers=1)
    return tmp_path / "x.clipdex"


def move(index, target, **options):
    with Index.open(index) as opened:
        groups = find_duplicates(opened, "exact").groups
        return move_duplicates(groups, target, [path for _, path in opened.live_paths()], **options)


def contents(folder):
    """Relative path -> hash of what is there, journals aside."""
    return {
        os.fsencode(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("moved-")
    }


def test_all_but_the_keeper_move_with_their_folders(index, folder, tmp_path):
    before = contents(folder)
    moved = move(index, tmp_path / "out")
    assert contents(folder) == {name: before[name] for name in (b"a.png", b"other.png")}
    gone = {name: before[name] for name in (b"2020/b.png", b"2020/trip/a.png", b"2020/caf\xe9.png")}
    assert contents(tmp_path / "out") == gone
    assert (len(moved.moved), moved.left) == (3, [])
    assert os.stat(tmp_path / "out" / "2020" / "b.png").st_mtime == 2 * 10**9


def test_and_back(index, folder, tmp_path):
    before = contents(folder)
    moved = move(index, tmp_path / "out")
    back = move_back(moved.journal)
    assert (len(back.moved), back.left) == (3, [])
    assert contents(folder) == before
    assert contents(tmp_path / "out") == {}
    assert {why for _, why in move_back(moved.journal).left} == {"it was not moved"}
    assert contents(folder) == before


def test_the_next_run_forgets_them(index, folder, fake, tmp_path):
    move(index, tmp_path / "out")
    report = clipdex.index_pictures(fake, folder, index, workers=1)
    assert (report.removed, report.rows) == (3, 2)
    assert find_duplicates(index).groups == []


def test_nothing_is_written_over(index, tmp_path):
    (tmp_path / "out" / "2020").mkdir(parents=True)
    (tmp_path / "out" / "2020" / "b.png").write_bytes(b"mine")
    moved = move(index, tmp_path / "out")
    assert (tmp_path / "out" / "2020" / "b.png").read_bytes() == b"mine"
    ((path, why),) = moved.left
    assert path.endswith("b.png") and "already" in why
    assert len(moved.moved) == 2


def test_taking_back_writes_over_nothing(index, folder, tmp_path):
    moved = move(index, tmp_path / "out")
    (folder / "2020" / "b.png").write_bytes(b"new")
    (tmp_path / "out" / "2020" / "trip" / "a.png").write_bytes(b"changed")
    back = move_back(moved.journal)
    assert len(back.moved) == 1
    assert (folder / "2020" / "b.png").read_bytes() == b"new"
    assert (tmp_path / "out" / "2020" / "trip" / "a.png").read_bytes() == b"changed"
    assert not (folder / "2020" / "trip" / "a.png").exists()


@pytest.mark.parametrize("same_size", [False, True])
def test_a_file_that_changed_since_stays(index, folder, tmp_path, same_size):
    path = folder / "2020" / "b.png"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data if same_size else b"short")
    os.utime(path, (2 * 10**9, 2 * 10**9))
    moved = move(index, tmp_path / "out")
    assert [why for _, why in moved.left] == ["it has changed since it was indexed"]
    assert path.exists() and len(moved.moved) == 2


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_no_copy_is_moved_whose_keeper_is_not_there(index, folder, tmp_path, what):
    before = contents(folder)
    if what == "gone":
        (folder / "a.png").unlink()
        del before[b"a.png"]
    else:
        noise(5).save(folder / "a.png")
        before = contents(folder)
    moved = move(index, tmp_path / "out")
    assert moved.moved == [] and all("its keeper" in why for _, why in moved.left)
    assert contents(folder) == before


def test_links_and_other_names_of_the_keeper_stay(folder, fake, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(folder / "a.png", elsewhere / "behind.png")
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "door").symlink_to(elsewhere)
    os.link(folder / "a.png", folder / "hard.png")
    clipdex.index_pictures(fake, folder, tmp_path / "y.clipdex", workers=1)
    moved = move(tmp_path / "y.clipdex", tmp_path / "out")
    reasons = {os.path.basename(path): why for path, why in moved.left}
    assert set(reasons) == {"link.png", "behind.png", "hard.png"}
    assert reasons["link.png"] == "it is a symbolic link"
    assert "behind the symbolic link" in reasons["behind.png"]
    assert "the same file as its keeper" in reasons["hard.png"]
    assert (elsewhere / "behind.png").exists() and (folder / "hard.png").exists()
    assert len(moved.moved) == 3


def test_members_of_a_tar_stay_and_may_be_keepers(folder, fake, tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(folder / "a.png", "one.png")
        tar.add(folder / "a.png", "two.png")
    os.utime(tmp_path / "t.tar", (5, 5))  # older than the files
    index = tmp_path / "y.clipdex"
    clipdex.index_pictures(fake, folder, index, workers=1)
    clipdex.index_pictures(fake, tmp_path / "t.tar", index, workers=1)
    before = (tmp_path / "t.tar").read_bytes()
    moved = move(index, tmp_path / "out")
    assert (tmp_path / "t.tar").read_bytes() == before
    assert [why for _, why in moved.left] == ["it is inside a tar or a table, which is not changed"]
    assert len(moved.moved) == 4
    move_back(moved.journal)
    os.utime(tmp_path / "t.tar", (6, 6))  # written anew: nobody knows what is in it
    assert move(index, tmp_path / "out").moved == []


@pytest.mark.parametrize("inside", ["", "2020", "2020/new", "new"])
def test_the_folder_may_not_lie_where_pictures_are(index, folder, inside):
    before = contents(folder)
    with pytest.raises(clipdex.InvalidArgument, match="give a folder outside"):
        move(index, folder / inside)
    assert contents(folder) == before


@pytest.mark.parametrize("given", ["photos", "door"])
def test_nor_beside_them_in_the_folder_that_they_share(folder, fake, tmp_path, given):
    """The next run on that folder would find what was moved."""
    (folder / "2021").mkdir()
    (folder / "a.png").rename(folder / "2021" / "a.png")
    (folder / "other.png").unlink()
    (tmp_path / "door").symlink_to(folder)
    clipdex.index_pictures(fake, tmp_path / given, tmp_path / "y.clipdex", workers=1)
    before = contents(folder)
    with pytest.raises(clipdex.InvalidArgument, match="give a folder outside"):
        move(tmp_path / "y.clipdex", folder / "extra")
    assert contents(folder) == before


def test_pictures_that_share_no_folder_leave_the_choice(index, folder, tmp_path):
    with Index.open(index) as opened:
        groups = find_duplicates(opened, "exact").groups
    indexed = [os.fsencode(folder / "a.png"), os.fsencode(present(shutil.which("sh")))]
    assert len(move_duplicates(groups, tmp_path / "out", indexed).moved) == 3


def other_file_system(monkeypatch):
    """From here on, a file's first rename says that it is to another file system."""
    rename = transfer.rename_to_nothing

    def refusing(source, target):
        if b"clipdex-moving" not in source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(transfer, "rename_to_nothing", refusing)


def no_rename_in_one_step(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(replacing, "_renameat2", lambda: None)


def no_rename_in_one_step_here(monkeypatch):
    """As on NFS: the kernel has the call, the file system has not."""

    def refusing(*args):
        ctypes.set_errno(errno.EINVAL)
        return -1

    monkeypatch.setattr(replacing, "_renameat2", lambda: refusing)


@pytest.mark.parametrize("lacking", [no_rename_in_one_step, no_rename_in_one_step_here])
def test_without_a_rename_in_one_step_nothing_is_written_over_either(
    index, folder, tmp_path, monkeypatch, lacking
):
    lacking(monkeypatch)
    before = contents(folder)
    (tmp_path / "out" / "2020").mkdir(parents=True)
    (tmp_path / "out" / "2020" / "b.png").write_bytes(b"mine")
    moved = move(index, tmp_path / "out")
    assert (tmp_path / "out" / "2020" / "b.png").read_bytes() == b"mine"
    assert len(moved.moved) == 2
    move_back(moved.journal)
    assert contents(folder) == before


def killed(after, call):
    """Make a call in a process that ends, as if killed, after so many lines of transfer.py -> whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which this process has and the child does not need
        child = os.fork()
    if child == 0:
        lines = iter(range(after))

        def trace(frame, event, argument):
            if frame.f_code.co_filename != transfer.__file__:
                return None
            if event == "line" and next(lines, None) is None:
                os._exit(9)
            return trace

        try:
            sys.settrace(trace)
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a rename in one step")
@pytest.mark.parametrize("across", [False, True], ids=["one disk", "two disks"])
def test_after_a_kill_anywhere_the_same_command_goes_on(index, folder, tmp_path, monkeypatch, across):
    if across:
        other_file_system(monkeypatch)
    before, out = contents(folder), tmp_path / "out"
    with Index.open(index) as opened:
        (group,) = find_duplicates(opened, "exact").groups
        indexed = [path for _, path in opened.live_paths()]
    (gone,) = one = group.others[:1]
    name = os.path.relpath(os.fsencode(gone.path), os.fsencode(folder))
    twice = 0

    def move_one():
        return move_duplicates([replace(group, others=one)], out, indexed)

    for after in range(1000):
        if not killed(after, move_one):
            break
        for path in out.rglob("*.png"):
            assert path.stat().st_size > 0
        journal = move_one().journal
        assert contents(out) == {name: before[name]}
        twice += contents(folder) == before
        assert contents(folder) | contents(out) == before
        if (folder / os.fsdecode(name)).exists():
            os.unlink(gone.path)
        move_back(journal)
        assert contents(folder) == before
        shutil.rmtree(out)
    assert after > 15
    assert across or not twice  # docs/duplicates.md: a copy that has its name, and the old file not removed yet


def test_across_disks_the_names_of_all_new_folders_are_on_disk_before_the_old_file_goes(
    index, folder, tmp_path, monkeypatch
):
    other_file_system(monkeypatch)
    synced, at_unlink = set(), []
    sync, unlink = transfer.sync_directory, os.unlink  # type: ignore[attr-defined]

    def recording(path):
        synced.add(path)
        sync(path)

    def removing(path):
        if path.startswith(os.fsencode(folder)):
            at_unlink.append(set(synced))
        unlink(path)

    monkeypatch.setattr(transfer, "sync_directory", recording)
    monkeypatch.setattr(os, "unlink", removing)
    move(index, tmp_path / "new" / "out")
    new = {os.fsencode(tmp_path / path) for path in ("", "new", "new/out", "new/out/2020")}
    assert len(at_unlink) == 3
    assert all(new <= done for done in at_unlink)


def test_to_another_file_system(index, folder, tmp_path, monkeypatch):
    other_file_system(monkeypatch)
    before = contents(folder)
    moved = move(index, tmp_path / "out")
    assert len(moved.moved) == 3
    assert contents(folder) | contents(tmp_path / "out") == before
    assert os.stat(tmp_path / "out" / "2020" / "b.png").st_mtime == 2 * 10**9
    move_back(moved.journal)
    assert contents(folder) == before


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_to_a_file_system_that_is_another_one(index, folder, tmp_path):
    out = os.path.join("/dev/shm", f"clipdex-test-{os.getpid()}")
    before = contents(folder)
    try:
        moved = move(index, out)
        assert len(moved.moved) == 3
        move_back(moved.journal)
        assert contents(folder) == before
    finally:
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("failing", ["fsync", "copystat", "unlink"])
def test_a_full_disk_stops_with_one_sentence_and_loses_nothing(index, folder, tmp_path, monkeypatch, failing, nth):
    before = contents(folder)
    other_file_system(monkeypatch)
    place = shutil if failing == "copystat" else os
    call, calls = getattr(place, failing), []
    own = (lambda path: str(folder).encode() in path) if failing == "unlink" else (lambda path: True)

    def full(*args):
        if own(args[0]):
            calls.append(args)
            if len(calls) == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
        return call(*args)

    with monkeypatch.context() as patched, pytest.raises(clipdex.ClipdexError, match="No space left") as stopped:
        patched.setattr(place, failing, full)
        move(index, tmp_path / "out")
    assert "\n" not in str(stopped.value)
    found = contents(folder)
    assert set(before.values()) == set(found.values())
    out = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert found | out == before
    assert not set(found) & set(out)
    assert len(move(index, tmp_path / "out").moved) == len(before) - len(out) - 2


@pytest.mark.parametrize("nth", range(1, 4))
def test_ctrl_c_loses_nothing(index, folder, tmp_path, monkeypatch, nth):
    no_rename_in_one_step(monkeypatch)
    before = contents(folder)
    rename, calls = os.rename, []

    def interrupted(source, target):
        calls.append(source)
        if len(calls) == nth:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", interrupted)
        move(index, tmp_path / "out")
    (journal,) = (tmp_path / "out").glob("moved-*.jsonl")
    assert contents(folder) | contents(tmp_path / "out") == before
    assert len(contents(tmp_path / "out")) == nth - 1
    assert len(move_back(journal).moved) == nth - 1
    assert contents(folder) == before


def test_a_file_that_may_not_be_moved_stays(index, folder, tmp_path, monkeypatch):
    no_rename_in_one_step(monkeypatch)
    rename = os.rename

    def forbidden(source, target):
        if source.endswith(b"b.png"):
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", forbidden)
    moved = move(index, tmp_path / "out")
    assert [why for _, why in moved.left] == ["it may not be moved: Permission denied"]
    assert len(moved.moved) == 2
    assert not (tmp_path / "out" / "2020" / "b.png").exists()


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"format": "other", "format_version": 1}', "[1]"])
def test_what_is_no_journal(tmp_path, text):
    (tmp_path / "j").write_text(text)
    with pytest.raises(clipdex.InvalidArgument):
        move_back(tmp_path / "j")


def test_the_journal_is_lines_of_json(index, folder, tmp_path):
    moved = move(index, tmp_path / "out")
    first, *lines = [json.loads(line) for line in moved.journal.read_text().splitlines()]
    assert first == {"format": "clipdex-moved", "format_version": 1}
    assert {line["from"] for line in lines} == {old for old, _ in moved.moved}
    with Index.open(index) as opened:
        assert {line["content_hash"] for line in lines} == {opened.picture(0).content_hash.hex()}


def test_the_command_moves_and_takes_back(run, index, folder, tmp_path):
    pytest.importorskip("typer")
    before = contents(folder)
    status, out, err = run("duplicates", index, "--move-to", tmp_path / "out")
    assert status == 0
    assert "3 duplicates" in out
    assert "3 moved to " in out and "journal: " in out
    (journal,) = (tmp_path / "out").glob("moved-*.jsonl")
    status, out, err = run("duplicates", "--undo", journal)
    assert (status, err) == (0, "")
    assert "3 moved back, 0 left" in out
    assert contents(folder) == before
    run("duplicates", index, "--move-to", tmp_path / "again", "--json")
    (journal,) = (tmp_path / "again").glob("moved-*.jsonl")
    status, out, err = run("duplicates", "--undo", journal, "--json")
    moves = json.loads(out)
    assert (status, err) == (0, "")
    assert len(moves["moved"]) == 3 and not moves["left"]
    assert {move["to"] for move in moves["moved"]} <= {str(path) for path in folder.rglob("*")}


# What only looks or means the same


def close(cosine, number):
    """A unit vector of 8 with this cosine to the first axis, float32; the rest of it on an axis of its own."""
    vector = np.zeros(8, dtype=np.float32)
    vector[0], vector[number] = cosine, np.sqrt(1 - cosine**2)
    return vector


@pytest.fixture
def alike(tmp_path):
    """keep.png, and of the same looks: close.jpg and twin.jpg (the same bytes), cosine 0.99; far.jpg, 0.9."""
    made = tmp_path / "photos"
    (made / "sub").mkdir(parents=True)
    colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(colours).resize((320, 240))
    picture.save(made / "keep.png")
    for name, quality in (("close.jpg", 80), ("sub/twin.jpg", 80), ("far.jpg", 60)):
        picture.resize((160, 120)).save(made / name, quality=quality)
    signature = perceptual_signature(picture)
    rows, vectors = [], [close(1, 1), close(0.99, 1), close(0.99, 1), close(0.9, 2)]
    sides = {"keep.png": 320, "close.jpg": 160, "sub/twin.jpg": 160, "far.jpg": 160}
    for age, (name, side) in enumerate(sides.items()):
        path = made / name
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        size = (side, side * 3 // 4)
        rows.append(Picture(os.fsencode(path), path.stat().st_size, age, content, *size, None, signature))
    manifest = Manifest("f" * 64, "demo", 8, dtype="float32")
    with IndexWriter.open_or_create(tmp_path / "alike.clipdex", manifest) as writer:
        writer.append(rows, np.stack(vectors))
    return tmp_path / "alike.clipdex"


def moved_names(moved):
    return {os.path.basename(old) for old, _ in moved.moved}


@pytest.mark.parametrize("kind", ["near", "semantic"])
def test_by_default_only_what_has_the_bytes_of_one_that_stays_is_moved(alike, tmp_path, kind):
    """Of two look-alikes with the same bytes one goes, as for `exact`; looking like a third moves neither."""
    before = contents(tmp_path / "photos")
    with Index.open(alike) as opened:
        groups = find_duplicates(opened, kind, threshold=0.85).groups
        assert [len(group) for group in groups] == [4]
        moved = move_duplicates(groups, tmp_path / "out", [path for _, path in opened.live_paths()])
    assert moved_names(moved) == {"twin.jpg"} and moved.left == []
    assert {os.path.basename(path): why for path, why in moved.stayed} == dict.fromkeys(
        ("close.jpg", "far.jpg"), "its bytes differ, and no minimum cosine was given (--min-cosine)"
    )
    assert set(before) - set(contents(tmp_path / "photos")) == {b"sub/twin.jpg"}


@pytest.mark.parametrize("kind", ["near", "semantic"])
@pytest.mark.parametrize(
    ("min_cosine", "names"),
    [
        (0.99, {"close.jpg", "twin.jpg"}),
        (0.99001, {"twin.jpg"}),
        (0.9, {"close.jpg", "twin.jpg", "far.jpg"}),
        (0.90001, {"close.jpg", "twin.jpg"}),
    ],
)
def test_look_alikes_are_moved_from_the_cosine_on_that_was_given(alike, tmp_path, kind, min_cosine, names):
    with Index.open(alike) as opened:
        groups = find_duplicates(opened, kind, threshold=0.85).groups
        paths = [path for _, path in opened.live_paths()]
        moved = move_duplicates(groups, tmp_path / "out", paths, min_cosine=min_cosine)
    assert moved_names(moved) == names
    assert all("the cosine to its keeper is 0.9" in why for _, why in moved.stayed)


def test_of_a_picture_that_leaves_its_twin_leaves_too(alike):
    """Its bytes stay nowhere, so the keeper's cosine decides of both."""
    (group,) = find_duplicates(alike).groups
    assert [move.keeper is group.keeper for move in moves_of(group, 0.99)] == [True, True, True]
    close, twin, _ = moves_of(group)
    assert (close.moves, twin.moves, twin.keeper) == (False, True, close.picture)


def test_a_vector_that_is_none_moves_nothing(alike, tmp_path):
    with Index.open(alike) as opened:
        (group,) = find_duplicates(opened).groups
    for nothing in (float("nan"), 0.0):
        others = tuple(replace(other, cosine=nothing) for other in group.others)
        assert not moves_of(replace(group, others=others), 1e-6 + 1e-9)[0].moves


@pytest.mark.parametrize("wrong", [0, -1, 1.01, float("nan")])
def test_cosines_that_are_none_are_refused_before_anything_moves(alike, tmp_path, wrong):
    with pytest.raises(clipdex.InvalidArgument, match="the minimum cosine for a move"):
        move_duplicates(find_duplicates(alike).groups, tmp_path / "out", [], min_cosine=wrong)
    assert not (tmp_path / "out").exists()


def test_the_command_moves_look_alikes_only_by_a_cosine(run, alike, tmp_path):
    pytest.importorskip("typer")
    status, out, _ = run("duplicates", alike, "--move-to", tmp_path / "out")
    assert status == 0
    assert "near 1.000, cosine 0.9900; stays" in out and "near 1.000, cosine 0.9900; same bytes as " in out
    assert "1 moved to " in out and "2 near or semantic duplicates stayed, such as " in out
    _, out, _ = run("duplicates", alike, "--move-to", tmp_path / "more", "--min-cosine", "0.95")
    assert "1 moved to " in out and "1 near or semantic duplicate stayed" in out
    assert sorted(os.listdir(tmp_path / "photos")) == ["far.jpg", "keep.png", "sub"]


@pytest.mark.slow
def test_the_demos_own_drawings_are_listed_and_stay(tmp_path):
    """Of its thousand, those that look most alike and are different pictures."""
    pytest.importorskip("onnxruntime")
    questions = pytest.importorskip("clipdex_export.demo.questions")
    drawn = sorted(questions.draw_demo_pictures(tmp_path / "all", 1000), key=os.fspath)
    (tmp_path / "some").mkdir()
    for number in (12, 442, 133, 869, 165, 632, 238, 649, 318, 901, 814, 897):
        shutil.copy(drawn[number], tmp_path / "some")
    index = tmp_path / "x.clipdex"
    with clipdex.connect(f"inproc:{MODEL_REPOSITORY}", model="demo") as client:
        clipdex.index_pictures(client, tmp_path / "some", index, workers=1)
    with Index.open(index) as opened:
        groups = find_duplicates(opened).groups
        assert len(groups) >= 3  # to a signature, they look the same
        moved = move_duplicates(groups, tmp_path / "out", [path for _, path in opened.live_paths()])
    assert moved.moved == [] and len(moved.stayed) == len(groups)
    assert len(os.listdir(tmp_path / "some")) == 12


def test_the_command_without_move_to_touches_nothing(run, index, folder):
    pytest.importorskip("typer")
    before = contents(folder)
    run("duplicates", index)
    assert contents(folder) == before
