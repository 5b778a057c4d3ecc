"""A dump's two files are of one moment: both are whole before the first takes its place."""

import errno
import os
import subprocess
import sys

from conftest import unit_vectors
from drawn_index import drawn_index
from typer.testing import CliRunner

from clipdex.apps.dump import vectors
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

    monkeypatch.setattr(vectors, "write_rows", full)
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
        assert other.stdout.readline() == b"begun\n"
        with replacing(tmp_path / "a", "it") as file:
            file.write(b"mine")
        assert len(os.listdir(tmp_path)) == 2
        other.kill()
    assert len(os.listdir(tmp_path)) == 2
    with replacing(tmp_path / "a", "it") as file:
        file.write(b"mine, too")
    assert os.listdir(tmp_path) == ["a"]
