"""Folders of shards and tables, and many shards by one name in braces."""

import io
import logging
import os
import tarfile

import pytest
from conftest import noise, png

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.sources import Folder, open_source, open_sources
from clipdex.sources.globs import expanded
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


def write_shard(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(seed))
        tar.addfile(info, io.BytesIO(png(seed)))
    return path


def write_table(path, *seeds, **columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [png(seed) for seed in seeds]} | columns), path)
    return path


def run(source, index):
    with Client(FakeTransport()) as client:
        return index_pictures(client, source, index, workers=1)


def names(source, on_failure=pytest.fail):
    return [os.fsdecode(file.path) for file in source.files(on_failure)]


def test_case_09_folder_of_shards(tmp_path, caplog):
    """A dataset of Hugging Face's: the tables in a folder without pictures are taken, and that is said."""
    train = write_table(tmp_path / "snap" / "data" / "train-00000-of-00002.parquet", 0, 1)
    write_table(tmp_path / "snap" / "data" / "train-00001-of-00002.parquet", 2)
    (tmp_path / "snap" / "README.md").write_text("of what it holds")
    with caplog.at_level(logging.WARNING, "clipdex"):
        assert run(tmp_path / "snap", tmp_path / "x").indexed == 3
    assert f"{tmp_path}/snap: holds no picture itself; using its 2 .parquet files" in caplog.messages
    assert names(open_source(tmp_path / "snap"))[0] == f"{train}!/image/0"
    assert run(tmp_path / "snap", tmp_path / "x").unchanged == 3
    train.unlink()
    report = run(tmp_path / "snap", tmp_path / "x")
    assert (report.unchanged, report.removed, report.rows) == (1, 2, 1)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_nothing_is_gone_with_the_folder_itself(tmp_path, kind):
    """A disk that is unmounted after the scan takes its folder with it, or leaves another in its place."""
    shards = tmp_path / "shards"
    write_shard(shards / "0.tar", 0) if kind == "tar" else write_table(shards / "0.parquet", 0)
    source = open_source(shards)
    (path,) = [file.path for file in source.files(lambda failure: pytest.fail(str(failure)))]
    shards.rename(tmp_path / "away")
    assert source.vanished([path]) == []
    shards.mkdir()
    assert source.vanished([path]) == []
    shards.rmdir()
    (tmp_path / "away").rename(shards)
    next(shards.iterdir()).unlink()
    assert source.vanished([path]) == [path]


def test_a_table_of_a_folder_that_is_damaged_has_one_line_until_it_is_mended(tmp_path):
    good = write_table(tmp_path / "snap" / "0.parquet", 0)
    bad = write_table(tmp_path / "snap" / "1.parquet", 1)
    other = write_table(tmp_path / "snap" / "2.parquet", 2)
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    report = run(tmp_path / "snap", tmp_path / "x")
    assert (report.indexed, report.failed) == (2, 1)
    bad.write_bytes(whole)
    report = run(tmp_path / "snap", tmp_path / "x")
    assert (report.indexed, report.failed, report.removed) == (1, 0, 0)
    with Index.open(tmp_path / "x") as opened:
        assert opened.failures() == []
    for each in (good, bad, other):
        each.write_bytes(b"PAR1")
    with pytest.raises(clipdex.SourceError, match=r"0\.parquet: cannot be read as Parquet"):
        open_source(tmp_path / "snap")


def test_a_folder_of_tables_without_the_column_says_which(tmp_path):
    write_table(tmp_path / "snap" / "0.parquet", 0)
    with pytest.raises(clipdex.SourceError, match=r"0\.parquet: has no column 'photo'; its columns are 'image'"):
        open_source(tmp_path / "snap", column="photo")


def test_img2datasets_folder_is_its_tars(tmp_path, caplog):
    for i in range(2):
        write_shard(tmp_path / "out" / f"{i:05}.tar", i)
        (tmp_path / "out" / f"{i:05}.parquet").write_bytes(b"what it knows of the shard")
        (tmp_path / "out" / f"{i:05}_stats.json").write_text("{}")
    with caplog.at_level(logging.WARNING, "clipdex"):
        assert run(tmp_path / "out", tmp_path / "x").indexed == 2
    assert "using its 2 .tar files" in caplog.text
    (tmp_path / "out" / "00001.tar").unlink()
    (tmp_path / "out" / "00001.parquet").unlink()
    assert run(tmp_path / "out", tmp_path / "x").removed == 1


def test_a_folder_with_one_picture_is_a_folder_of_pictures(tmp_path):
    write_shard(tmp_path / "out" / "0.tar", 0)
    (tmp_path / "out" / "z").mkdir()
    noise(1).save(tmp_path / "out" / "z" / "one.png")
    source = open_source(tmp_path / "out")
    assert isinstance(source, Folder)
    assert names(source) == [f"{tmp_path}/out/z/one.png"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            ["0.tar", "other.parquet"],
            r"holds no picture, but 1 \.tar file and 1 \.parquet file; add --tar .*or name",
        ),
        (["a.csv", "b.csv"], r"holds no picture, but 2 \.csv files; name the tables .* such as .*/a\.csv"),
        (["a.parquet", "b.tsv"], r"but 1 \.parquet file and 1 \.tsv file; name the tables"),
    ],
)
def test_a_folder_that_may_mean_several_things_says_what_lies_there(tmp_path, files, says):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(clipdex.SourceError, match=says):
        open_source(tmp_path)


def test_a_folder_with_nothing_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(clipdex.SourceError, match=r"holds no picture \(looked for"):
        run(tmp_path, tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{00098..00101}.tar", ["00098.tar", "00099.tar", "00100.tar", "00101.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..9..4}-{a,b}", ["0-a", "0-b", "4-a", "4-b", "8-a", "8-b"]),
        ("{train,val}/x", ["train/x", "val/x"]),
        ("x{,.bak}", ["x", "x.bak"]),
        ("{a..c}{C..A}", ["aC", "aB", "aA", "bC", "bB", "bA", "cC", "cB", "cA"]),
        ("{x}{}{0..}{a..B}{-1..1}", ["{x}{}{0..}{a..B}{-1..1}"]),
        ("{unclosed", ["{unclosed"]),
    ],
)
def test_what_braces_mean(text, expected):
    assert expanded(text) == expected


@pytest.mark.parametrize(
    "text", ["{0..100000}", "{0..999}{0..999}", "{0..999999999999999999}", "{1..0..0}{0..100000}"]
)
def test_braces_that_mean_too_much_are_refused(text):
    with pytest.raises(clipdex.InvalidArgument, match="more than 100,000 names"):
        expanded(text)


def test_shards_in_braces_become_an_index(tmp_path):
    shards = [write_shard(tmp_path / "s" / f"{i:05}.tar", i) for i in range(8, 12)]
    named = tmp_path / "s" / "{00008..00011}.tar"
    expected = [f"{shard}!/a.png" for shard in shards]
    assert names(open_source(named)) == expected
    assert names(open_sources([named])) == expected
    assert run(named, tmp_path / "x").indexed == 4
    (tmp_path / "{a,b}").mkdir()
    noise(60).save(tmp_path / "{a,b}" / "0.png")
    assert names(open_source(tmp_path / "{a,b}")) == [f"{tmp_path}/{{a,b}}/0.png"]  # a folder of that name
