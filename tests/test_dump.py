"""An index in other programs' formats: what each alone does; test_contract_dump.py has what all of them do."""

import csv
import io
import json
import os
import sqlite3
import struct
import sys
from contextlib import closing

import numpy as np
import pytest
from drawn_index import LIVE, ODD, index_with_dead_rows

import clipdex
from clipdex import Index, InvalidArgument, dump_faiss, dump_npy, dump_table

thin = pytest.mark.thin


@pytest.fixture
def index(tmp_path):
    with Index.open(index_with_dead_rows(tmp_path / "x.clipdex")) as index:
        yield index


@thin
def test_npy_has_the_rows_in_the_index_s_own_dtype_and_can_be_mapped(index, tmp_path):
    assert dump_npy(index, tmp_path / "x.npy") == 38
    found = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, index.vectors[LIVE])


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


@pytest.mark.torch
def test_a_torch_cache_gives_no_vector_the_path_of_another(tmp_path):
    """A record that is gone would move up the paths of all rows behind it."""
    pytest.importorskip("torch")
    from clipdex_export.torch_cache import dump_torch

    directory = index_with_dead_rows(tmp_path / "x.clipdex")
    with closing(sqlite3.connect(directory / "rows.sqlite")) as rows, rows:
        rows.execute("DELETE FROM rows WHERE row = 3")
    with Index.open(directory) as index:
        for dump in (dump_torch, dump_table):
            out = tmp_path / f"{dump.__name__}.csv"
            with pytest.raises(clipdex.IndexDamaged, match="row 3 has no record of its picture"):
                dump(index, out)
            assert not out.exists()


@thin
def test_a_table_of_another_kind(index, tmp_path):
    with pytest.raises(InvalidArgument, match=r"\.parquet or \.csv"):
        dump_table(index, tmp_path / "x.json")


@thin
def test_without_pyarrow_a_parquet_says_what_to_install(index, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(clipdex.MissingExtra, match=r"\[tables\]"):
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
