"""CSV and TSV files whose rows name pictures, with captions kept beside them."""

import os
import sys

import numpy as np
import pytest
from conftest import noise

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.sources import open_source
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


def run(source, index, transport=None, **options):
    with Client(transport or FakeTransport()) as client:
        return index_pictures(client, source, index, workers=1, **options)


def said(index):
    with Index.open(index) as opened:
        query = np.eye(1, opened.manifest.embedding_dim, dtype=np.float32)
        return {os.path.basename(hit.path): hit.metadata for hit in opened.search(query, len(opened))[0]}


def ledger(index):
    with Index.open(index) as opened:
        return {os.path.basename(os.fsdecode(f.path)): f.reason for f in opened.failures()}


@pytest.fixture
def folder(tmp_path):
    """Three pictures, and room for a table beside them."""
    (tmp_path / "sub").mkdir()
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        noise(i).save(tmp_path / name)
    return tmp_path


def test_paths_are_meant_from_the_table_and_other_columns_are_kept(folder, monkeypatch):
    (folder / "t.csv").write_text(
        f'id,image,caption\n1,a.png,"a cat, ""asleep"""\n2,sub/c.png,\n3,{folder}/b.png,"two\nlines, café"\n'
    )
    monkeypatch.chdir("/")
    assert run(folder / "t.csv", folder / "x").indexed == 3
    assert said(folder / "x") == {
        "a.png": {"id": "1", "caption": 'a cat, "asleep"'},
        "c.png": {"id": "2"},
        "b.png": {"id": "3", "caption": "two\nlines, café"},
    }
    with Index.open(folder / "x") as opened:
        assert [path for _, path in opened.live_paths()] == [
            os.fsencode(folder / name) for name in ("a.png", "sub/c.png", "b.png")
        ]


def test_a_mark_before_the_first_column_and_tabs(folder):
    (folder / "t.tsv").write_bytes(b"\xef\xbb\xbfpath\ttxt\na.png\tone, two\n")
    run(folder / "t.tsv", folder / "x")
    assert said(folder / "x") == {"a.png": {"txt": "one, two"}}


def test_names_that_are_not_utf8(folder):
    name = b"caf\xe9.png"
    os.rename(folder / "a.png", os.path.join(os.fsencode(folder), name))
    (folder / "t.csv").write_bytes(b"path,txt\n" + name + b",was \xe9\n")
    run(folder / "t.csv", folder / "x")
    assert said(folder / "x") == {os.fsdecode(name): {"txt": "was \udce9"}}


def test_captions_of_pictures_that_are_there_already(folder):
    """No picture is decoded or embedded again; a folder that knows no captions leaves them."""
    run(folder, folder / "x")
    (folder / "t.csv").write_text("path,txt\na.png,first\nb.png,second\n")
    transport = FakeTransport()
    assert run(folder / "t.csv", folder / "x", transport).unchanged == 2
    assert said(folder / "x") == {"a.png": {"txt": "first"}, "b.png": {"txt": "second"}, "c.png": None}
    (folder / "t.csv").write_text("path,txt\na.png,new\nb.png,\n")
    run(folder / "t.csv", folder / "x", transport)
    run(folder, folder / "x", transport)
    assert said(folder / "x") == {"a.png": {"txt": "new"}, "b.png": None, "c.png": None}
    assert "fake_image" not in [model for model, _ in transport.requests]


def test_bad_rows_are_in_the_ledger_until_they_are_mended(folder):
    (folder / "t.csv").write_text("txt,path\nx,a.png\ny,\n\nz\nv,gone.png\nw,a.png\nu,sub\n")
    report = run(folder / "t.csv", folder / "x")
    assert (report.discovered, report.indexed, report.failed) == (5, 1, 4)
    assert ledger(folder / "x") == {"1": "empty", "3": "empty", "gone.png": "vanished", "sub": "not_a_file"}
    assert said(folder / "x") == {"a.png": {"txt": "x"}}  # the first of two rows that name it
    (folder / "t.csv").write_text("txt,path\nx,a.png\ny,b.png\n\nz\n")
    report = run(folder / "t.csv", folder / "x")
    assert (report.indexed, report.failed, report.removed) == (1, 1, 0)
    assert ledger(folder / "x")["3"] == "empty"
    assert "1" not in ledger(folder / "x")


def test_a_table_that_breaks_off_gives_what_it_has(folder):
    (folder / "t.csv").write_text('path,txt\na.png,fine\nb.png,"never closed\n')
    report = run(folder / "t.csv", folder / "x")
    assert (report.indexed, report.failed) == (1, 1)
    assert ledger(folder / "x") == {"t.csv": "broken_container"}
    (folder / "t.csv").write_text('path,txt\na.png,fine\nb.png,"closed"\n')
    report = run(folder / "t.csv", folder / "x")
    assert (report.indexed, report.unchanged, report.failed) == (1, 1, 0)
    assert ledger(folder / "x") == {}


def test_a_long_field_is_left_out_and_a_huge_one_ends_the_table(folder):
    rows = [
        f"{name},{'x' * length},1\n"
        for name, length in (("a.png", 70_000), ("b.png", 1 << 20), ("c.png", 17 << 20))
    ]
    (folder / "t.csv").write_text("path,txt,n\n" + "".join(rows))
    report = run(folder / "t.csv", folder / "x")
    assert said(folder / "x") == {"a.png": {"n": "1"}, "b.png": {"n": "1"}}
    assert (report.failed, ledger(folder / "x")) == (1, {"t.csv": "broken_container"})


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("a,b\n1,2\n", None, r"say with --column .* its columns are 'a', 'b'"),
        ("a,b\n1,2\n", "c", r"has no column 'c'; its columns are 'a', 'b'"),
        ("", None, r"its columns are none"),
        ("path,x\n", None, r"the column 'path' names no file"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(folder, text, column, words):
    (folder / "t.csv").write_text(text)
    with pytest.raises(clipdex.SourceError, match=words) as caught:
        run(open_source(folder / "t.csv", column=column), folder / "x")
    assert str(folder / "t.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "x").exists()


def test_a_column_by_name(folder):
    (folder / "t.csv").write_text("path,mine\nb.png,a.png\n")
    run(open_source(folder / "t.csv", column="mine"), folder / "x")
    assert said(folder / "x") == {"a.png": {"path": "b.png"}}


def test_parquet_without_pyarrow_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "clipdex.sources.parquet_table", raising=False)
    (folder / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(clipdex.MissingExtra, match=r"pip install 'clipdex\[tables\]'"):
        open_source(folder / "t.parquet")
