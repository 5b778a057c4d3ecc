"""Answers as JSON, CSV and Arrow."""

import csv
import io
import json
import os

import pytest

from clipdex import ClipdexError, Hit
from clipdex.apps.results import Answer, as_csv, as_json, write_arrow

ODD = os.fsdecode(b'/p/caf\xe9 "x", y\nz.jpg')
COPY = Hit(2, 0.25, ODD)
ANSWERS = [
    Answer("a, b", [Hit(1, 0.5, "/p/日本.jpg", {"caption": 'a "b"\n'}, (COPY,)), Hit(3, 1 / 3, "/p/c.jpg")], 10),
    Answer("nothing", []),
]

thin = pytest.mark.thin


@thin
def test_json_is_a_list_of_queries_and_hits():
    found = json.loads("".join(as_json(ANSWERS)))
    assert found == [
        {
            "query": "a, b",
            "hits": [
                {
                    "score": 0.5,
                    "path": "/p/日本.jpg",
                    "row": 1,
                    "metadata": {"caption": 'a "b"\n'},
                    "copies": [{"score": 0.25, "path": ODD, "row": 2}],
                },
                {"score": 1 / 3, "path": "/p/c.jpg", "row": 3},
            ],
        },
        {"query": "nothing", "hits": []},
    ]
    assert json.loads("".join(as_json([]))) == []


@thin
def test_csv_has_a_line_a_picture_and_the_bytes_of_its_path():
    written = b"".join(as_csv(ANSWERS))
    assert b"caf\xe9" in written
    lines = list(csv.DictReader(io.StringIO(written.decode("utf-8", "surrogateescape"), newline="")))
    assert [(line["rank"], line["row"], line["copy_of"]) for line in lines] == [
        ("11", "1", ""),
        ("11", "2", "1"),
        ("12", "3", ""),
    ]
    assert [line["path"] for line in lines] == ["/p/日本.jpg", ODD, "/p/c.jpg"]
    assert float(lines[2]["score"]) == 1 / 3
    assert json.loads(lines[0]["metadata"]) == {"caption": 'a "b"\n'}


def test_arrow_has_paths_as_text_and_as_bytes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    write_arrow(tmp_path / "x.arrow", ANSWERS)
    with pa.memory_map(str(tmp_path / "x.arrow")) as source:
        table = pa.ipc.open_file(source).read_all().to_pydict()
    assert table["path_bytes"] == ["/p/日本.jpg".encode(), os.fsencode(ODD), b"/p/c.jpg"]
    assert table["path"] == ["/p/日本.jpg", '/p/caf\\xe9 "x", y\nz.jpg', "/p/c.jpg"]
    assert table["copy_of"] == [None, 1, None]
    assert table["rank"] == [11, 11, 12]
    assert table["score"] == [0.5, 0.25, 1 / 3]
    assert json.loads(table["metadata"][0]) == {"caption": 'a "b"\n'}


def test_an_arrow_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.arrow"
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(ClipdexError, match=r"x\.arrow: the Arrow file cannot be written: No space left"):
        write_arrow(path, ANSWERS)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.arrow"]


@thin
def test_without_pyarrow_arrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ClipdexError, match=r"pip install .*\[tables\]'"):
        write_arrow(tmp_path / "x.arrow", ANSWERS)
    assert os.listdir(tmp_path) == []
