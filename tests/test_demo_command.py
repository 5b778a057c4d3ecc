"""`clipdex demo`: the whole way, with Triton, without one, and on a user's own pictures."""

import os
import re

import pytest
from conftest import MODEL_REPOSITORY

import clipdex_server
from clipdex.base.errors import LocalServerError
from clipdex.cli import demo as demo_command
from clipdex_server import triton_binary

pytestmark = pytest.mark.triton


@pytest.mark.slow  # `make demo` is the same
def test_the_whole_way_through_a_real_triton(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("demo", "--repository", MODEL_REPOSITORY, "--pictures", "300")
    assert status == 0
    *_, last = out.splitlines()
    found = re.fullmatch(
        r"(\d+) of 10 questions answered correctly at rank 1 \(Triton 2[\d.]+, 300 pictures, \d+ images/s\)", last
    )
    assert found, last
    assert int(found[1]) >= 9
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("<img ") == 50
    assert last in page
    assert sorted(os.listdir(tmp_path / "demo")) == ["pictures", "pictures.clipdex", "report.html"]


@pytest.mark.slow
def test_where_no_triton_can_be_had_it_says_so_and_runs_in_this_process(run, tmp_path, monkeypatch):
    def nowhere(*args, **kwargs):
        raise LocalServerError("Triton's wheel does not exist for this machine")

    monkeypatch.setattr(clipdex_server, "LocalTriton", nowhere)
    monkeypatch.setattr(demo_command, "triton_may_be_had", lambda: False)
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("demo", "--repository", MODEL_REPOSITORY, "--pictures", "100")
    assert status == 0
    assert "no Triton for this machine" in out
    assert re.search(r"answered correctly at rank 1 \(inproc [\d.]+, 100 pictures", out.splitlines()[-1])


def test_a_triton_that_should_start_and_does_not_is_an_error(run, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise LocalServerError("Triton did not start: no reason given")

    monkeypatch.setattr(clipdex_server, "LocalTriton", broken)
    monkeypatch.setattr(demo_command, "triton_may_be_had", lambda: True)
    status, _, err = run("demo", "--repository", MODEL_REPOSITORY, "--out", tmp_path / "demo")
    assert status == 1
    assert err == "clipdex: Triton did not start: no reason given\n"


@pytest.mark.slow
def test_on_pictures_of_ones_own(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("demo", "--repository", MODEL_REPOSITORY, "--photos", pictures, "--query", "it's a red circle")
    status, out, _ = run(*words)
    assert status == 0
    assert re.fullmatch(r"1 query answered \(Triton [\d.]+, 12 pictures, \d+ images/s\)", out.splitlines()[-1])
    assert out.count(" — ") == 5
    assert "12 unchanged" in run(*words)[1]


def test_a_tilde_that_the_shell_left_is_the_home_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    status, _, err = run("demo", "--photos", "~/none", "--query", "a red circle")
    assert status == 1
    assert err == f"clipdex: {tmp_path}/none: no such directory\n"


@pytest.mark.parametrize("starts", [True, False])
def test_serve_without_a_repository_says_that_it_serves_the_demo_model_once_it_does(
    run, tmp_path, monkeypatch, starts
):
    asked = []

    class Started:
        version, address, models, http_port, metrics_port = "2", "127.0.0.1:1", (), None, None

        def __init__(self, repository, **options):
            asked.append(str(repository))

        def __enter__(self):
            if not starts:
                raise LocalServerError("the gRPC port 8001 of 127.0.0.1 cannot be used")
            return self

        def __exit__(self, *exc):
            pass

        def wait(self):
            pass

    monkeypatch.setattr(clipdex_server, "LocalTriton", Started)
    monkeypatch.chdir(tmp_path)
    said = f"there is no model_repository in this folder: serving the demo model, {MODEL_REPOSITORY}\n"
    failed = "clipdex: the gRPC port 8001 of 127.0.0.1 cannot be used\n"
    assert run("serve")[2] == (said if starts else failed)
    (tmp_path / "model_repository").mkdir()
    assert run("serve")[2] == ("" if starts else failed)
    assert asked == [str(MODEL_REPOSITORY), "model_repository"]


def test_python_3_13_has_no_triton_and_is_told_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(triton_binary, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.version_info", (3, 13, 0, "final", 0))
    monkeypatch.setattr(triton_binary, "_version", lambda: "3.13")
    with pytest.raises(LocalServerError, match=r"no Triton to install for Python 3\.13.*inproc:DIR"):
        triton_binary.find_triton()
    assert not demo_command.triton_may_be_had()


def test_pictures_of_ones_own_need_a_question(run, pictures):
    status, _, err = run("demo", "--photos", pictures)
    assert status == 1
    assert "--photos needs a --query" in err
