"""`clipdex index` with folders, shards and tables; what it prints, and the mistakes that are easily made."""

import io
import json
import os
import sys
import tarfile

import pytest
from conftest import noise

from clipdex import Client
from clipdex.cli import connection_options as connection
from clipdex.wire import FakeTransport


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """An empty folder to work in, and a server that is not one."""
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shards(here):
    """Two shards of two pictures, each with its caption."""
    (here / "shards").mkdir()
    for s in range(2):
        with tarfile.open(here / "shards" / f"{s}.tar", "w") as tar:
            for i in range(2):
                buffer = io.BytesIO()
                noise(10 * s + i).save(buffer, "PNG")
                for name, data in ((f"{i}.png", buffer.getvalue()), (f"{i}.txt", b"picture %d of %d" % (i, s))):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return here / "shards"


def test_shards_by_name_and_by_folder(run, shards):
    _, out, _ = run("index", *sorted(shards.iterdir()), "-o", "x.clipdex")
    assert out.startswith("4 pictures found: 4 indexed, 0 unchanged, 0 failed, in ")
    _, out, _ = run("index", "shards", "--tar", "-o", "x.clipdex")
    assert out.startswith("4 pictures found: 0 indexed, 4 unchanged, 0 failed, in ")
    (shards / "0.tar").unlink()
    _, out, _ = run("index", "shards", "--tar", "-o", "x.clipdex")
    assert "; 2 vanished, in " in out
    assert out.endswith("x.clipdex holds 2\n")


def test_a_folder_a_shard_and_a_table_in_one_go(run, shards, here):
    (here / "photos").mkdir()
    noise(50).save(here / "photos" / "a.png")
    noise(51).save(here / "b.png")
    (here / "t.csv").write_text("image,caption\nb.png,the second\nphotos/a.png,the first\n")
    _, out, _ = run("index", "photos", "shards/0.tar", "t.csv", "-o", "x.clipdex", "--dry-run")
    assert out.startswith("4 pictures found: 4 new,")
    _, out, _ = run("index", "photos", "shards/0.tar", "t.csv", "-o", "x.clipdex")
    assert out.startswith("4 pictures found: 4 indexed, 0 unchanged, 0 failed, in ")


def test_what_two_sources_name_counts_once(run, here):
    (here / "photos").mkdir()
    noise(50).save(here / "photos" / "a.png")
    os.mkfifo(here / "photos" / "fifo.png")
    _, out, _ = run("index", "photos", "photos/../photos", "-o", "x.clipdex")
    assert out.startswith("2 pictures found: 1 indexed, 0 unchanged, 1 failed, in ")


def test_what_is_kept_with_a_picture_is_in_the_json(run, shards, here):
    noise(50).save(here / "a.png")
    (here / "t.csv").write_text("photo,caption,licence\na.png,café,CC0\n")
    run("index", "shards/0.tar", "t.csv", "--column", "photo", "-o", "x.clipdex")
    (answer,) = json.loads(run("search", "anything", "-i", "x.clipdex", "--json")[1])
    assert {hit["path"].rpartition("/")[2]: hit["metadata"] for hit in answer["hits"]} == {
        "0.png": {"txt": "picture 0 of 0"},
        "1.png": {"txt": "picture 1 of 0"},
        "a.png": {"caption": "café", "licence": "CC0"},
    }


def test_a_hit_inside_a_shard_is_shown_from_here_and_on_the_contact_sheet(run, shards, here):
    run("index", "shards/1.tar", "-o", "x.clipdex")
    _, out, _ = run("search", "anything", "-i", "x.clipdex", "--html", "sheet.html")
    assert sorted(line.split(" — ")[1] for line in out.splitlines()) == [
        "shards/1.tar!/0.png",
        "shards/1.tar!/1.png",
    ]
    assert (here / "sheet.html").read_text().count("<img ") == 2


@pytest.mark.slow
def test_failures_inside_shards_and_damaged_shards_are_tried_again(run, shards):
    whole = (shards / "0.tar").read_bytes()
    (shards / "0.tar").write_bytes(whole[:7000])
    run("index", "shards", "--tar", "-o", "x.clipdex")
    _, out, _ = run("failures", "x.clipdex")
    assert out.startswith("shards/0.tar: broken_container: it ")
    (shards / "0.tar").write_bytes(whole)
    _, out, _ = run("failures", "x.clipdex", "--retry")
    assert ": 1 indexed, 0 failed" in out
    assert run("failures", "x.clipdex")[1] == "no failures in x.clipdex\n"


def test_what_cannot_be_opened_again_is_named_and_kept(run, shards, here):
    """And hinders nothing else: a table whose column has no usual name, and one that is no table any more."""
    noise(50).save(here / "a.png")
    (here / "t.csv").write_text('photo,txt\na.png,"never closed\n')
    (here / "u.csv").write_text("photo\n\n,\n")
    run("index", "t.csv", "u.csv", "--column", "photo", "-o", "x.clipdex")
    before = run("failures", "x.clipdex")[1]
    assert "t.csv: broken_container" in before and "u.csv!/photo/1: empty" in before
    (here / "u.csv").write_text("other\n")
    status, out, err = run("failures", "x.clipdex", "--retry")
    assert (status, out) == (1, "")
    assert err.count("not retried: ") == 2
    assert "the ledger of x.clipdex: nothing in it can be retried" in err
    assert run("failures", "x.clipdex")[1] == before
    (here / "t.csv").write_text("photo,txt\na.png,closed\n")
    status, out, err = run("failures", "x.clipdex", "--retry", "--column", "photo")
    assert (status, out.splitlines()[0]) == (0, "1 retried: 1 indexed, 0 failed")
    assert err.startswith("not retried: ") and "u.csv: has no column 'photo'" in err
    assert run("failures", "x.clipdex")[1].splitlines() == before.splitlines()[1:]


@pytest.mark.slow
def test_a_table_that_needs_pyarrow_does_not_hinder_the_others(run, shards, here, monkeypatch):
    noise(50).save(here / "a.png")
    (here / "list").write_text("a.png\nb.png\nt.parquet\n")
    (here / "t.parquet").write_bytes(b"PAR1")
    run("index", "--files-from", "list", "-o", "x.clipdex")
    noise(51).save(here / "b.png")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "clipdex.sources.parquet_table", raising=False)
    status, out, err = run("failures", "x.clipdex", "--retry")
    assert (status, out.splitlines()[0]) == (0, "1 retried: 1 indexed, 0 failed")
    assert err.startswith("not retried: ") and "t.parquet: reading Parquet needs pyarrow" in err
    assert "t.parquet: not_a_picture" in out


@pytest.mark.slow
def test_a_row_that_has_a_path_by_now_is_found_by_the_ledger(run, here):
    for name in "ab":
        noise(ord(name)).save(here / f"{name}.png")
    (here / "t.csv").write_text("path,n\na.png,1\n,2\n")
    run("index", "t.csv", "-o", "x.clipdex")
    (here / "t.csv").write_text("path,n\na.png,1\nb.png,2\n")
    status, out, _ = run("failures", "x.clipdex", "--retry")
    assert (status, out) == (0, "2 retried: 1 indexed, 0 failed\n")
    assert run("failures", "x.clipdex")[1] == "no failures in x.clipdex\n"


def test_case_12_members_that_were_not_looked_at_are_counted(run, here):
    with tarfile.open(here / "0.tar", "w") as tar:
        for i, name in enumerate(("0.png", "1.img", "2.img")):
            buffer = io.BytesIO()
            noise(i).save(buffer, "PNG")
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    status, _, err = run("index", "0.tar", "-o", "x.clipdex")
    assert (status, err) == (0, "2 other files were skipped: 2 .img\n")


def test_case_09_a_folder_of_shards_is_taken_and_that_is_said(run, shards):
    status, out, err = run("index", "shards", "-o", "x.clipdex")
    assert (status, out[:17]) == (0, "4 pictures found:")
    assert err == "clipdex: shards: holds no picture itself; using its 2 .tar files\n"
    _, out, _ = run("index", "shards/{0..1}.tar", "-o", "x.clipdex")
    assert out.startswith("4 pictures found: 0 indexed, 4 unchanged")
    status, _, err = run("index", "shards/{0..2}.tar", "-o", "y.clipdex")
    assert (status, err) == (1, "clipdex: shards/2.tar: no such file or directory\n")


def test_case_07_a_url_keeps_its_slashes_and_is_no_source(run, here):
    (here / "t.csv").write_text("path\nhttps://example.org/a.png\n")
    status, _, err = run("index", "t.csv", "-o", "x.clipdex")
    assert err.startswith("failed: https://example.org/a.png: not_a_path: is a URL")
    assert status == 0
    assert run("failures", "x.clipdex")[1].startswith("https://example.org/a.png: not_a_path: is a URL")
    status, _, err = run("index", "ftp://example.org/0.tar", "-o", "y.clipdex")
    assert (status, "clipdex downloads nothing" in err, err.count("\n")) == (1, True, 1)


@pytest.mark.slow
def test_case_06_the_delimiter_by_option(run, here):
    noise(50).save(here / "a.png")
    (here / "t.csv").write_text("photo:n\na.png:1\n")
    _, _, err = run("index", "t.csv", "-o", "x.clipdex", "--column", "photo")
    assert "has no column 'photo'" in err
    _, out, _ = run("index", "t.csv", "-o", "x.clipdex", "--column", "photo", "--delimiter", ":")
    assert out.startswith("1 picture found: 1 indexed")
    (here / "u.csv").write_text("photo\tn\na.png\t1\n")
    _, out, _ = run("index", "u.csv", "-o", "y.clipdex", "--column", "photo", "--delimiter", "tab")
    assert out.startswith("1 picture found: 1 indexed")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nothing.tar",), "nothing.tar: no such file or directory"),
        (("nothing",), "nothing: no such file or directory"),
        (("notes.txt",), "notes.txt: is neither a folder nor a .tar, .csv, .tsv or .parquet file"),
        (("t.csv",), "its columns are 'a', 'b'"),
        (("t.csv", "--column", "c"), "t.csv: has no column 'c'; its columns are 'a', 'b'"),
        (("x.tar.gz",), "x.tar.gz: pictures in a compressed tar cannot be read"),
        (("empty",), "empty: holds no picture"),
        (("empty", "--tar"), "empty: no .tar file in it holds a picture"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence_and_makes_no_index(run, shards, here, words, says):
    (here / "notes.txt").write_text("a.png\n")
    (here / "t.csv").write_text("a,b\n1,2\n")
    (here / "x.tar.gz").write_bytes(b"\x1f\x8b")
    (here / "empty").mkdir()
    status, out, err = run("index", *words, "-o", "x.clipdex")
    assert (status, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1
    assert not (here / "x.clipdex").exists()
