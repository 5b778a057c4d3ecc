"""The commands and the Python of the pages run, in order, in a folder that has what they name."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.triton]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from clipdex_export.demo.questions import draw_demo_pictures

    folder = tmp_path_factory.mktemp("docs") / "pictures"
    draw_demo_pictures(folder, 100)
    return folder


@pytest.fixture
def place(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, triton: Any) -> Path:
    """A checkout as `make demo` leaves it, and a home with pictures."""
    shutil.copytree(drawn, tmp_path / "demo" / "pictures")
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLIPDEX_SERVER", triton.address)
    return tmp_path


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page, in order -> ("sh", a command) or ("python", code)."""
    for language, body in re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(), re.M | re.S):
        if language == "python":
            yield language, body
        else:
            yield from (("sh", line) for line in body.replace("\\\n", " ").splitlines() if line.strip())


def test_the_page_for_a_service_runs_from_top_to_bottom(
    place: Path, triton: Any, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    space: dict[str, Any] = {}
    printed = ""
    for kind, step in steps(ROOT / "docs" / "service.md"):
        if kind == "python":
            if "clip.close()" in step:
                assert space["embed_upload"](b"no picture") == (422, None)
            exec(compile(step.replace("localhost:8001", triton.address), "service.md", "exec"), space)
            printed += capsys.readouterr().out
            continue
        words = shlex.split(step, comments=True)
        if words[:2] == ["clipdex", "serve"]:
            continue  # the session's server stands for it
        assert words[0] == "clipdex"
        status, _, err = run(*words[1:])
        assert status == 0, f"{step}: {err}"
    assert re.fullmatch(r"(0\.\d{3} — \S+\.jpg\n){3}0 new, 100 unchanged\n", printed)
    assert space["status"] == 200
