"""The commands that look after an index: info, failures, verify, compact, and index's less common ways."""

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
from conftest import noise

import clipdex
from clipdex import Client, Index
from clipdex.cli import connection_options as connection
from clipdex.wire import FakeTransport


@pytest.fixture(autouse=True)
def fake_server(monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))


@pytest.fixture
def index(run, pictures, tmp_path, monkeypatch):
    """Twelve files: ten indexed, two in the ledger."""
    monkeypatch.chdir(tmp_path)
    (pictures / "3.png").write_text("no picture")
    (pictures / "5.png").write_bytes(b"")
    assert run("index", "pictures", "-o", "x.clipdex")[0] == 0
    return tmp_path / "x.clipdex"


def test_info(run, index):
    status, out, _ = run("info", "x.clipdex")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0
    assert lines["rows"] == "10"
    assert lines["tombstones"] == "0"
    assert lines["failures"] == "2: 1 empty, 1 not_a_picture"
    assert lines["model"].startswith("fake, fingerprint ")
    assert lines["vectors"] == "8 × float16"
    assert re.search(r"last commit +20\d\d-", out)


def test_info_as_json(run, index):
    found = json.loads(run("info", "x.clipdex", "--json")[1])
    assert (found["rows"], found["failures"]) == (10, {"empty": 1, "not_a_picture": 1})
    assert found["embedding_dim"] == 8


def test_failures_as_lines_and_as_json(run, index):
    _, out, _ = run("failures", "x.clipdex")
    first, second = out.splitlines()
    assert first.startswith("pictures/3.png: not_a_picture: ")
    assert second == "pictures/5.png: empty: the file is empty"
    found = json.loads(run("failures", "x.clipdex", "--json")[1])
    assert [os.path.basename(f["path"]) for f in found] == ["3.png", "5.png"]
    assert [f["retry_may_help"] for f in found] == [False, False]


def test_failures_tried_again(run, index, pictures):
    noise(77).save(pictures / "3.png")
    status, out, _ = run("failures", "x.clipdex", "--retry")
    assert status == 0
    assert out.splitlines()[0] == "2 retried: 1 indexed, 1 failed"
    assert out.splitlines()[1].startswith("pictures/5.png: empty")
    with Index.open(index) as opened:
        assert (len(opened), len(opened.failures())) == (11, 1)


def test_no_failures(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("index", "pictures", "-o", "x.clipdex")
    for words in (("failures", "x.clipdex"), ("failures", "x.clipdex", "--retry")):
        assert run(*words)[0] == 0
    assert run("failures", "x.clipdex")[1] == "no failures in x.clipdex\n"


def test_verify_of_a_sound_index(run, index):
    status, out, err = run("verify", "x.clipdex")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"x\.clipdex: sound \(10 rows in 1 commit, 0\.0 MB of vectors\)\n", out)


@pytest.mark.parametrize("kept", [0, 1, -1], ids=["nothing", "part of a row", "all but a byte"])
def test_verify_of_a_cut_index_does_not_advise_what_cannot_be_done(run, index, kept):
    vectors = Path("x.clipdex", "vectors.f16")
    os.truncate(vectors, kept % vectors.stat().st_size)
    status, _, err = run("verify", "x.clipdex")
    assert status == 1
    assert "are incomplete: the file was cut; restore it from a copy, or build the index again" in err
    assert "embeds" not in err and "reshape" not in err
    assert run("index", "pictures", "-i", "x.clipdex")[0] == run("compact", "x.clipdex")[0] == 1


def test_verify_of_a_damaged_index_names_the_pictures(run, index):
    with (index / "vectors.f16").open("r+b") as file:
        file.write(b"\xff")
    status, out, err = run("verify", "x.clipdex")
    assert status == 1
    assert "1 damaged" in out
    assert "vectors.f16: rows 0 to 9 are not what was committed" in err
    assert "row 0: " in err
    assert "Traceback" not in err


def test_compact(run, index, pictures):
    (pictures / "1.png").unlink()
    _, out, _ = run("index", "pictures", "-o", "x.clipdex")
    assert "; 1 vanished, in " in out
    assert run("compact", "x.clipdex")[1] == "x.clipdex: 1 tombstone dropped\n"
    assert run("compact", "x.clipdex")[1] == "x.clipdex: no tombstones\n"


def test_a_dry_run_counts_what_will_be_tried_again(run, index):
    _, out, _ = run("index", "pictures", "-o", "x.clipdex", "--dry-run", "--retry")
    assert out == (
        "12 pictures found: 0 new, 0 changed, 10 unchanged, 0 failed before, 2 to be retried; "
        "nothing was done to x.clipdex\n"
    )


@pytest.mark.parametrize(
    "words", [("index", "pictures", "-o", "x.clipdex"), ("failures", "x.clipdex", "--retry")], ids=" ".join
)
def test_a_second_writer_is_told_so_though_no_server_answers(run, index, monkeypatch, words):
    monkeypatch.setattr(connection, "connect", lambda *args, **options: pytest.fail("asked"))
    with clipdex.IndexWriter(index):
        status, _, err = run(*words)
    assert status == 1
    assert "is being written to by process" in err


def test_files_that_could_not_be_looked_at_are_counted(run, index, pictures):
    (pictures.parent / "list").write_text("pictures/1.png\npictures/more/9.jpg\n")
    (pictures / "more").rename(pictures.parent / "not mounted")
    _, out, _ = run("index", "--files-from", "list", "-o", "x.clipdex")
    assert out.startswith(
        "2 pictures found: 0 indexed, 2 unchanged (1 of them could not be checked), 0 failed, in "
    )


def test_a_dry_run_does_nothing(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run("index", "pictures", "-o", "x.clipdex", "--dry-run")
    assert out == (
        "12 pictures found: 12 new, 0 changed, 0 unchanged, 0 failed before; nothing was done to x.clipdex\n"
    )
    assert os.listdir(tmp_path) == ["pictures"]


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_list_of_paths(run, pictures, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    names = b"pictures/1.png\npictures/2.png\n"
    (tmp_path / "list.txt").write_bytes(names)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
    _, out, _ = run("index", "--files-from", "list.txt" if how == "file" else "-", "-o", "x.clipdex")
    assert out.startswith("2 pictures found: 2 indexed, 0 unchanged, 0 failed, in ")


def test_recognised_files_are_counted(run, index, pictures):
    (pictures / "1.png").rename(pictures / "a.png")
    _, out, _ = run("index", "pictures", "-o", "x.clipdex")
    assert out.startswith("12 pictures found: 1 indexed (1 of them recognised by content), 9 unchanged, 2 failed")


def test_limits_are_settings(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, out, err = run("index", "pictures", "-o", "x.clipdex", "--max-pixels", "100")
    assert out.startswith("12 pictures found: 0 indexed, 0 unchanged, 12 failed")
    assert "too_many_pixels" in err
    assert "... and 7 more:  clipdex failures --index x.clipdex" in err


@pytest.mark.parametrize(
    "words",
    [
        ("index", "-o", "x.clipdex"),
        ("index", "pictures", "--files-from", "list", "-o", "x.clipdex"),
        ("index", "--files-from", "nothing", "-o", "x.clipdex"),
        ("index", "pictures", "-o", "x.clipdex", "--file-timeout", "0"),
        ("info", "nothing.clipdex"),
        ("failures", "nothing.clipdex"),
        ("verify", "nothing.clipdex"),
        ("compact", "nothing.clipdex"),
        ("compact", "pictures"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_sentence(run, pictures, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert err.startswith("clipdex: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["pictures"]
    assert "writer.lock" not in os.listdir(tmp_path / "pictures")


def test_an_index_being_written_to_is_not_compacted(run, index):
    manifest = clipdex.Manifest.read(index)
    with clipdex.IndexWriter.open_or_create(index, manifest):
        status, _, err = run("compact", "x.clipdex")
    assert status == 1
    assert "is being written to by process" in err


@pytest.mark.slow
def test_retry_tries_again_what_failed_and_has_not_changed(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ", 12 failed" in run("index", "pictures", "-o", "x.clipdex", "--max-pixels", "10")[1]
    assert " 0 indexed, 0 unchanged, 12 failed" in run("index", "pictures", "-o", "x.clipdex")[1]
    assert " 12 indexed, 0 unchanged, 0 failed" in run("index", "pictures", "-o", "x.clipdex", "--retry")[1]


def test_check_content_is_passed_on(run, index):
    _, out, _ = run("index", "pictures", "-o", "x.clipdex", "--dry-run", "--check", "content")
    assert "0 changed, 10 to be read and compared, 0 unchanged, 0 failed before, 2 to be retried" in out
    assert "10 unchanged, 2 failed" in run("index", "pictures", "-o", "x.clipdex", "--check", "content")[1]


def test_what_is_passed_over_is_said_before_the_last_line(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        (pictures / f"{i}.ARW").touch()
    noise(1).save(pictures / "0_thumb.png")
    (pictures / "@eaDir").mkdir()
    for words in (("--dry-run",), ()):
        status, out, err = run("index", "pictures", "-o", "x.clipdex", "--exclude", "*_thumb.png", *words)
        assert (status, out.count("\n")) == (0, 1)
        assert out.startswith("12 pictures found: ")
        assert "6 other files were skipped: 6 .ARW\n" in err
        assert "1 picture and 1 folder: 0_thumb.png, @eaDir/\n" in err
    (tmp_path / "list").write_text("pictures/0.png\n")
    status, _, err = run("index", "--files-from", "list", "-o", "x.clipdex", "--hidden")
    assert status == 1
    assert "apply to folders" in err


def test_hidden_and_left_out_rows_are_counted_in_the_last_line(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise(50).save(pictures / ".a.png")
    assert ": 13 indexed" in run("index", "pictures", "-o", "x.clipdex", "--hidden")[1]
    dry = run("index", "pictures", "-o", "x.clipdex", "--dry-run")[1]
    assert "0 failed before; 1 to be removed because they are left out now; nothing was done" in dry
    assert (
        "0 failed; 1 removed because they are left out now, in" in run("index", "pictures", "-o", "x.clipdex")[1]
    )


@pytest.mark.slow
def test_pictures_and_a_quoted_glob_as_sources(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("index", "pictures/0.png", "pictures/1.png", "-o", "x.clipdex")[1].startswith("2 pictures found")
    assert run("index", "pictures/**/*.jpg", "-o", "x.clipdex")[1].startswith("3 pictures found")
    status, _, err = run("index", "pictures/*.gif", "-o", "x.clipdex")
    assert (status, err.count("\n")) == (1, 1)
    assert "no picture matches" in err
    assert run("index", "pictures/nothing.png", "-o", "x.clipdex")[0] == 1


@pytest.mark.slow
def test_a_run_names_the_folder_that_was_moved_and_forget_drops_it(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("index", "pictures", "-o", "x.clipdex")
    pictures.rename(tmp_path / "my new place")
    _, _, err = run("index", "my new place", "-o", "x.clipdex")
    assert (
        "12 pictures are below pictures, which is gone or empty:  clipdex forget --index x.clipdex pictures\n"
        in err
    )
    status, out, err = run("forget", "x.clipdex", "--missing")
    assert (status, out) == (1, "")
    assert "is a disk not mounted?" in err
    _, out, err = run("forget", "x.clipdex", "pictures", "--dry-run")
    assert out == "12 pictures and 0 failures would be forgotten; nothing was done to x.clipdex\n"
    assert err == "9 in pictures\n3 in pictures/more\n"
    _, out, _ = run("forget", "x.clipdex", "--missing", "--yes")
    assert out == "12 pictures and 0 failures forgotten; x.clipdex no longer holds them\n"
    _, _, err = run("forget", "x.clipdex", "pictures")
    assert "has nothing at or below it; nothing was forgotten" in err
    assert "forget" in run("forget", "--help")[1]
    with Index.open("x.clipdex") as index:
        assert all(b"my new place" in path for _, path in index.live_paths())


def test_pictures_are_converted_by_their_profiles_if_the_command_says_so(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("index", "pictures", "-o", "x.clipdex", "--icc", "srgb")[0] == 0
    assert run("index", "pictures", "-o", "x.clipdex")[0] == 0
    assert "converted by profile to sRGB" in run("info", "x.clipdex")[1]
    status, out, err = run("index", "pictures", "-o", "x.clipdex", "--icc", "off")
    assert (status, out) == (1, "")
    assert "was created with icc srgb, but off is given" in err
    status, out, _ = run("classify", "pictures/1.png", "--labels", "a, b", "--icc", "srgb")
    assert status == 0 and out.startswith("pictures/1.png: ")


def test_large_jpegs_are_decoded_fast_if_the_command_says_so_and_the_index_tells(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    noise(1, (640, 480)).save("photos/1.jpg")
    assert run("index", "photos", "-o", "x.clipdex", "--decode", "fast")[0] == 0
    assert run("index", "photos", "-o", "x.clipdex")[0] == 0
    assert "decoded        fast: large JPEGs at a reduced size\n" in run("info", "x.clipdex")[1]
    assert json.loads(run("info", "x.clipdex", "--json")[1])["decode"] == "fast"
    assert run("verify", "x.clipdex")[1].endswith("of vectors, of pictures decoded fast)\n")
    assert json.loads(run("verify", "x.clipdex", "--json")[1])["decode"] == "fast"
    status, out, err = run("index", "photos", "-o", "x.clipdex", "--decode", "exact")
    assert (status, out) == (1, "")
    assert "x.clipdex was created with decode fast, but exact is given: " in err and err.count("\n") == 1
    assert "leave decode out, or build another index" in err
    status, out, _ = run("classify", "photos/1.jpg", "--labels", "a, b", "--decode", "fast")
    assert status == 0 and out.startswith("photos/1.jpg: ")
