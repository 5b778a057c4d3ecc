"""What is committed stays, whatever ends the writer: the proofs of docs/durability.md, each in a few seconds.

The full ones are `make prove`. Each runs as a program of its own, because it forks and must have no other threads.
"""

import ctypes
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from proofs.workload import MANIFEST, RECIPE, Expected, check, stage

import clipdex
from clipdex.base import replacing
from clipdex.index import Index, IndexWriter, compact_index, opened, vectors
from clipdex.index.side.feature_file import make_features

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the proofs use Linux's own means")


# Of prove_disk.py: nothing of a build of local features.
NO_BUILD = ("--build-stride", "0", "--build-limits=", "--build-sizes=")


def prove(script, *options):
    """Run a proof in small -> what it prints."""
    command = [sys.executable, ROOT / "benchmarks" / script, *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if ended.returncode == 77:
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def path(tmp_path):
    """An index of 600 steps in ten commits, with rows replaced and removed."""
    with IndexWriter.open_or_create(tmp_path / "x.clipdex", MANIFEST) as writer:
        make_features(tmp_path / "x.clipdex", RECIPE)
        for first in range(0, 600, 60):
            stage(writer, first, first + 60)
            writer.commit()
    return tmp_path / "x.clipdex"


@pytest.mark.slow
def test_kills_lose_nothing():
    said = prove("prove_kills.py", "--kills", "25", "--runs", "2", "--builds", "3", "--rows", "0")
    assert "25 kills of a writer" in said
    assert "2 kills of a whole run" in said
    assert "3 kills of a build of local features" in said


@pytest.mark.slow
def test_calls_that_fail_lose_nothing():
    said = prove("prove_disk.py", "--stride", "50", "--command-stride", "0", "--limits=", "--sizes=", *NO_BUILD)
    for kind in ("pwrite", "posix_fallocate", "fsync", "fdatasync", "ftruncate", "renameat2"):
        assert re.search(rf"^{kind}: [1-9]\d* runs, [1-9]", said, re.MULTILINE), said


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_one_sentence_and_it_goes_on_when_there_is_room():
    few = ("--stride", "0", "--command-stride", "0", "--limits", "256", "--sizes", "1024")
    said = prove("prove_disk.py", *few, *NO_BUILD)
    assert "RLIMIT_FSIZE" in said
    assert "tmpfs" in said


@pytest.mark.slow
def test_a_disk_that_breaks_or_is_full_costs_a_build_of_features_nothing_but_time():
    no_run = ("--stride", "0", "--command-stride", "0", "--limits=", "--sizes=")
    few = ("--build-stride", "30", "--build-limits", "64", "--build-sizes", "320")
    said = prove("prove_disk.py", *no_run, *few)
    assert re.search(r"^[1-9]\d* runs of `clipdex features build`.*: [1-9]\d* ended with one sentence", said, re.M)
    assert "a build with an RLIMIT_FSIZE" in said and "a build on a tmpfs" in said


@pytest.mark.slow
def test_power_cuts_lose_nothing():
    said = prove("prove_power.py", "--cuts", "4", "--builds", "4")
    if said.startswith("skipped"):
        pytest.skip(said.strip())
    assert "4 power cuts, a drive" in said and "4 power cuts while local features were made" in said


@pytest.mark.slow
def test_readers_beside_a_writer_see_only_committed_rows():
    said = prove("prove_readers.py", "--searches", "1000", "--races", "5", "--kill-every", "1")
    assert "1,000 searches" in said


def test_a_compaction_while_a_reader_opens_mixes_nothing(path, monkeypatch):
    """The rows were read from the old index; their vectors must not come from the new one."""
    look = opened.map_vectors  # type: ignore[attr-defined]

    def compacted_meanwhile(directory, manifest, rows):
        monkeypatch.setattr(opened, "map_vectors", look)
        compact_index(path)
        return look(directory, manifest, rows)

    monkeypatch.setattr(opened, "map_vectors", compacted_meanwhile)
    with Index.open(path) as index:
        assert len(index) == len(index.vectors) == len(Expected().live(600))


def test_a_compaction_while_a_reader_maps_the_vectors_is_harmless(path, monkeypatch):
    """The length that was looked at is that of the file which is mapped."""
    require = vectors._require_length

    def compacted_afterwards(*args):
        require(*args)
        monkeypatch.setattr(vectors, "_require_length", require)
        compact_index(path)

    monkeypatch.setattr(vectors, "_require_length", compacted_afterwards)
    with Index.open(path) as index:
        assert len(index) == len(index.vectors) == len(Expected().live(600))


def test_a_compaction_while_a_reader_refreshes_mixes_nothing(path, monkeypatch):
    look = opened.map_vectors  # type: ignore[attr-defined]

    def compacted_and_grown(directory, manifest, rows):
        monkeypatch.setattr(opened, "map_vectors", look)
        compact_index(path)
        with IndexWriter(path) as writer:
            for first in range(600, 1200, 60):
                stage(writer, first, first + 60)
                writer.commit()
        return look(directory, manifest, rows)

    with Index.open(path) as index:
        monkeypatch.setattr(opened, "map_vectors", compacted_and_grown)
        index.refresh()
        assert index.live_paths()[-1][0] == len(index.vectors) - 1
        assert len(index) == len(Expected().live(1200))


def test_ctrl_c_between_a_commit_and_the_note_of_it_loses_nothing(path, monkeypatch):
    writer = IndexWriter(path)
    commit = writer._store.commit

    def committed_then_interrupted(*args):
        commit(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._store, "commit", committed_then_interrupted)
    with pytest.raises(KeyboardInterrupt), writer:
        stage(writer, 600, 650)
        writer.commit()
    assert check(path, 650, Expected()) == 650


def test_an_index_that_a_killed_compaction_put_aside_comes_back(path):
    path.rename(path.with_name(".x.clipdex.old"))
    with IndexWriter.open_or_create(path, MANIFEST) as writer:
        assert writer.committed_rows == 600
    assert [p.name for p in path.parent.iterdir()] == ["x.clipdex"]


@pytest.mark.parametrize("failing", [1, 2, 3, None])
def test_where_two_directories_cannot_be_swapped_they_are_renamed(path, monkeypatch, failing):
    """Not every kernel and file system has RENAME_EXCHANGE."""
    calls, rename = [], os.rename

    def counted(source, target):
        if os.path.isdir(source):
            calls.append(source)
            if len(calls) == failing:
                raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(replacing, "_renameat2", lambda: None)
    monkeypatch.setattr(os, "rename", counted)
    if failing in (1, 2):
        with pytest.raises(clipdex.IndexWriteError, match="could not take its place"):
            compact_index(path)
    else:
        assert compact_index(path) == 600 - len(Expected().live(600))
    monkeypatch.undo()
    assert check(path, 600, Expected()) == 600
    compact_index(path)
    assert check(path, 600, Expected()) == 600


def test_the_folders_of_a_new_index_are_synced(tmp_path, monkeypatch):
    """A new entry in a folder is on disk when the folder is synced, not before."""
    synced, fsync = set(), os.fsync

    def noted(fd):
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    IndexWriter.open_or_create(tmp_path / "a" / "b" / "x.clipdex", MANIFEST).close()
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= synced


def test_the_c_library_offers_the_calls_that_the_proofs_let_fail():
    """The library that makes calls fail stands before libc: a call that libc lacks would never be met."""
    libc = ctypes.CDLL(None)
    for name in ("pwrite64", "posix_fallocate64", "fsync", "fdatasync", "ftruncate64", "rename", "renameat2"):
        assert hasattr(libc, name)
