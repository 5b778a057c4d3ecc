"""A dump's two files are of one moment: both are whole before the first takes its place."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from conftest import unit_vectors
from drawn_index import drawn_index
from typer.testing import CliRunner

from clipdex.apps import dump_files
from clipdex.base import replacing as module
from clipdex.base.errors import ClipdexError
from clipdex.base.replacing import replacing, together
from clipdex.cli.app import app
from clipdex.index import IndexWriter, Manifest, Picture


def dump(path, out):
    return CliRunner().invoke(app, ["dump", str(path), str(out), "--table", str(out.with_suffix(".csv"))])


def test_a_full_disk_leaves_the_pair_of_before(tmp_path, monkeypatch):
    path, out = drawn_index(tmp_path / "x.clipdex"), tmp_path / "o" / "x.npy"
    assert dump(path, out).exit_code == 0
    before = {file.name: file.read_bytes() for file in out.parent.iterdir()}
    assert set(before) == {"x.npy", "x.csv"}
    with IndexWriter.open_or_create(path, Manifest.read(path)) as writer:
        writer.append([Picture(b"/new.jpg", 1, 2, bytes(16), 3, 4)], unit_vectors(1, 8))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dump_files, "write_rows", full)
    assert dump(path, out).exit_code != 0
    assert {file.name: file.read_bytes() for file in out.parent.iterdir()} == before
    monkeypatch.undo()
    assert dump(path, out).exit_code == 0
    assert b"/new.jpg" in (out.parent / "x.csv").read_bytes()
    assert {file.name for file in out.parent.iterdir()} == {"x.npy", "x.csv"}


def test_no_file_takes_its_place_before_all_are_whole(tmp_path):
    with together():
        for name in ("a", "b"):
            with replacing(tmp_path / name, "it") as file:
                file.write(b"new")
            assert not (tmp_path / name).exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_a_killed_dump_left_is_swept_and_a_living_ones_is_not(tmp_path):
    script = (
        "import pathlib, sys\nfrom clipdex.base.replacing import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1]), 'it') as file:\n"
        "    print('begun', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        with replacing(tmp_path / "a", "it") as file:
            file.write(b"mine")
        assert len(os.listdir(tmp_path)) == 2
        other.kill()
    assert len(os.listdir(tmp_path)) == 2
    with replacing(tmp_path / "a", "it") as file:
        file.write(b"mine, too")
    assert os.listdir(tmp_path) == ["a"]


def put(folder, text):
    with together():
        for name in ("table", "vectors"):
            with replacing(folder / name, "it") as file:
                file.write(text + name.encode())


def of_moment(folder):
    """Whose the table and the vectors are."""
    return {
        name: (folder / name).read_bytes().removesuffix(name.encode())
        for name in ("table", "vectors")
        if (folder / name).exists()
    }


@pytest.fixture
def steps(monkeypatch):
    """Counts the calls that change what is on disk, and calls `fails` in the place of one."""

    class Steps:
        taken = 0
        fail_at: int | None = None

        def fails(self):
            raise OSError(errno.EIO, "Input/output error")

    steps = Steps()

    def step(real):
        def call(*arguments, **options):
            steps.taken += 1
            if steps.taken - 1 == steps.fail_at:
                steps.fails()
            return real(*arguments, **options)

        return call

    for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "fsync"), (tempfile, "mkstemp")):
        monkeypatch.setattr(owner, name, step(getattr(owner, name)))
    return steps


def killed_at(steps, number, folder):
    """Whether a process that puts a new pair is killed at a step, or ends before."""
    child = os.fork()
    if child == 0:
        steps.taken, steps.fail_at, steps.fails = 0, number, lambda: os._exit(9)
        put(folder, b"new ")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("before", [b"", b"old "])
def test_killed_at_any_step_no_table_stands_beside_vectors_of_another_moment(tmp_path, steps, before):
    reached, number = set(), 0
    while True:
        folder = tmp_path / str(number)
        if before:
            put(folder, before)
        if not killed_at(steps, number, folder):
            break
        found = of_moment(folder)
        assert set(found.values()) <= {before, b"new "} - {b""}
        assert "table" not in found or len(set(found.values())) == 1, number
        assert "table" not in found or "vectors" in found, number
        reached.add(tuple(sorted(found.items())))
        put(folder, b"next ")
        assert sorted(os.listdir(folder)) == ["table", "vectors"], number
        assert set(of_moment(folder).values()) == {b"next "}
        number += 1
    assert (("vectors", b"new "),) in reached
    assert (("table", b"new "), ("vectors", b"new ")) in reached
    if before:
        assert (("vectors", b"old "),) in reached
        assert (("table", b"old "), ("vectors", b"old ")) in reached


def test_a_disk_that_fails_at_any_step_leaves_no_mixture_and_no_temporary_file(tmp_path, steps):
    refused = set()
    for number in range(100):
        folder = tmp_path / str(number)
        steps.fail_at = None
        put(folder, b"old ")
        steps.taken, steps.fail_at = 0, number
        try:
            put(folder, b"new ")
        except ClipdexError:
            refused.add(number)
        if steps.taken <= number:
            break
        found = of_moment(folder)
        assert "table" not in found or len(set(found.values())) == 1, number
        assert "vectors" in found
    assert len(refused) > 8


def test_vectors_that_cannot_take_their_place_leave_the_old_table(tmp_path, monkeypatch):
    put(tmp_path, b"old ")
    real = Path.replace

    def fails(path, target):
        if Path(target).name == "vectors":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(ClipdexError, match=r"vectors: it cannot be written: Operation not permitted"):
        put(tmp_path, b"new ")
    assert of_moment(tmp_path) == {"table": b"old ", "vectors": b"old "}
    assert sorted(os.listdir(tmp_path)) == ["table", "vectors"]


@pytest.mark.parametrize("name", ["table", "vectors"])
def test_where_a_folder_stands_in_the_place_of_one_nothing_changes(tmp_path, name):
    put(tmp_path, b"old ")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ClipdexError, match=f"{name}: it cannot be written: Is a directory"):
        put(tmp_path, b"new ")
    (other,) = {"table", "vectors"} - {name}
    assert (tmp_path / other).read_bytes() == b"old " + other.encode()
    assert sorted(os.listdir(tmp_path)) == ["table", "vectors"]


def test_the_folder_is_synced_behind_every_rename(tmp_path, monkeypatch):
    put(tmp_path, b"old ")
    calls = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append("rename"), replace(path, to))[1])

    def sync(descriptor):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    put(tmp_path, b"new ")
    assert calls == ["file", "file", *["rename", "folder"] * 3]
    calls.clear()
    with replacing(tmp_path / "alone", "it") as file:
        file.write(b"x")
    assert calls == ["file", "rename", "folder"]


def test_two_dumps_to_the_same_files_do_not_mix_theirs(tmp_path, monkeypatch):
    waiting, real = threading.Event(), module._put

    def put_slowly(temporary, path, what):
        real(temporary, path, what)
        if path.name == "vectors" and not waiting.is_set():
            waiting.set()
            other.join(0.3)  # it would be done by then

    monkeypatch.setattr(module, "_put", put_slowly)

    def put_others():
        waiting.wait(10)
        put(tmp_path / "." / ".." / tmp_path.name, b"other ")

    other = threading.Thread(target=put_others)
    other.start()
    put(tmp_path, b"one ")
    assert len(set(of_moment(tmp_path).values())) == 1
    other.join()
    assert of_moment(tmp_path) == {"table": b"other ", "vectors": b"other "}


def test_ctrl_c_waits_until_both_have_taken_their_places(tmp_path, monkeypatch):
    real = module._put

    def put_and_interrupt(*arguments):
        real(*arguments)
        signal.raise_signal(signal.SIGINT)

    put(tmp_path, b"old ")
    monkeypatch.setattr(module, "_put", put_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, b"new ")
    assert of_moment(tmp_path) == {"table": b"new ", "vectors": b"new "}
    assert sorted(os.listdir(tmp_path)) == ["table", "vectors"]


def test_a_long_name_of_many_bytes_can_be_dumped_to(tmp_path):
    name = "ü" * 120
    with replacing(tmp_path / name, "it") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == [name]
