"""CSV and TSV files whose rows name pictures, with captions kept beside them."""

import csv
import json
import os
import sys

import numpy as np
import pytest
from conftest import no_failure, noise, present

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.base.records import Failure
from clipdex.base.text_files import read_lines
from clipdex.sources import PathList, ledger_source, open_source
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
    assert said(folder / "x") == {os.fsdecode(name): {"txt": "was \ufffd"}}


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
        ("a,b\n1,2\n", None, r"with --column.* its columns are 'a', 'b'"),
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
    with pytest.raises(clipdex.MissingExtra, match=r"pip install .*\[tables\]'"):
        open_source(folder / "t.parquet")


# What separates the cells


ROWS = [["image", "caption"], ["a.png", "a cat; black, asleep"], ["sub/c.png", "1,5"]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_case_06_csv_semicolon(folder, delimiter, quoting, suffix):
    with open(folder / f"t.{suffix}", "w", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(ROWS)
    files = list(open_source(folder / f"t.{suffix}").files(no_failure))
    assert [os.path.basename(file.path) for file in files] == [b"a.png", b"c.png"]
    assert [json.loads(present(file.metadata)) for file in files] == [{"caption": row[1]} for row in ROWS[1:]]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_case_06_excels_line_says_what_separates_the_cells(folder, first):
    (folder / "t.csv").write_text(f"{first}\r\nn;image\r\n1,5;a.png\r\n", "utf-8", newline="")
    (file,) = open_source(folder / "t.csv").files(no_failure)
    assert (file.path, file.metadata) == (os.fsencode(folder / "a.png"), '{"n":"1,5"}')


def test_a_delimiter_that_is_given_is_taken(folder):
    (folder / "t.csv").write_text("sep=;\npath:caption;a,b\na.png:x;y\n")
    (file,) = open_source(folder / "t.csv", delimiter=":").files(no_failure)
    assert file.metadata == '{"caption;a,b":"x;y"}'
    for wrong in ("", "::", '"', "\n"):
        with pytest.raises(clipdex.InvalidArgument, match="not one character"):
            open_source(folder / "t.csv", delimiter=wrong)


@pytest.mark.parametrize("text", ["foo;bar\na.png;x\n", '"foo";"bar"\na.png;x\n'])
def test_the_delimiter_that_seems_meant_is_named(folder, text):
    (folder / "t.csv").write_text(text)
    with pytest.raises(clipdex.SourceError, match=r"separated by ';', .* give --delimiter ';'") as caught:
        open_source(folder / "t.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(clipdex.SourceError, match=r"separated by ';'"):
        open_source(folder / "t.csv", column="foo", delimiter=",")


# What is no path


def test_case_07_url_column(folder, monkeypatch):
    """URLs fail for good, as they are; file: URLs and ~/ are paths."""
    (folder / "odd %.png").write_bytes((folder / "b.png").read_bytes())
    monkeypatch.setenv("HOME", str(folder / "sub"))
    name = "http://127.0.0.1:9/x%20y.png?q=1"
    rows = [name, f"file://{folder}/a.png", f"FILE://localhost{folder}/odd%20%25.png", "~/c.png", name, "s3://b"]
    (folder / "t.csv").write_text("url,n\n" + "".join(f"{row},{i}\n" for i, row in enumerate(rows)))
    (folder / "list").write_text("\n".join(rows))
    for source in (open_source(folder / "t.csv", column="url"), PathList.read(folder / "list")):
        failures: list[Failure] = []
        found = [os.fsdecode(file.path) for file in source.files(failures.append)]
        assert found == [f"{folder}/{name}" for name in ("a.png", "odd %.png", "sub/c.png")]
        assert [os.fsdecode(failure.path) for failure in failures] == [name, "s3://b"]
        assert {failure.reason for failure in failures} == {"not_a_path"}
        assert not failures[0].may_pass and "downloads nothing" in failures[0].detail
    with Client(FakeTransport()) as client:
        report = index_pictures(client, open_source(folder / "t.csv", column="url"), folder / "x", workers=1)
        assert (report.discovered, report.indexed, report.failed) == (5, 3, 2)
    with Index.open(folder / "x") as opened:
        with pytest.raises(
            clipdex.SourceError, match="the ledger: nothing in it can be retried"
        ):  # not by download either
            ledger_source(opened.failures(), "the ledger")
        assert sorted(os.fsdecode(failure.path) for failure in opened.failures()) == [name, "s3://b"]


@pytest.mark.parametrize("cell", ["file://server/x.png", "file://x.png", "data:image/png;base64,AAAA", "x" * 5000])
def test_what_else_is_no_path(folder, cell):
    (folder / "t.csv").write_text(f"path\n{cell}\n")
    failures: list[Failure] = []
    assert list(open_source(folder / "t.csv").files(failures.append)) == []
    assert [failure.reason for failure in failures] == ["not_a_path"]
    assert len(failures[0].path) < 4200


# Text as Windows writes it


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_case_22_list_with_bom(folder, encoding, end):
    os.rename(folder / "b.png", folder / "日本.png")
    text = end.join(["a.png", "日本.png", "sub/c.png", ""]).replace("a.png", f"{folder}/a.png")
    mark = "\ufeff" if encoding.endswith("e") else ""
    paths = [line if line.startswith("/") else f"{folder}/{line}" for line in text.split(end) if line]
    (folder / "list").write_bytes((mark + end.join(paths)).encode(encoding))
    found = [os.fsdecode(file.path) for file in PathList.read(folder / "list").files(no_failure)]
    assert found == [f"{folder}/{name}" for name in ("a.png", "日本.png", "sub/c.png")]


def test_utf16_without_its_mark_or_broken_is_refused_in_one_sentence():
    for data in ("a.png\nb.png".encode("utf-16-le"), "a.png\nb.png".encode("utf-16-be"), b"\xff\xfea\0b"):
        with pytest.raises(clipdex.SourceError, match=r"the list: .*save the list as UTF-8"):
            PathList.parse(data, "the list")
    failures: list[Failure] = []
    list(PathList.parse(b"a\0b\0c\0d\0e\0", "x").files(failures.append))
    assert len(failures) == 5  # names of one byte are a list


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_a_table_as_excel_saves_unicode_text(folder, encoding):
    (folder / "t.csv").write_text("path\tcaption\na.png\tcafé\n", encoding)
    (file,) = open_source(folder / "t.csv").files(no_failure)
    assert file.metadata == '{"caption":"café"}'


def test_a_table_that_is_not_what_its_mark_says_is_one_line(folder):
    (folder / "t.csv").write_bytes("path,caption\na.png,x\n".encode("utf-16") + b"\n")
    failures: list[Failure] = []
    list(open_source(folder / "t.csv").files(failures.append))
    assert [failure.reason for failure in failures] == ["broken_container"]
    (folder / "t.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(clipdex.SourceError, match="first line cannot be read"):
        open_source(folder / "t.csv")


def test_lines_of_a_text_file(tmp_path):
    file = tmp_path / "labels"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes(" café \r\n\r\na dog".encode(encoding))
        assert read_lines(file) == ["café", "a dog"]
    file.write_bytes(b"a cat\ncaf\xe9\n")
    with pytest.raises(clipdex.InvalidArgument, match=r"labels: cannot be read: it is not UTF-8 \(in line 2\)"):
        read_lines(file)
    with pytest.raises(clipdex.InvalidArgument, match="No such file"):
        read_lines(tmp_path / "nothing")
