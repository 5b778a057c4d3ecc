"""Indexes joined: vectors, ids and metadata kept, nothing embedded again, and never half an index."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, unit_vectors

import clipdex
from clipdex import Collection, Index, Item
from clipdex.index import merge as merge_module
from clipdex.wire import FakeTransport


@pytest.fixture
def two(fake: clipdex.Client, pictures: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder's index with an item and a failure, and a collection with an item of the same id."""
    (pictures / "bad.png").write_bytes(b"no picture")
    a, b = tmp_path / "a.clipdex", tmp_path / "b.clipdex"
    clipdex.index_pictures(fake, pictures, a, workers=1)
    with Collection.open(a, client=fake) as collection:
        collection.add([Item("x", noise(50), metadata={"of": "a"}), Item("gone", noise(51))])
        collection.remove("gone")
    with Collection.open(b, client=fake) as collection:
        collection.add([Item("x", noise(60), metadata={"of": "b"}), Item("y", vector=unit_vectors(1, 8)[0])])
    return a, b


def content(index: Path) -> dict[str, Any]:
    with Collection.open(index, read_only=True) as collection:
        return {
            each.path: (each.size, each.mtime_ns, each.metadata, collection.vector(each.row).tobytes())
            for each in collection
        }


@pytest.mark.thin
def test_all_is_kept_and_the_later_index_counts(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    assert clipdex.merge_indexes([a, b], tmp_path / "c.clipdex") == clipdex.Merged(rows=14, replaced=1)
    assert content(tmp_path / "c.clipdex") == content(a) | content(b)
    assert clipdex.merge_indexes([b, a], tmp_path / "d.clipdex").rows == 14
    assert content(tmp_path / "d.clipdex") == content(b) | content(a)
    for made in ("c.clipdex", "d.clipdex"):
        assert clipdex.verify_index(tmp_path / made).damages == []
        with Index.open(tmp_path / made) as index:
            assert [failure.reason for failure in index.failures()] == ["not_a_picture"]
            assert len(index.signatures(0, 14)) == 13


@pytest.mark.thin
def test_a_merged_index_goes_on_with_its_folder(
    two: tuple[Path, Path], tmp_path: Path, pictures: Path, fake: clipdex.Client
) -> None:
    clipdex.merge_indexes(two, tmp_path / "c")
    report = clipdex.index_pictures(fake, pictures, tmp_path / "c", workers=1)
    assert (report.unchanged, report.indexed, report.removed) == (12, 0, 0)


@pytest.mark.thin
def test_a_failure_of_one_is_left_out_if_another_has_the_picture(
    two: tuple[Path, Path], tmp_path: Path, pictures: Path, fake: clipdex.Client
) -> None:
    noise(70).save(pictures / "bad.png")
    clipdex.index_pictures(fake, pictures, two[1], workers=1)
    for order in (two, two[::-1]):
        out = tmp_path / f"{order[0].stem}-first"
        clipdex.merge_indexes(order, out)
        with Index.open(out) as index:
            assert index.failures() == []
            index.row(pictures / "bad.png")


@pytest.mark.thin
def test_float32_wins_so_that_no_vector_is_rounded(two: tuple[Path, Path], tmp_path: Path, fake: Any) -> None:
    with Collection.open(tmp_path / "wide", client=fake, dtype="float32") as collection:
        collection.add(Item("w", vector=unit_vectors(1, 8)[0]))
    clipdex.merge_indexes([two[0], tmp_path / "wide"], tmp_path / "c")
    with Collection.open(tmp_path / "c", read_only=True) as collection:
        assert np.array_equal(collection.vector("w"), unit_vectors(1, 8)[0])
        assert content(tmp_path / "c") == content(two[0]) | content(tmp_path / "wide")


@pytest.mark.thin
def test_what_cannot_be_merged_is_one_sentence_and_leaves_nothing(
    two: tuple[Path, Path], tmp_path: Path, fake: clipdex.Client
) -> None:
    a, b = two
    with clipdex.Client(FakeTransport(weights="others")) as other, Collection.open(tmp_path / "o", client=other):
        pass
    with Collection.open(tmp_path / "icc", client=fake, icc="srgb"):
        pass
    before = sorted(path.name for path in tmp_path.iterdir())
    refused: list[tuple[Any, Any, type[Exception]]] = [
        ([a, tmp_path / "o"], tmp_path / "c", clipdex.FingerprintMismatch),
        ([a, tmp_path / "icc"], tmp_path / "c", clipdex.FingerprintMismatch),
        ([a, tmp_path / "none"], tmp_path / "c", clipdex.IndexNotFound),
        ([a, b], a, clipdex.InvalidArgument),
        ([], tmp_path / "c", clipdex.InvalidArgument),
        (str(a), tmp_path / "c", clipdex.InvalidArgument),
        ([a, 7], tmp_path / "c", clipdex.InvalidArgument),
    ]
    for sources, out, kind in refused:
        with pytest.raises(kind) as error:
            clipdex.merge_indexes(sources, out)
        assert "\n" not in str(error.value)
    with (b / "vectors.f16").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(clipdex.IndexDamaged, match="it was not merged"):
        clipdex.merge_indexes([a, b], tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.thin
@pytest.mark.parametrize("when", ["append", "commit", "rename"])
def test_a_full_disk_leaves_no_half_index(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        if when == "rename":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise clipdex.IndexWriteError("disk full")

    with monkeypatch.context() as patch:
        if when == "rename":
            patch.setattr(merge_module, "renameat2", refuse)
        else:
            patch.setattr(clipdex.IndexWriter, when, refuse)
        with pytest.raises(clipdex.IndexWriteError):
            clipdex.merge_indexes(two, tmp_path / "c")
    assert not [path.name for path in tmp_path.iterdir() if "c" in path.name.split(".")]
    clipdex.merge_indexes(two, tmp_path / "c")


@pytest.mark.thin
def test_what_appears_at_the_place_meanwhile_is_not_replaced(two: tuple[Path, Path], tmp_path: Path) -> None:
    def appear(done: int, total: int) -> None:
        (tmp_path / "c").mkdir(exist_ok=True)

    with pytest.raises(clipdex.InvalidArgument, match="exists by now"):
        clipdex.merge_indexes(two, tmp_path / "c", appear)
    assert list((tmp_path / "c").iterdir()) == []
    assert not [path for path in tmp_path.iterdir() if "building" in path.name]


@pytest.mark.thin
def test_a_killed_merge_leaves_no_index_and_the_next_removes_what_it_left(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    import subprocess
    import sys

    script = (
        "import os, sys, clipdex\n"
        "clipdex.merge_indexes(sys.argv[1:3], sys.argv[3], lambda done, total: os.kill(os.getpid(), 9))"
    )
    words = [sys.executable, "-c", script, *two, tmp_path / "c"]
    assert subprocess.run([*map(str, words)]).returncode == -9
    assert not (tmp_path / "c").exists()
    assert [path for path in tmp_path.iterdir() if "building" in path.name]

    def swept(done: int, total: int) -> None:
        assert len([path for path in tmp_path.iterdir() if "building" in path.name]) == 1  # its own

    clipdex.merge_indexes(two, tmp_path / "c", swept)
    assert not [path for path in tmp_path.iterdir() if "building" in path.name]
    assert content(tmp_path / "c") == content(two[0]) | content(two[1])


@pytest.mark.thin
def test_a_merge_to_the_same_place_leaves_another_that_runs_alone(two: tuple[Path, Path], tmp_path: Path) -> None:
    def meanwhile(done: int, total: int) -> None:
        if not (tmp_path / "c").exists():
            clipdex.merge_indexes(two, tmp_path / "c")
            clipdex.IndexWriter(tmp_path / "c").close()

    with pytest.raises(clipdex.InvalidArgument, match="exists by now"):
        clipdex.merge_indexes(two, tmp_path / "c", meanwhile)
    assert content(tmp_path / "c") == content(two[0]) | content(two[1])


@pytest.mark.thin
def test_an_index_in_place_of_a_source_or_inside_an_index_is_refused(
    two: tuple[Path, Path], tmp_path: Path, fake: clipdex.Client, pictures: Path
) -> None:
    (tmp_path / "link").symlink_to(two[0])
    before = {place: sorted(os.listdir(place)) for place in two}
    for place in (two[0], tmp_path / "link", tmp_path / "x" / ".." / two[0].name):
        with pytest.raises(clipdex.InvalidArgument, match="is one of the indexes to merge"):
            clipdex.merge_indexes(two, place)
    inside = (two[0] / "c", tmp_path / "link" / "deep" / "c")
    for place in inside:
        with pytest.raises(clipdex.InvalidArgument, match=r"c is inside the index .*a\.clipdex; give"):
            clipdex.merge_indexes(two, place)
        with pytest.raises(clipdex.InvalidArgument, match="is inside the index"):
            clipdex.index_pictures(fake, pictures, place, workers=1)
        with pytest.raises(clipdex.InvalidArgument, match="is inside the index"):
            Collection.open(place, client=fake)
    assert {place: sorted(os.listdir(place)) for place in two} == before


def test_the_command_says_what_it_did(two: tuple[Path, Path], tmp_path: Path, run: Any) -> None:
    status, out, _ = run("merge", *two, "--out", tmp_path / "c")
    assert (status, out.split("holds ")[1]) == (
        0,
        "14 pictures; 1 left out, as a later index has their path or id\n",
    )
    status, _, err = run("merge", *two, "--out", tmp_path / "c")
    assert (status, err) == (
        1,
        f"clipdex: {tmp_path}/c exists already; give the new index another path, or move it away\n",
    )
