"""The command that adds an extra, after how clipdex was installed; and the demo model, which comes with it."""

import shlex
from pathlib import Path

import pytest
from conftest import MODEL_REPOSITORY, ROOT

from clipdex.base import installation
from clipdex.base.installation import extra_command
from clipdex.cli import demo_model
from clipdex.cli.demo_model import default_repository
from clipdex_export.demo import repository as packaged

REQUIREMENTS = [
    "numpy>=1.26",
    "faiss-cpu>=1.15; extra == 'faiss'",
    "onnxruntime>=1.19; extra == 'local'",
    "nvidia-pytriton==0.7.0; (sys_platform == 'linux' and python_version < '3.13') and extra == 'local'",
]


def target(source):
    return shlex.split(installation._target("local", source, REQUIREMENTS))


def test_a_checkout_is_named_by_its_place(tmp_path):
    place = tmp_path / "my checkout"
    place.mkdir()
    source = {"url": place.as_uri(), "dir_info": {"editable": True}}
    assert target(source) == ["-e", f"{place}[local]"]
    assert target({"url": place.as_uri(), "dir_info": {}}) == [f"{place}[local]"]


def test_a_wheel_is_named_while_it_is_there_and_then_what_the_extra_requires(tmp_path):
    wheel = tmp_path / "clipdex-1-py3-none-any.whl"
    source = {"url": wheel.as_uri(), "archive_info": {}}
    assert target(source) == [
        "onnxruntime>=1.19",
        "nvidia-pytriton==0.7.0; (sys_platform == 'linux' and python_version < '3.13')",
    ]
    wheel.touch()
    assert target(source) == [f"{wheel}[local]"]


def test_what_came_from_elsewhere_is_named_as_it_came():
    assert target(None) == ["clipdex[local]"]
    git = {"url": "https://example.org/clipdex", "vcs_info": {"vcs": "git", "commit_id": "0"}}
    assert target(git) == ["clipdex[local] @ git+https://example.org/clipdex"]
    assert target({"url": "https://example.org/c.whl", "archive_info": {}}) == [
        "clipdex[local] @ https://example.org/c.whl"
    ]


def test_this_checkout_names_itself():
    assert extra_command("tables").endswith(f"install -e {shlex.quote(f'{ROOT}[tables]')}")


def test_torch_is_taken_without_cuda_on_linux(monkeypatch):
    monkeypatch.setattr(installation, "_is_missing", lambda module: True)
    for platform, begins in (("linux", True), ("darwin", False)):
        monkeypatch.setattr("sys.platform", platform)
        command = extra_command.__wrapped__("export")
        assert ("torch --index-url https://download.pytorch.org/whl/cpu && " in command) is begins
        assert "torch" not in extra_command.__wrapped__("local")


def test_another_python_is_named_where_pip_is_not_its_own(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/an env/bin/python")
    assert installation._pip() == "'/an env/bin/python' -m pip"


def test_a_repository_in_the_folder_comes_before_the_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_repository() == MODEL_REPOSITORY
    (tmp_path / "model_repository" / "own_image").mkdir(parents=True)
    assert default_repository() == Path("model_repository")
    assert default_repository("own") == Path("model_repository")
    assert default_repository("demo") == MODEL_REPOSITORY


def test_where_none_is_the_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packaged, "__file__", str(tmp_path / "a" / "b" / "c" / "d" / "repository.py"))
    assert default_repository() == Path("model_repository")


def test_the_demo_model_is_recognised_by_the_fingerprint_of_what_the_repository_holds():
    config = (MODEL_REPOSITORY / "demo_assets" / "config.pbtxt").read_text()
    assert f'"clipdex_fingerprint", value: {{ string_value: "{demo_model._FINGERPRINT}" }}' in config


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_dry_run_is_no_use_of_the_model(run, pictures, tmp_path, words):
    server = f"inproc:{MODEL_REPOSITORY}"
    _, _, err = run("index", pictures, "--out", tmp_path / "x.clipdex", "-s", server, *words)
    assert ("drawn shapes" in err) is (not words)


@pytest.mark.slow
def test_every_use_of_the_demo_model_says_what_it_is_in_one_line(run, pictures, tmp_path):
    index = tmp_path / "x.clipdex"
    place = ("-s", f"inproc:{MODEL_REPOSITORY}")
    uses: list[tuple[object, ...]] = [
        ("index", pictures, "--out", index, *place),
        ("search", "a cat", "--index", index, *place),
        ("search", "--like", pictures / "0.png", "--index", index),
        ("classify", pictures / "0.png", "--labels", "a cat, a dog", *place),
        ("retrieve", "--prompt", "a cat", "--images_dir", pictures, *place),
    ]
    for words in uses:
        status, out, err = run(*words)
        assert status == 0, err
        assert err.splitlines().count(demo_model._WORDS) == 1, words
        assert "drawn shapes" not in out
        assert "drawn shapes" not in run(*words, "--quiet")[2]
    for form in ("--json", "--csv"):
        assert "drawn shapes" not in run("search", "a cat", "--index", index, form, *place)[1]


def test_another_model_says_nothing(capsys):
    demo_model.note_demo_model("0" * 64)
    assert capsys.readouterr().err == ""


def test_what_it_advises_is_a_command(run):
    words = shlex.split(demo_model._WORDS.partition(":  ")[2])
    assert words.pop(0) == "clipdex"
    command, options = words[0], [word for word in words if word.startswith("--")]
    page = run(command, "--help")[1]
    assert options and all(option in page for option in options)
