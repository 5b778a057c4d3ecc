"""`clipdex search`: mixtures, filters, pages, groups, and the forms that answers take."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import noise

from clipdex import Client, Index, IndexWriter, Manifest, Picture, mix
from clipdex.base.errors import InvalidArgument
from clipdex.cli import connection_options as connection
from clipdex.cli.query_options import parameters
from clipdex.wire import FakeTransport


@pytest.fixture
def transport(monkeypatch):
    transport = FakeTransport()
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(transport, model=model))
    return transport


@pytest.fixture
def index(transport, tmp_path, monkeypatch):
    """Twenty drawn pictures, of which c.png stands three times; one has a name that is not UTF-8."""
    monkeypatch.chdir(tmp_path)
    names = [b"caf\xe9.png", *(f"{i:02}.png".encode() for i in range(1, 18)), b"c.png", b"c2.png", b"c3.png"]
    images = [noise(min(i, 18)) for i in range(21)]
    with (
        Client(transport) as client,
        IndexWriter.open_or_create(tmp_path / "x.clipdex", Manifest.of(client.card)) as writer,
    ):
        pictures = []
        for i, (name, image) in enumerate(zip(names, images, strict=True)):
            path = os.path.join(os.fsencode(tmp_path), name)
            image.save(os.fsdecode(path), "PNG")
            metadata = json.dumps({"caption": f"picture {i}"}) if i < 3 else None
            pictures.append(Picture(path, i, i * 10**9, bytes([min(i, 18)]) * 16, 40 + i, 30, metadata))
        writer.append(pictures, client.embed_images(images))
    return tmp_path / "x.clipdex"


def found(run, *words):
    status, out, err = run("search", "-i", "x.clipdex", *words, "--json")
    assert status == 0, err
    return json.loads(out)


def rows(answer):
    return [hit["row"] for hit in answer["hits"]]


def test_a_mixture_is_one_ranking(run, index, transport):
    (answer,) = found(
        run, "--text", "beach", "--minus", "people:0.25", "--image", "05.png:0.5", "--like", "2", "-k", 20
    )
    assert answer["query"] == "beach − 0.25 × people + 0.5 × 05.png + row 2"
    with Client(transport) as client, Index.open(index) as opened:
        beach, people = client.embed_texts(["beach", "people"])
        (picture,) = client.embed_images(["05.png"])
        query = mix([beach, people, picture, opened.vectors[2]], [1, -0.25, 0.5, 1])
        expected = [hit.row for hit in opened.search(query, 21)[0] if hit.row != 2]
    assert rows(answer) == expected
    assert 2 not in rows(answer)


def test_a_picture_finds_itself(run, index):
    (answer,) = found(run, "--image", "07.png", "-k", 1)
    assert rows(answer) == [7]
    assert answer["hits"][0]["score"] > 0.999


def test_more_like_an_indexed_picture_asks_no_server(run, index, transport, monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda *_, **__: pytest.fail("connected"))
    (by_row,) = found(run, "--like", "4")
    (by_path,) = found(run, "--like", "04.png")
    assert rows(by_row) == rows(by_path)
    assert 4 not in rows(by_row)


def test_texts_by_themselves_are_rankings_of_their_own_and_keep_their_colons(run, index):
    one, other = found(run, "ratio:0.5", "beach")
    assert (one["query"], other["query"]) == ("ratio:0.5", "beach")
    assert rows(one) != rows(other)


def test_pages_filters_and_a_least_score(run, index):
    (whole,) = found(run, "beach", "-k", 21)
    (page,) = found(run, "beach", "-k", 5, "--offset", 5)
    assert rows(page) == rows(whole)[5:10]
    least = whole["hits"][3]["score"]
    (near,) = found(run, "beach", "--min-score", repr(least), "-k", 21)
    assert rows(near) == rows(whole)[:4]
    (some,) = found(
        run, "beach", "-k", 21, "--where", "width < :w AND name GLOB :n", "--param", "w=45", "--param", "n=0*"
    )
    assert sorted(rows(some)) == [1, 2, 3, 4]


def test_nothing_found_is_said(run, index):
    assert run("search", "beach", "-i", "x.clipdex", "--where", "0") == (
        0,
        "",
        "no picture of the index matches the query and its conditions\n",
    )


def test_copies_stand_below_their_picture(run, index):
    status, out, _ = run("search", "--image", "c.png", "-i", "x.clipdex", "--group", "-k", 2)
    assert status == 0
    first, second, third, fourth = out.splitlines()
    assert re.fullmatch(r"1\.000 — c\.png", first)
    assert (second.strip(), third.strip()) == ("= c2.png", "= c3.png")
    assert "—" in fourth
    (answer,) = found(run, "--image", "c.png", "--group", "-k", 2)
    assert [copy["row"] for copy in answer["hits"][0]["copies"]] == [19, 20]


def test_grouping_by_cosine(run, index):
    (answer,) = found(run, "--image", "c.png", "--group-cosine", "0.0001", "-k", 21)
    with Index.open(index) as opened:
        near = opened.vectors.astype(np.float64) @ opened.vectors[18].astype(np.float64) > 0
    assert len(answer["hits"][0]["copies"]) >= near.sum() - 1 >= 3


@pytest.mark.slow
def test_csv_has_the_bytes_of_a_path(index):
    words = ("search", "-i", "x.clipdex", "--like", "1", "-k", "20", "--csv")
    done = subprocess.run([sys.executable, "-m", "clipdex", *words], capture_output=True, check=True)
    lines = list(csv.DictReader(io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline="")))
    assert [line["rank"] for line in lines] == [str(rank) for rank in range(1, 21)]
    (odd,) = (line for line in lines if line["row"] == "0")
    assert os.fsencode(odd["path"]).endswith(b"/caf\xe9.png")
    assert json.loads(odd["metadata"]) == {"caption": "picture 0"}


def test_an_arrow_file(run, index):
    pa = pytest.importorskip("pyarrow")
    status, _, err = run("search", "-i", "x.clipdex", "--like", "18", "--group", "-k", 1, "--arrow", "x.arrow")
    assert (status, err) == (0, "Arrow file: x.arrow\n")
    with pa.memory_map("x.arrow") as source:
        table = pa.ipc.open_file(source).read_all().to_pydict()
    assert (table["row"], table["copy_of"]) == ([19, 20], [None, 19])


def test_a_contact_sheet_says_how_many_copies(run, index):
    run(
        "search",
        "-i",
        "x.clipdex",
        "--image",
        "c.png",
        "--group",
        "-k",
        1,
        "--where",
        "width > 1",
        "--html",
        "x.html",
    )
    page = (index.parent / "x.html").read_text()
    assert "+ 2 copies" in page
    assert "c2.png" in page
    assert "21 pictures in x.clipdex, 21 of them where width &gt; 1" in page


def test_a_contact_sheet_links_to_the_files_unless_told_not_to(run, index):
    words = ("search", "-i", "x.clipdex", "--image", "c.png", "-k", 21, "--html", "x.html")
    run(*words)
    page = (index.parent / "x.html").read_text()
    links = re.findall('href="file://([^"]*)"', page)
    assert len(links) == 21
    assert f"{index.parent}/caf%E9.png" in links
    assert 'alt="c.png, result 1 for “' in page
    status, _, _ = run(*words, "--no-links")
    assert status == 0
    page = (index.parent / "x.html").read_text()
    assert page.count("<img ") == 21
    assert "href" not in page


@pytest.mark.parametrize("words", [("search", "a", "-i", "x.clipdex"), ("duplicates", "x.clipdex")])
def test_no_links_without_a_contact_sheet_is_a_mistake(run, index, words):
    assert run(*words, "--no-links") == (
        1,
        "",
        "clipdex: --no-links is for the contact sheet, but --html is not given\n",
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "there is no query"),
        (("beach", "--minus", "people"), "write  --text 'beach'"),
        (("--text", " "), "is empty"),
        (("--text", "beach:0"), "the weight of 'beach' is 0"),
        (("--text", "beach", "--minus", "beach"), "cancel each other out"),
        (("--image", "nothing.png"), "nothing.png"),
        (("--image", "x.clipdex"), "x.clipdex"),
        (("--like", "99"), "no picture in row 99"),
        (("--like", "nothing.png"), "nothing.png is not a picture in x.clipdex"),
        (("a", "--where", "1; DROP TABLE rows"), "not a condition in SQL"),
        (("a", "--where", "width > :w"), "was not given"),
        (("a", "--where", "width > :w", "--param", "w"), "is not NAME=VALUE"),
        (("a", "--param", "w=1"), "--where is not given"),
        (("a", "--min-score", "2"), "min_score is 2.0"),
        (("a", "--offset", "-1"), "offset is -1"),
        (("a", "--top-k", "0", "--offset", "1"), "top_k is 0"),
        (("a", "--group-cosine", "2"), "the cosine to group by is 2"),
        (("a", "--json", "--csv"), "choose one"),
        (("a", "--arrow", "x.clipdex"), "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence(run, index, words, says):
    status, out, err = run("search", "-i", "x.clipdex", *words)
    assert status == 1
    assert err.startswith("clipdex: ")
    assert err.count("\n") == 1
    assert says in err
    assert out == "" or "--arrow" in words


def test_values_of_parameters():
    words = ["a=1", "b=-2.5", 'c="1"', "d=x=y", "e=", ":f=1e5", "g=1.5e2", 'h="', "i=٣"]
    expected = {"a": 1, "b": -2.5, "c": "1", "d": "x=y", "e": "", "f": "1e5", "g": 150.0, "h": '"', "i": "٣"}
    assert parameters(words) == expected
    with pytest.raises(InvalidArgument):
        parameters(["=1"])


def test_case_05_a_text_that_is_cut_is_told(run, index):
    long = "a black heart " * 40 + "no, rather a yellow star on a green ground"
    status, out, err = run("search", long, "--index", "x.clipdex", "--json")
    assert status == 0
    assert err.count("\n") == 1 and "longer than the model's context" in err and "warnings.warn" not in err
    assert json.loads(out)[0]["cut"][0].endswith("a yellow star on a green ground")
    status, out, err = run("search", "a heart", "--index", "x.clipdex", "--json")
    assert (status, err) == (0, "") and "cut" not in json.loads(out)[0]


def test_case_05_each_query_has_its_own_cut_and_is_tokenized_once(run, index, monkeypatch):
    import clipdex.model.tokenizer

    asked, encode = [], clipdex.model.tokenizer.Tokenizer.encode
    monkeypatch.setattr(
        clipdex.model.tokenizer.Tokenizer, "encode", lambda self, texts: encode(self, asked.append(texts) or texts)
    )
    long = "a black heart " * 40
    status, out, _ = run("search", "a heart", long + "red", "a star", "--index", "x.clipdex", "--json")
    first, second, third = json.loads(out)
    assert status == 0 and second["cut"][0].endswith("red") and "cut" not in first and "cut" not in third
    assert len(asked) == 1
    words = ("--text", "a star", "--text", long + "red", "--minus", long + "blue")
    status, out, _ = run("search", *words, "--index", "x.clipdex", "--json")
    (answer,) = json.loads(out)
    assert status == 0 and [cut[-4:].strip() for cut in answer["cut"]] == ["red", "blue"]
    assert len(asked) == 2


def test_case_08_a_top_k_above_the_number_of_pictures_gives_what_there_is(run, index):
    status, out, err = run("search", "a heart", "--index", "x.clipdex", "-k", "500")
    assert (status, err, out.count("\n")) == (0, "", 21)


def test_the_name_of_a_picture_given_as_a_text_is_told_and_the_right_option_with_it(run, index):
    for words in (["01.png"], ["--text", "01.png"]):
        status, _, err = run("search", *words, "-i", "x.clipdex")
        assert status == 0
        assert err == "01.png was taken as a text; to search by the picture in that file:  --image 01.png\n"
    assert run("search", "no.png", "-i", "x.clipdex")[2] == ""


def test_a_contact_sheet_says_nothing_of_odd_metadata(index):
    noise(1).save("01.png", "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    words = ["search", "-i", "x.clipdex", "--like", "2", "--where", "row = 1", "--html", "sheet.html"]
    ran = subprocess.run([sys.executable, "-m", "clipdex", *words], capture_output=True, text=True, check=True)
    assert "01.png" in ran.stdout
    assert "Warning" not in ran.stderr
    assert "EXIF" not in ran.stderr
