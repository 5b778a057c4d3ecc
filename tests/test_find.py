"""`clipdex find`: model, index and answer in one command."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from conftest import MODEL_REPOSITORY
from PIL import Image, ImageDraw

import clipdex
import clipdex_export
import clipdex_server
from clipdex.apps.retrieval import cached_index
from clipdex.cli import find as find_command
from clipdex.cli import model_at_hand as model_command
from clipdex.index import Index, IndexWriter
from clipdex_export.catalogue import available_models, find_available

(DEFAULT,) = [model for model in available_models().models if model.name == available_models().default]
HIT = re.compile(r"-?\d\.\d{3} — \S+")


def draw(folder: Path) -> Path:
    """A red circle, a blue square and a green triangle, one of them in a subfolder."""
    (folder / "more").mkdir(parents=True)
    for name, kind in (("red", "ellipse"), ("blue", "rectangle"), ("more/green", "polygon")):
        picture = Image.new("RGB", (256, 256), "white")
        shape = [(128, 40), (216, 216), (40, 216)] if kind == "polygon" else (64, 64, 192, 192)
        getattr(ImageDraw.Draw(picture), kind)(shape, fill=Path(name).name)
        picture.save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and the index of it that a first call makes: starting decoders takes longer than most tests."""
    folder = draw(tmp_path_factory.mktemp("indexed") / "photos")
    with clipdex.connect(f"inproc:{MODEL_REPOSITORY}") as client:
        path = tmp_path_factory.mktemp("index") / cached_index(client, folder).name
        clipdex.index_pictures(client, folder, path, dtype="float32")
    return folder, path


@pytest.fixture
def folder(indexed: tuple[Path, Path], cache: Path) -> Path:
    """A folder whose index is in the cache."""
    folder, path = indexed
    shutil.copytree(path, cache / "indexes" / path.name)
    return folder


@pytest.fixture
def new_folder(tmp_path: Path) -> Path:
    """A folder without an index."""
    return draw(tmp_path / "photos")


def install_demo_as(name: str, repository: Path) -> None:
    """The demo model in a repository, under another name."""
    for part in ("image", "text", "assets"):
        shutil.copytree(MODEL_REPOSITORY / f"demo_{part}", repository / f"{name}_{part}")
        config = repository / f"{name}_{part}" / "config.pbtxt"
        config.write_text(config.read_text().replace(f'"demo_{part}"', f'"{name}_{part}"'))


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names given to an export, which installs the demo model instead."""
    asked: list[str] = []

    def export_model(source: str, *, name: str, repository: Path, progress: object) -> None:
        asked.append(source)
        install_demo_as(name, repository)

    monkeypatch.setattr(clipdex_export, "export_model", export_model)
    return asked


def answering(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(model_command, "_somebody_can_answer", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))


def notes(err: str) -> str:
    """What was noted, but for the line that says what the demo model is."""
    return "".join(line for line in err.splitlines(keepends=True) if "the demo model, which knows" not in line)


def never(*args: object, **options: object) -> None:
    pytest.fail("called")


def test_one_command_indexes_a_folder_and_answers(run, new_folder, monkeypatch):
    monkeypatch.chdir(new_folder.parent)
    status, out, err = run("find", "a red circle", "photos", "-k", 2, "-r", MODEL_REPOSITORY)
    assert status == 0
    assert [HIT.fullmatch(line) is not None for line in out.splitlines()] == [True, True]
    assert out.splitlines()[0].endswith("photos/red.png")
    assert notes(err).startswith("3 pictures found: 3 indexed, ")
    # A second call embeds no picture, and says nothing of indexing.
    monkeypatch.setattr("clipdex.Client.submit_pixels", never)
    status, again, err = run("find", "a red circle", "photos", "-k", 2, "-r", MODEL_REPOSITORY)
    assert (status, again, notes(err)) == (0, out, "")
    assert "this is the demo model, which knows drawn shapes only" in err


@pytest.mark.slow
def test_the_index_is_brought_up_to_date(run, new_folder):
    folder = new_folder
    words = ("find", "a red circle", folder, "-r", MODEL_REPOSITORY)
    run(*words)
    shutil.copy(folder / "red.png", folder / "red too.png")
    (folder / "blue.png").unlink()
    (folder / "broken.png").write_bytes(b"no picture")
    status, out, err = run(*words)
    assert status == 0
    assert {line.rpartition("/")[2] for line in out.splitlines()} == {"red.png", "red too.png", "green.png"}
    assert "1 vanished" in err
    assert re.search(r"^1 file could not be read:  clipdex failures .*\.clipdex$", err, re.M)


def test_a_run_that_is_to_be_quiet_says_nothing_of_files_that_could_not_be_read(run, new_folder):
    (new_folder / "broken.png").write_bytes(b"no picture")
    status, out, err = run("--quiet", "find", "a red circle", new_folder, "-r", MODEL_REPOSITORY)
    assert (status, len(out.splitlines()), err) == (0, 3, "")


def test_a_condition_is_not_blamed_if_none_was_given(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    status, out, err = run("find", "a", tmp_path / "photos", "-r", MODEL_REPOSITORY)
    assert (status, out) == (0, "")
    assert "\nnothing is indexed yet\n" in err and "condition" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("find", "a", ""),
        ("index", "", "-i", "x.clipdex"),
        ("index", "a", "", "-i", "x.clipdex"),
        ("classify", "", "--labels", "a,b"),
        ("retrieve", "--prompt", "a", "--images_dir", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(draw(tmp_path / "photos"))
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "it is empty; give the path of a file or folder, or . for the current folder" in err


def test_retrieve_and_find_keep_one_index(run, folder, monkeypatch, cache):
    monkeypatch.setattr("clipdex.Client.submit_pixels", never)
    status, out, _ = run(
        "retrieve", "--prompt", "a red circle", "--images_dir", folder, "-s", f"inproc:{MODEL_REPOSITORY}"
    )
    assert status == 0 and len(out.splitlines()) == 3
    assert run("find", "a red circle", folder, "-r", MODEL_REPOSITORY)[0] == 0
    assert len(list((cache / "indexes").iterdir())) == 1


def test_json_and_a_condition(run, folder):
    status, out, _ = run(
        "find", "a red circle", folder, "-r", MODEL_REPOSITORY, "--json", "--where", "path GLOB '*/more/*'"
    )
    (answer,) = json.loads(out)
    assert status == 0 and answer["query"] == "a red circle"
    assert [os.path.basename(hit["path"]) for hit in answer["hits"]] == ["green.png"]
    status, out, err = run("find", "a", folder, "-r", MODEL_REPOSITORY, "--where", "width > 9999")
    assert (status, out) == (0, "")
    assert "no picture of the folder matches the condition" in err


def test_a_contact_sheet_is_written_and_opened(run, folder, tmp_path, monkeypatch, cache):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    sheet = tmp_path / "sheet.html"
    run("find", "a red circle", folder, "-r", MODEL_REPOSITORY, "--html", sheet)
    assert sheet.read_text().count("<img ") == 3 and not opened
    _, _, err = run("find", "a blue square", folder, "-r", MODEL_REPOSITORY, "--open")
    assert opened == [(cache / "find.html").as_uri()]
    assert "a blue square" in (cache / "find.html").read_text()
    assert f"contact sheet: {cache / 'find.html'}" in err


@pytest.mark.triton
def test_a_running_server_is_used_if_it_is_named(run, folder, triton, monkeypatch):
    monkeypatch.setattr(find_command, "model_at_hand", never)
    status, out, _ = run("find", "a red circle", folder, "--server", triton.address)
    assert status == 0 and "red.png" in out.splitlines()[0]
    monkeypatch.setenv("CLIPDEX_SERVER", triton.address)
    assert run("find", "a red circle", folder)[1] == out


@pytest.mark.triton
def test_without_onnxruntime_a_triton_is_started(run, folder, triton, monkeypatch):
    started: list[tuple[Path, list[str]]] = []

    class Started:
        address = triton.address

        def __init__(self, repository, *, models, **options):
            started.append((repository, models))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(find_command, "is_installed", lambda module: False)
    monkeypatch.setattr(clipdex_server, "LocalTriton", Started)
    status, out, _ = run("find", "a red circle", folder, "-r", MODEL_REPOSITORY)
    assert status == 0 and "red.png" in out.splitlines()[0]
    assert started == [(MODEL_REPOSITORY, ["demo_image", "demo_text", "demo_assets"])]


def test_while_another_process_indexes_the_folder_what_it_has_is_searched(run, folder, cache):
    words = ("find", "a red circle", folder, "-r", MODEL_REPOSITORY)
    first = run(*words)
    (index,) = (cache / "indexes").iterdir()
    with Index.open(index) as opened:
        manifest = opened.manifest
    with IndexWriter.open_or_create(index, manifest):
        status, out, err = run(*words)
    assert (status, out) == (0, first[1])
    assert notes(err) == (
        "another process is indexing this folder: the results are from what it has indexed so far\n"
    )


def test_the_model_is_fetched_once_into_the_cache_after_asking_with_its_size(
    run, folder, exported, monkeypatch, cache
):
    answering(monkeypatch, "y\n")
    status, out, err = run("find", "a red circle", folder)
    assert status == 0 and "red.png" in out.splitlines()[0]
    assert exported == [DEFAULT.name]
    assert f"{DEFAULT.name} ({DEFAULT.title}; about {DEFAULT.download_mb:,} MB; licence MIT)" in err
    assert (cache / "models" / f"{DEFAULT.model_name}_image" / "config.pbtxt").exists()
    # The next call neither asks nor fetches.
    monkeypatch.setattr(model_command, "_somebody_can_answer", never)
    assert run("find", "a red circle", folder)[1] == out
    assert exported == [DEFAULT.name]


@pytest.mark.parametrize("answer", ["n\n", "what?\n", ""])
def test_who_does_not_say_yes_gets_nothing(run, folder, exported, monkeypatch, cache, answer):
    answering(monkeypatch, answer)
    status, out, err = run("find", "a red circle", folder)
    assert (status, out) == (1, "")
    assert err.endswith("[Y/n] clipdex: nothing was downloaded\n")
    assert not exported and not (cache / "models").exists()


def test_without_a_terminal_nobody_is_asked_and_the_sentence_says_what_to_run(run, folder, exported):
    status, out, err = run("find", "a red circle", folder)
    assert (status, out) == (1, "")
    what = f"{DEFAULT.name} ({DEFAULT.title}; about {DEFAULT.download_mb:,} MB; licence MIT)"
    assert err == (
        f"clipdex: the model {what} has to be downloaded first: the same command with --yes does so, and  clipdex "
        "models --available  lists others\n"
    )
    assert not exported
    assert run("find", "a red circle", folder, "--yes")[0] == 0
    assert exported == [DEFAULT.name]


def test_a_listed_model_is_fetched_by_its_name_and_found_again_by_it(run, folder, exported):
    for name in ("siglip2-b-16", "siglip2_b_16", "siglip2-b-16"):
        assert run("find", "a red circle", folder, "--model", name, "--yes")[0] == 0
    assert exported == ["siglip2-b-16"]
    # The only model of the cache is the one to take; of several, the default.
    assert run("find", "a red circle", folder)[0] == 0
    assert exported == ["siglip2-b-16"]
    assert run("find", "a red circle", folder, "--model", DEFAULT.name, "--yes")[0] == 0
    assert run("find", "a red circle", folder)[0] == 0
    assert exported == ["siglip2-b-16", DEFAULT.name]


def test_a_model_of_a_repository_is_taken_by_its_name(run, folder, tmp_path, exported):
    install_demo_as("one", tmp_path / "repository")
    words = ("find", "a red circle", folder, "--repository", tmp_path / "repository")
    assert run(*words)[0] == 0
    install_demo_as("two", tmp_path / "repository")
    status, _, err = run(*words)
    assert status == 1 and "has several models; name one with --model: one, two" in err
    assert run(*words, "--model", "two")[0] == 0
    status, _, err = run(*words, "--model", "three", "--yes")
    assert status == 1 and err.count("\n") == 1
    assert "has no model three; it has one, two;  clipdex models --available" in err
    assert not exported


@pytest.mark.parametrize("missing", ["folder", "words"])
def test_a_mistake_is_said_before_a_model_is_fetched_for_it(run, folder, exported, missing):
    words = ("find", "a", folder / "none") if missing == "folder" else ("find", " ", folder)
    status, out, err = run(*words, "--yes")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert ("none: no such folder" if missing == "folder" else "a query is empty") in err
    assert not exported


def test_a_disk_without_room_for_the_model_is_said_before_asking(run, folder, exported, monkeypatch):
    usage = type("Usage", (), {"free": 100_000_000})
    monkeypatch.setattr("clipdex_export.downloads.shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr(model_command, "_somebody_can_answer", never)
    status, _, err = run("find", "a red circle", folder)
    assert status == 1 and err.count("\n") == 1
    assert f"the model {DEFAULT.name} needs 605 MB, but the disk of " in err and "has 100 MB free" in err


def test_ctrl_c_while_the_model_comes_says_that_it_goes_on(run, folder, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(clipdex_export, "export_model", interrupted)
    status, out, err = run("find", "a red circle", folder, "--yes")
    assert (status, out) == (130, "")
    assert err == "clipdex: stopped; what was downloaded is kept; run the same command again to resume\n"


def test_serve_takes_a_listed_name_exports_it_once_and_serves_it(run, exported, monkeypatch, cache, tmp_path):
    started: list[tuple[Path, list[str] | None]] = []

    class Started:
        def __init__(self, repository, *, models, **options):
            started.append((repository, models))
            raise clipdex.LocalServerError("no further")

    monkeypatch.setattr(clipdex_server, "LocalTriton", Started)
    run("serve", "--model", "vit-b-32", "--yes")
    run("serve", "--model", "vit-b-32")
    run("serve", "--model", "vit-b-16", "--model", "vit-b-32", "--repository", tmp_path / "mine", "--yes")
    run("serve")
    assert exported == ["vit-b-32", "vit-b-16", "vit-b-32"]
    parts = [f"vit_b_32_{part}" for part in ("image", "text", "assets")]
    sixteen = [f"vit_b_16_{part}" for part in ("image", "text", "assets")]
    assert started == [
        (cache / "models", parts),
        (cache / "models", parts),
        (tmp_path / "mine", sixteen + parts),
        (Path("model_repository"), None),
    ]


def test_what_is_not_installed_is_said_before_asking(run, folder, exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(model_command, "_somebody_can_answer", never)
    status, out, err = run("find", "a red circle", folder)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("clipdex: the model vit-b-32-laion2b, which is not here yet, needs onnx: run ")
    assert "[onnx]" in err and "exporting" not in err
    assert not exported


def test_without_onnxruntime_and_triton_the_extra_that_brings_all_is_named(run, folder, exported, monkeypatch):
    import clipdex_server

    def none():
        raise clipdex.MissingExtra("nvidia-pytriton", "local", "a Triton on this machine")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(clipdex_server, "find_triton", none)
    status, out, err = run("find", "a red circle", folder)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "finding pictures without a server needs onnxruntime: run " in err and "[onnx]" in err


# As clipdex is started, but with a gate of a few pictures, and without what the extra `onnx` does not bring.
START = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
import small_gate
small_gate.use_it()
from clipdex.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("layout", ["immich", "transformers_js"])
def test_from_nothing_to_an_answer_through_a_hub_without_torch(new_folder, tmp_path, onnx_source, layout):
    """The listed name, the download, the export and the answer, for real: with a tiny model at that address."""
    from small_hub import serving
    from test_onnx_sources_hub import ABSENT

    name = DEFAULT.name if layout == "immich" else "vit-b-32"
    listed = find_available(name)
    assert listed is not None and listed.onnx is not None
    with serving({listed.onnx: Path(onnx_source(layout))}) as hub:
        environment = hub.environment(tmp_path / "home", CLIPDEX_CACHE=str(tmp_path / "cache"))
        words = [sys.executable, "-c", START.format(absent=ABSENT), "find", "a red circle", str(new_folder)]
        words += ["--model", name]
        done = subprocess.run([*words, "--yes"], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        hub.asked.clear()
        again = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert (again.returncode, again.stdout, again.stderr) == (0, done.stdout, "")
        assert hub.asked == []
    assert len(done.stdout.splitlines()) == 3
    assert "installing ..." in done.stderr


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (False, "nowhere: there is no such model repository"),
        (True, "has no model; clipdex export NAME --repository"),
    ],
)
def test_a_repository_without_a_model_is_named(run, tmp_path, made, said):
    if made:
        (tmp_path / "nowhere").mkdir()
    (tmp_path / "photos").mkdir()
    status, out, err = run("find", "a cat", tmp_path / "photos", "--repository", tmp_path / "nowhere")
    assert (status, out) == (1, "")
    assert said in err and err.count("\n") == 1
