"""The command line: what it prints, its exit status, and one sentence for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import MODEL_REPOSITORY, noise
from PIL import Image, ImageDraw

import clipdex
from clipdex.cli.common import shown_path
from clipdex.cli.printing import printable
from clipdex.index import Manifest

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A red circle, a blue square, and some noise."""
    folder = tmp_path_factory.mktemp("photos")
    for name, draw in (("red", ImageDraw.ImageDraw.ellipse), ("blue", ImageDraw.ImageDraw.rectangle)):
        picture = Image.new("RGB", (256, 256), "white")
        draw(ImageDraw.Draw(picture), (64, 64, 192, 192), fill=name)
        picture.save(folder / f"{name}.png")
    for i in range(4):
        noise(i).save(folder / f"noise{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def index(folder, triton, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "photos.clipdex"
    with clipdex.connect(triton.address) as client:
        clipdex.index_pictures(client, folder, path)
    return path


def assert_one_sentence(result, *parts):
    """Exit status 1, nothing printed as a result, one line that says what and where."""
    status, out, err = result
    assert status == 1
    assert out == ""
    assert err.startswith("clipdex: ")
    assert err.count("\n") == 1
    for part in parts:
        assert str(part) in err


def test_index_says_what_it_did(run, folder, triton, tmp_path):
    (tmp_path / "in").mkdir()
    for path in folder.iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "notes.jpg").write_text("no picture")
    status, out, err = run("index", tmp_path / "in", "--out", tmp_path / "x.clipdex", "--server", triton.address)
    assert status == 0
    assert re.fullmatch(
        r"7 pictures found: 6 indexed, 0 unchanged, 1 failed, in [\d.]+ s "
        r"\(indexing took [\d.]+ s: [\d.]+ images/s, shared memory\); .*x\.clipdex holds 6;  "
        r"clipdex failures --index \S+x\.clipdex  lists the failures\n",
        out,
    )
    assert "notes.jpg: not_a_picture" in err
    status, out, _ = run("index", tmp_path / "in", "--out", tmp_path / "x.clipdex", "--server", triton.address)
    assert out.startswith("7 pictures found: 0 indexed, 6 unchanged, 1 failed, in ")


def test_search_prints_scores_and_paths_from_here(run, folder, index, triton, monkeypatch):
    monkeypatch.chdir(folder.parent)
    status, out, _ = run("search", "a red circle", "--index", index, "--top-k", "3", "--server", triton.address)
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 3
    assert all(re.fullmatch(rf"-?\d\.\d{{3}} — {folder.name}/[\w.]+", line) for line in lines)
    scores = [float(line.split(" — ")[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)


def test_several_queries_give_several_rankings(run, index, triton):
    _, out, _ = run("search", "a red circle", "a blue square", "-i", index, "-k", 1, "-s", triton.address)
    assert [line for line in out.splitlines() if "—" not in line] == ["a red circle", "", "a blue square"]


def test_search_as_json(run, folder, index, triton):
    _, out, _ = run("search", "a red circle", "-i", index, "-k", "2", "-s", triton.address, "--json")
    (answer,) = json.loads(out)
    assert answer["query"] == "a red circle"
    assert [set(hit) for hit in answer["hits"]] == [{"score", "path", "row"}] * 2
    assert all(os.path.dirname(hit["path"]) == str(folder) for hit in answer["hits"])


def test_search_writes_a_contact_sheet(run, index, triton, tmp_path):
    sheet = tmp_path / "sheet.html"
    run("search", "a red circle", "-i", index, "-s", triton.address, "--html", sheet)
    page = sheet.read_text()
    assert page.count("<img ") == 5
    assert "a red circle" in page


def test_retrieve_speaks_as_the_original_did_and_embeds_once(run, folder, triton, monkeypatch):
    monkeypatch.chdir(folder.parent)
    words = ("retrieve", "--prompt", "a red circle", "--images_dir", folder.name, "--top_k", "2")
    monkeypatch.setenv("CLIPDEX_SERVER", triton.address)
    status, first, _ = run(*words)
    assert status == 0
    assert all(re.fullmatch(rf"-?\d\.\d{{3}} — {folder.name}/[\w.]+", line) for line in first.splitlines())
    monkeypatch.setattr("clipdex.Client.submit_pixels", lambda *args: pytest.fail("embedded again"))
    assert run(*words)[1] == first


def test_version_and_help(run):
    assert run("--version")[1] == f"clipdex {clipdex.__version__}\n"
    for command in ("index", "search", "retrieve", "serve", "export", "demo"):
        status, out, _ = run(command, "--help")
        assert status == 0
        assert "Usage: clipdex " + command in out


# Bad input: one clear sentence, a non-zero exit, nothing lost.


def test_no_server(run, folder, index, tmp_path):
    words = ("no server answers at 127.0.0.1:9", "clipdex serve")
    assert_one_sentence(run("index", folder, "-o", tmp_path / "x", "-s", "127.0.0.1:9"), *words)
    assert_one_sentence(run("search", "x", "-i", index, "-s", "127.0.0.1:9"), *words)
    assert not (tmp_path / "x").exists()


def test_model_unknown(run, folder, triton, tmp_path):
    result = run("index", folder, "-o", tmp_path / "x", "-s", triton.address, "-m", "nope")
    assert_one_sentence(result, "no model 'nope'", "it has demo")


def test_index_of_another_model(run, folder, triton, tmp_path):
    other = Manifest(fingerprint="a" * 64, model="demo", embedding_dim=128)
    with clipdex.IndexWriter.open_or_create(tmp_path / "x", other):
        pass
    with clipdex.connect(triton.address) as client:
        served = client.card.fingerprint[:12]
    for words in (("index", folder, "-o", tmp_path / "x"), ("search", "a", "-i", tmp_path / "x")):
        assert_one_sentence(run(*words, "-s", triton.address), "a" * 12, served, tmp_path / "x")


@pytest.mark.parametrize("kind", ["missing", "empty", "no-picture"])
def test_a_folder_without_pictures(run, triton, tmp_path, kind):
    folder = tmp_path / kind
    if kind != "missing":
        folder.mkdir()
    if kind == "no-picture":
        (folder / "notes.txt").write_text("hello")
    assert_one_sentence(run("index", folder, "-o", tmp_path / "x", "-s", triton.address), folder)
    assert_one_sentence(run("retrieve", "--prompt", "a", "--images_dir", folder, "-s", triton.address), folder)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("top_k", [0, -2])
def test_top_k_out_of_range(run, index, triton, top_k):
    result = run("search", "a", "-i", index, "-s", triton.address, "--top-k", top_k)
    assert_one_sentence(result, f"top_k is {top_k}", "1 or more")


def test_what_is_no_index(run, folder, tmp_path):
    assert_one_sentence(run("search", "a", "-i", tmp_path / "nothing"), "there is no such index")
    assert_one_sentence(run("search", "a", "-i", folder), "is not a clipdex index")
    assert_one_sentence(run("search", "a", "-i", folder / "red.png"), "is a file")


@pytest.mark.parametrize("what", ["short", "newer"])
def test_an_index_that_cannot_be_used(run, index, triton, tmp_path, what):
    copy = tmp_path / "copy.clipdex"
    copy.mkdir()
    for path in index.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    if what == "short":
        (copy / "vectors.f16").write_bytes(b"")
        says = "rows of 256 bytes were committed"
    else:
        manifest = copy / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 9'))
        says = "format version 9, this clipdex reads 1"
    assert_one_sentence(run("search", "a", "-i", copy, "-s", triton.address), copy, says)


def test_a_repository_without_models(run, tmp_path):
    assert_one_sentence(run("serve", "--repository", tmp_path, "--port", "0"), tmp_path)
    assert_one_sentence(run("serve", "--repository", tmp_path / "nothing", "--port", "0"), tmp_path / "nothing")
    assert_one_sentence(run("search", "a", "-i", tmp_path, "-s", f"inproc:{tmp_path}"), tmp_path)
    assert_one_sentence(run("demo", "--repository", tmp_path, "--out", tmp_path / "demo"), tmp_path)


def test_an_empty_query(run, index, triton, folder):
    assert_one_sentence(run("search", " ", "-i", index, "-s", triton.address), "query is empty")
    assert_one_sentence(
        run("retrieve", "--prompt", "", "--images_dir", folder, "-s", triton.address), "prompt is empty"
    )


def test_a_contact_sheet_that_cannot_be_written(run, index, triton, folder):
    status, _, err = run("search", "a", "-i", index, "-s", triton.address, "--html", folder / "red.png" / "x.html")
    assert status == 1
    assert "the contact sheet cannot be written" in err


def test_a_checkpoint_that_is_not_there(run, tmp_path):
    pytest.importorskip("torch")
    status, out, err = run("export", tmp_path / "nothing", "--name", "x", "--repository", tmp_path / "r")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("clipdex: ")
    assert str(tmp_path / "nothing") in err
    assert "Traceback" not in err


# Things that need a process of their own.


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "clipdex", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_and_ends_when_told(ending):
    with start("serve", "--repository", MODEL_REPOSITORY, "--port", "0") as process:
        line = process.stdout.readline()
        found = re.fullmatch(r"Triton 2[\d.]+ serves demo at (127\.0\.0\.1:\d+); stop it with Ctrl-C\n", line)
        assert found, line + process.stderr.read()
        assert process.stdout.readline() == "demo is computed by onnxruntime: its configuration names it\n"
        with clipdex.connect(found[1]) as client:
            assert client.server.name == "triton"
        process.send_signal(ending)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert err == "stopped\n"


def test_a_port_in_use_is_said(run, triton):
    port = triton.address.rpartition(":")[2]
    assert_one_sentence(run("serve", "--repository", MODEL_REPOSITORY, "--port", port), port)


@pytest.mark.slow
def test_ctrl_c_while_indexing_says_how_to_go_on(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(300):
        noise(i, size=(300, 300)).save(folder / f"{i}.png")
    index = tmp_path / "x.clipdex"
    with start("index", folder, "-o", index, "-s", f"inproc:{MODEL_REPOSITORY}", "--workers", "1") as process:
        deadline = time.monotonic() + 30
        while not index.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    with clipdex.Index.open(index) as opened:
        assert len(opened) < 300


def test_what_a_terminal_must_not_be_told():
    assert printable("a\x1b[31m\nb\udce9\u202e") == r"a\x1b[31m\nb\xe9\u202e"
    assert printable("Käse 日本 🎈") == "Käse 日本 🎈"


def test_a_path_is_shown_as_one_would_type_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_path(str(tmp_path / "a" / "b.jpg")) == "a/b.jpg"
    assert shown_path("/etc/motd") == "/etc/motd"
