"""What every `Source` does. A new one is put into SOURCES, and must pass."""

import csv
import io
import os
import tarfile

import pytest
from conftest import noise

import clipdex
from clipdex.base.records import Failure
from clipdex.sources.source import PathList

PICTURES = 5


def bytes_of(number):
    buffer = io.BytesIO()
    noise(number).save(buffer, "PNG")
    return buffer.getvalue()


def in_folder(where):
    for number in range(PICTURES):
        (where / f"{number}.png").write_bytes(bytes_of(number))


def folder(where):
    in_folder(where)
    return where


def path_list(where):
    in_folder(where)
    return PathList([os.fsencode(where / f"{number}.png") for number in range(PICTURES)], "the list")


def tar(where):
    path = where / "0.tar"
    with tarfile.open(path, "w") as file:
        for number in range(PICTURES):
            data = bytes_of(number)
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def table(where):
    in_folder(where)
    path = where / "table.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["path", "caption"], *([f"{n}.png", f"number {n}"] for n in range(PICTURES))])
    return path


def parquet(where):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = where / "table.parquet"
    pq.write_table(pa.table({"image": [bytes_of(number) for number in range(PICTURES)]}), path)
    return path


SOURCES = {"folder": folder, "list": path_list, "tar": tar, "csv": table, "parquet": parquet}


@pytest.fixture(params=SOURCES.values(), ids=list(SOURCES))
def made(request, tmp_path):
    (tmp_path / "in").mkdir()
    given = request.param(tmp_path / "in")
    return given if isinstance(given, PathList) else clipdex.open_source(given)


def listed(source):
    failures: list[Failure] = []
    files = list(source.files(failures.append))
    assert not failures
    return files


def test_it_lists_every_picture_once_in_an_order_that_repeats(made):
    paths = [file.path for file in listed(made)]
    assert len(set(paths)) == len(paths) == PICTURES
    assert [file.path for file in listed(made)] == paths


def test_paths_are_absolute_bytes_and_sizes_and_times_are_known(made):
    for file in listed(made):
        assert isinstance(file.path, bytes) and os.path.isabs(file.path)
        assert file.size > 0 and file.mtime_ns > 0


def test_a_worker_can_be_told_what_to_read(made):
    assert all(isinstance(file.request(), bytes) and file.request() for file in listed(made))


def test_what_is_there_has_not_vanished(made):
    assert list(made.vanished([file.path for file in listed(made)])) == []


def test_it_answers_for_nothing_elsewhere(made):
    assert list(made.vanished([b"/elsewhere/0.png", b"/elsewhere/0.tar!/0.png"])) == []


def test_it_says_in_a_sentence_that_it_holds_nothing(made):
    error = made.nothing_found()
    assert isinstance(error, clipdex.SourceError) and str(error)


def test_a_run_indexes_it_and_a_second_run_changes_nothing(made, fake, tmp_path):
    first = clipdex.index_pictures(fake, made, tmp_path / "x.clipdex", workers=1)
    assert (first.indexed, first.failed, first.rows) == (PICTURES, 0, PICTURES)
    again = clipdex.index_pictures(fake, made, tmp_path / "x.clipdex", workers=1)
    assert (again.indexed, again.unchanged, again.removed) == (0, PICTURES, 0)
