"""What every dump of an index does. A new format is put into VECTORS or TABLES, and must pass."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_index import DEAD, LIVE, ODD, index_with_dead_rows

from clipdex import ClipdexError, Index, InvalidArgument, dump_faiss, dump_npy, dump_table

ROWS, DIM = len(LIVE), 8


# What writes a format, and how it is read: without clipdex, and where it can be, without a library.


def dump_torch(index: Index, path: Path, rows: np.ndarray | None = None) -> int:
    pytest.importorskip("torch")
    from clipdex_export import torch_cache

    return torch_cache.dump_torch(index, path, rows)


def read_npy(path: Path) -> np.ndarray:
    return np.load(path)


def read_faiss(path: Path) -> np.ndarray:
    """`test_dump.py` compares the bytes with FAISS's own."""
    return np.frombuffer(path.read_bytes()[45:], "<f4").reshape(-1, DIM)


def read_torch(path: Path) -> np.ndarray:
    torch = pytest.importorskip("torch")
    found: np.ndarray = torch.load(path, weights_only=True)["embeddings"].numpy()
    return found


def read_csv(path: Path) -> list[tuple[int, bytes]]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return [
        (int(line["row"]), os.fsencode(line["path"])) for line in csv.DictReader(io.StringIO(text, newline=""))
    ]


def read_parquet(path: Path) -> list[tuple[int, bytes]]:
    found = pytest.importorskip("pyarrow.parquet").read_table(path).to_pydict()
    return list(zip(found["row"], found["path_bytes"], strict=True))


VECTORS: dict[str, tuple[Any, Any]] = {
    ".npy": (dump_npy, read_npy),
    ".faiss": (dump_faiss, read_faiss),
    ".pt": (dump_torch, read_torch),
}
TABLES: dict[str, tuple[Any, Any]] = {".csv": (dump_table, read_csv), ".parquet": (dump_table, read_parquet)}
THIN = (".npy", ".faiss", ".csv")


def each(formats: dict[str, Any]) -> Any:
    """The suffixes, those marked that need only the base install."""
    marks = {".pt": pytest.mark.torch, **dict.fromkeys(THIN, pytest.mark.thin)}
    return [pytest.param(suffix, marks=marks.get(suffix, ()), id=suffix) for suffix in formats]


vectors = pytest.mark.parametrize("suffix", each(VECTORS))
files = pytest.mark.parametrize("suffix", each(VECTORS | TABLES))


@pytest.fixture
def index(tmp_path):
    with Index.open(index_with_dead_rows(tmp_path / "x.clipdex")) as index:
        yield index


def write(index: Index, path: Path, rows: np.ndarray | None = None) -> int:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    made: int = (VECTORS | TABLES)[path.suffix][0](index, path, rows)
    return made


def read(path: Path) -> Any:
    return (VECTORS | TABLES)[path.suffix][1](path)


def rows_in(index: Index, path: Path) -> list[int]:
    """The index's rows that a file has, in its order."""
    found = read(path)
    if path.suffix in TABLES:
        return [row for row, _ in found]
    whole = index.vectors.astype(np.float32)
    return [int(np.flatnonzero((whole == vector).all(axis=1))[0]) for vector in found.astype(np.float32)]


@files
def test_every_live_row_is_written_once_in_its_order_and_no_tombstone(index, tmp_path, suffix):
    assert write(index, tmp_path / f"x{suffix}") == ROWS
    assert rows_in(index, tmp_path / f"x{suffix}") == LIVE


@pytest.mark.parametrize("table", each(TABLES))
@vectors
def test_row_i_of_the_vectors_is_line_i_of_the_table(index, tmp_path, suffix, table):
    chosen = index.where("row % 3 = 0")
    for file in (tmp_path / f"x{suffix}", tmp_path / f"x{table}"):
        assert write(index, file, chosen) == len(chosen)
    assert rows_in(index, tmp_path / f"x{suffix}") == [row for row, _ in read(tmp_path / f"x{table}")]


@pytest.mark.parametrize("suffix", each(TABLES))
def test_a_path_that_is_not_utf8_keeps_its_bytes(index, tmp_path, suffix):
    write(index, tmp_path / f"x{suffix}")
    assert read(tmp_path / f"x{suffix}")[:2] == [(0, ODD), (1, b"/p/001.jpg")]


@files
def test_the_rows_asked_for_are_written_in_their_order_and_once(index, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    assert write(index, path, np.array([30, 2, 2, 7])) == 3
    assert rows_in(index, path) == [2, 7, 30]


@files
def test_no_row_makes_a_whole_file_of_none(index, tmp_path, suffix):
    assert write(index, tmp_path / f"x{suffix}", index.where("0")) == 0
    assert len(read(tmp_path / f"x{suffix}")) == 0


@vectors
def test_vectors_of_no_row_have_their_width(index, tmp_path, suffix):
    write(index, tmp_path / f"x{suffix}", index.where("0"))
    assert read(tmp_path / f"x{suffix}").shape == (0, DIM)


@pytest.mark.parametrize("row", [DEAD[0], 40, -1], ids=["dead", "beyond", "negative"])
@files
def test_a_row_that_is_not_there_is_refused_and_nothing_is_written(index, tmp_path, suffix, row):
    with pytest.raises(InvalidArgument, match="does not exist, or its picture is gone"):
        write(index, tmp_path / f"x{suffix}", np.array([0, row]))
    assert os.listdir(tmp_path) == ["x.clipdex"]


@files
def test_many_rows_are_written_some_at_a_time(index, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("clipdex.apps.dump_files._AT_ONCE_BYTES", 100)
    monkeypatch.setattr("clipdex.apps.dump_files._AT_ONCE", 7)
    write(index, tmp_path / f"x{suffix}")
    assert rows_in(index, tmp_path / f"x{suffix}") == LIVE


@files
def test_an_existing_file_is_replaced(index, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old" * 100_000)
    write(index, path, np.array([1]))
    assert rows_in(index, path) == [1]


@vectors
def test_a_damaged_row_is_refused_and_the_old_file_stays(index, tmp_path, suffix):
    path, record = tmp_path / f"x{suffix}", index.manifest.row_bytes
    path.write_text("old")
    with open(tmp_path / "x.clipdex" / "vectors.f16", "r+b") as file:
        file.seek(20 * record)
        file.write(b"\xff" * record)  # not a number
    with pytest.raises(ClipdexError, match="row 20"):
        write(index, path)
    assert path.read_text() == "old"


@files
def test_a_file_that_cannot_be_synced_leaves_the_old_one(index, tmp_path, monkeypatch, suffix):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / f"x{suffix}"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipdex.base.replacing.os.fsync", full)
    with pytest.raises(ClipdexError, match=rf"x\{suffix}: .* cannot be written: No space left"):
        write(index, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path / "out") == [path.name]


@pytest.mark.parametrize("room", [0, 600])
@files
def test_a_full_disk_leaves_the_old_file(index, tmp_path, monkeypatch, suffix, room):
    """It is full as soon as the new file has so many bytes."""
    path = tmp_path / f"x{suffix}"
    path.write_text("old")
    before = sorted(os.listdir(tmp_path))

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + memoryview(data).nbytes > room:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr("clipdex.base.replacing.os.fdopen", Full)
    with pytest.raises(ClipdexError, match=rf"x\{suffix}: .* cannot be written: No space left"):
        write(index, path)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


@files
def test_folders_on_the_way_are_made(index, tmp_path, suffix):
    assert write(index, tmp_path / "new" / "er" / f"x{suffix}") == ROWS
    assert os.listdir(tmp_path / "new" / "er") == [f"x{suffix}"]


# The command.


def suffixes_in(message: str) -> set[str]:
    """Those that a refusal names as expected."""
    *_, expected = message.rpartition("expected" if "expected" in message else "must end in")
    return {word.strip(",\n") for word in expected.split() if word.startswith(".")}


@pytest.mark.parametrize(("words", "formats"), [(["v.txt"], VECTORS), (["v.npy", "--table", "t.txt"], TABLES)])
def test_a_wrong_suffix_is_refused_and_the_right_ones_are_those_here(run, index, tmp_path, words, formats):
    status, out, err = run("dump", index.directory, *(tmp_path / word if "." in word else word for word in words))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert suffixes_in(err) == set(formats)
    assert os.listdir(tmp_path) == ["x.clipdex"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("suffix", VECTORS)
def test_the_command_writes_a_pair_of_the_rows_of_a_condition(run, index, tmp_path, suffix, table):
    pair = tmp_path / f"v{suffix}", tmp_path / f"t{table}"
    words = ("dump", index.directory, pair[0], "--table", pair[1], "--where", "name < :n", "--param", "n=005.jpg")
    assert run(*words)[0] == 0
    assert rows_in(index, pair[0]) == rows_in(index, pair[1]) == [1, 2, 4]


@pytest.mark.parametrize("suffix", VECTORS)
def test_a_suffix_in_capitals_is_the_same_format(run, index, tmp_path, suffix):
    assert run("dump", index.directory, tmp_path / f"v{suffix.upper()}")[0] == 0
    assert rows_in(index, (tmp_path / f"v{suffix.upper()}").rename(tmp_path / f"v{suffix}")) == LIVE
