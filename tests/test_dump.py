"""An index in other programs' formats."""

import csv
import io
import json
import os
import struct
import sys

import numpy as np
import pytest
from drawn_index import drawn_index

import clipdex
from clipdex import ClipdexError, Index, InvalidArgument, dump_faiss, dump_npy, dump_table

thin = pytest.mark.thin
ODD = b'/p/caf\xe9, "x"\n.jpg'


@pytest.fixture
def index(tmp_path):
    """Forty rows, of which 3 and 39 are dead; the path of row 0 is not UTF-8."""
    paths = [ODD, *(b"/p/%03d.jpg" % i for i in range(1, 40))]
    path = drawn_index(tmp_path / "x.clipdex", path=paths)
    with clipdex.IndexWriter.open_or_create(path, clipdex.Manifest.read(path)) as writer:
        writer.remove(paths[3])
        writer.remove(paths[39])
    with Index.open(path) as index:
        yield index


LIVE = [i for i in range(40) if i not in (3, 39)]


@thin
def test_npy_has_the_live_rows(index, tmp_path):
    assert dump_npy(index, tmp_path / "x.npy") == 38
    found = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, index.vectors[LIVE])


@thin
def test_rows_are_written_some_at_a_time(index, tmp_path, monkeypatch):
    monkeypatch.setattr("clipdex.apps.dump_files._AT_ONCE_BYTES", 100)
    monkeypatch.setattr("clipdex.apps.dump_files._AT_ONCE", 7)
    dump_npy(index, tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), index.vectors[LIVE])
    dump_table(index, tmp_path / "x.csv")
    assert [int(line["row"]) for line in lines_of(tmp_path / "x.csv")] == LIVE


@thin
def test_chosen_rows(index, tmp_path):
    assert dump_npy(index, tmp_path / "x.npy", index.where("row % 10 = 3")) == 3
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), index.vectors[[13, 23, 33]])
    assert dump_npy(index, tmp_path / "x.npy", index.where("0")) == 0
    assert np.load(tmp_path / "x.npy").shape == (0, 8)
    for rows in ([3], [40], [-1]):
        with pytest.raises(InvalidArgument, match="does not exist, or its picture is gone"):
            dump_npy(index, tmp_path / "y.npy", np.array(rows))


@thin
def test_the_bytes_of_a_faiss_index(index, tmp_path):
    assert dump_faiss(index, tmp_path / "x.faiss", np.array([1, 2])) == 2
    data = (tmp_path / "x.faiss").read_bytes()
    unread = struct.pack("<q", 1 << 20)
    header = b"IxFI\x08\0\0\0" + struct.pack("<q", 2) + unread + unread + b"\x01\0\0\0\0" + struct.pack("<Q", 16)
    assert data[:45] == header
    np.testing.assert_array_equal(
        np.frombuffer(data[45:], "<f4").reshape(2, 8), index.vectors[[1, 2]].astype(np.float32)
    )


def test_faiss_reads_it_and_would_have_written_the_same(index, tmp_path):
    faiss = pytest.importorskip("faiss")
    dump_faiss(index, tmp_path / "x.faiss")
    read = faiss.read_index(str(tmp_path / "x.faiss"))
    assert isinstance(read, faiss.IndexFlatIP)
    assert (read.ntotal, read.d) == (38, 8)
    query = index.vector(20)[None]
    scores, positions = read.search(query, 5)
    hits = index.search(query, 5)[0]
    assert [LIVE[i] for i in positions[0]] == [hit.row for hit in hits]
    np.testing.assert_allclose(scores[0], [hit.score for hit in hits], atol=1e-6)
    own = faiss.IndexFlatIP(8)
    own.add(np.asarray(index.vectors[LIVE], np.float32))
    faiss.write_index(own, str(tmp_path / "own.faiss"))
    assert (tmp_path / "own.faiss").read_bytes() == (tmp_path / "x.faiss").read_bytes()


def lines_of(path):
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


@thin
def test_a_csv_table(index, tmp_path):
    assert dump_table(index, tmp_path / "x.csv") == 38
    first, second, *_ = lines_of(tmp_path / "x.csv")
    assert os.fsencode(first["path"]) == ODD
    assert [second[name] for name in ("row", "path", "size", "width", "height")] == [
        "1",
        "/p/001.jpg",
        "101",
        "20",
        "20",
    ]
    assert json.loads(second["metadata"])["caption"] == "picture 1"


def test_a_parquet_table(index, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    dump_table(index, tmp_path / "x.parquet")
    found = pq.read_table(tmp_path / "x.parquet").to_pydict()
    assert found["row"] == LIVE
    assert found["path_bytes"][0] == ODD
    assert found["path"][0] == '/p/caf\\xe9, "x"\n.jpg'
    assert found["path"][1] == "/p/001.jpg"
    assert found["mtime_ns"][1] == 86_400 * 10**9


@pytest.mark.torch
def test_a_torch_cache(index, tmp_path):
    torch = pytest.importorskip("torch")
    from clipdex_export.torch_cache import dump_torch

    assert dump_torch(index, tmp_path / "x.pt") == 38
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    assert sorted(found) == ["embeddings", "paths"]
    assert found["embeddings"].dtype == torch.float32
    np.testing.assert_array_equal(found["embeddings"].numpy(), index.vectors[LIVE].astype(np.float32))
    assert os.fsencode(found["paths"][0]) == ODD
    assert found["paths"][1] == "/p/001.jpg"
    ranked = clipdex.search.topk.top_k(found["embeddings"].numpy(), index.vector(20)[None], 1)
    assert found["paths"][ranked[0].rows[0]] == "/p/020.jpg"
    assert dump_torch(index, tmp_path / "none.pt", index.where("0")) == 0
    assert torch.load(tmp_path / "none.pt", weights_only=True)["embeddings"].shape == (0, 8)


def writer_of(kind):
    if kind == "pt":
        pytest.importorskip("torch")
        from clipdex_export.torch_cache import dump_torch

        return dump_torch
    return {"npy": dump_npy, "faiss": dump_faiss, "csv": dump_table}[kind]


KINDS = [
    *(pytest.param(kind, marks=thin) for kind in ("npy", "faiss", "csv")),
    pytest.param("pt", marks=pytest.mark.torch),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_write_leaves_the_old_file(index, tmp_path, monkeypatch, kind):
    write = writer_of(kind)
    out = tmp_path / "out"
    out.mkdir()
    path = out / f"x.{kind}"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipdex.base.replacing.os.fsync", full)
    with pytest.raises(ClipdexError, match=rf"x\.{kind}: .* cannot be written: No space left"):
        write(index, path)
    assert path.read_text() == "old"
    assert os.listdir(out) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [0, 600])
def test_a_full_disk_leaves_the_old_file(index, tmp_path, monkeypatch, kind, room):
    """It is full as soon as the new file has so many bytes."""
    write, path = writer_of(kind), tmp_path / f"x.{kind}"
    path.write_text("old")
    before = sorted(os.listdir(tmp_path))

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + memoryview(data).nbytes > room:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr("clipdex.base.replacing.os.fdopen", Full)
    with pytest.raises(ClipdexError, match=rf"x\.{kind}: .* cannot be written: No space left"):
        write(index, path)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("kind", KINDS)
def test_folders_on_the_way_are_made(index, tmp_path, kind):
    assert writer_of(kind)(index, tmp_path / "new" / "er" / f"x.{kind}") == 38
    assert os.listdir(tmp_path / "new" / "er") == [f"x.{kind}"]


@thin
def test_a_table_of_another_kind(index, tmp_path):
    with pytest.raises(InvalidArgument, match=r"\.parquet or \.csv"):
        dump_table(index, tmp_path / "x.json")


@thin
def test_without_pyarrow_a_parquet_says_what_to_install(index, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(clipdex.MissingExtra, match=r"clipdex\[tables\]"):
        dump_table(index, tmp_path / "x.parquet")


# The command.


def test_dump_by_command(run, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("dump", "x.clipdex", "v.npy")[:2] == (0, "v.npy: 38 × 8; paths in v.csv\n")
    assert np.load("v.npy").shape == (38, 8)
    assert len(lines_of(tmp_path / "v.csv")) == 38
    words = ("dump", "x.clipdex", "some.faiss", "--table", "t.csv", "--where", "name = :n", "--param", "n=005.jpg")
    assert run(*words)[1] == "some.faiss: 1 × 8; paths in t.csv\n"
    assert [line["row"] for line in lines_of(tmp_path / "t.csv")] == ["5"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("x.clipdex", "v.txt"), "expected .npy, .faiss or .pt"),
        (("x.clipdex", "v.npy", "--table", "t.txt"), ".parquet or .csv"),
        (("x.clipdex", "v.npy", "--where", "1;"), "not a condition in SQL"),
        (("x.clipdex", "v.npy", "--param", "a=1"), "--where is not given"),
        (("nothing", "v.npy"), "there is no such index"),
        (("x.clipdex", "x.clipdex/manifest.json/v.npy", "--table", "t.csv"), "cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence(run, index, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("dump", *words)
    assert (status, out) == (1, "")
    assert err.startswith("clipdex: ")
    assert err.count("\n") == 1
    assert says in err
    assert not list(tmp_path.glob("v.*"))
