"""The commands and the Python of the pages run, in order, in a folder that has what they name."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_docs import PAGES, blocks

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


@pytest.mark.slow
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
    added = r"201 101 pictures\n\[None\]\n"
    assert re.fullmatch(rf"(0\.\d{{3}} — \S+\.jpg\n){{3}}{added}0 new, 100 unchanged\n", printed)
    assert space["status"] == 200


# Placeholders of the pages, and what stands for them here.
MEANT = {
    "X.clipdex": "photos.clipdex",
    "DIR": "photos",
    "FOLDER": "photos",
    "PICTURES": "photos",
    "TEXT": "a cat",
    "/path/to/photos": "photos",
    "/old/place": "photos/2024",
    "/other/file.jpg": "photos/0001.jpg",
}
# Commands that do not run here, and why.
ELSEWHERE = {
    r"^serve\b": "runs until Ctrl-C: tests/test_local_server.py",
    r"^web\b": "runs until Ctrl-C: tests/test_web_command.py",
    r"^(export|find|models|serve) .*\b(openai/|vit-|Xenova/|immich-app/)": "needs the hub: test_export_hub.py",
    r"^export (SOURCE|export/checkpoints)": "takes long: tests/test_families_export.py, tests/test_export_*.py",
    r"^bench search --rows 1000000": "takes long: tests/test_bench_command.py runs it with fewer rows",
    r"^bench (server|index)": "takes long: tests/test_bench_command.py",
    r"--kind ivf_pq": "needs 9,984 pictures: tests/test_ann.py",
    r"--metrics": "the session's server has no metrics: tests/test_doctor.py",
    r"^demo\b": "make demo",
    r"^find\b": "tests/test_find.py",
    r"^watch\b": "runs until Ctrl-C: tests/test_watch.py",
    r"\b(s3|gs|az|hf)://": "needs a bucket: tests/test_buckets.py, tests/test_index_copies_s3.py",
    r"\bhttps://example\.org": "needs a web server: tests/test_web_server_source.py",
    r"^duplicates photos\.clipdex --kind local$": "the page makes the features only further down",
    r"\b(milvus|qdrant)://": "needs a vector database: tests/test_push.py, tests/test_contract_sink.py",
    r"--engine ray\b": "needs a Ray cluster: tests/test_ray.py",
    r"\$SLURM_ARRAY_TASK_ID": "needs the number of a job: tests/test_parts_command.py",
    r"^split photos\.clipdex .*--out photos\.parts": "the page has made photos.parts: tests/test_parts_command.py",
    r"^merge photos\.parts --out photos\.clipdex": "photos.clipdex is there: tests/test_parts_command.py",
}


def in_a_shell(line: str, place: Path) -> None:
    """Run a line of a page as its reader does, with this environment's clipdex."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=place, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.slow
def test_the_page_on_collections_runs_from_top_to_bottom(
    place: Path, triton: Any, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    space: dict[str, Any] = {}
    printed = ""
    for kind, step in steps(ROOT / "docs" / "collection.md"):
        if kind == "python":
            exec(compile(step.replace("localhost:8001", triton.address), "collection.md", "exec"), space)
            printed += capsys.readouterr().out
            continue
        if not step.startswith("clipdex"):
            in_a_shell(step, place)
            continue
        status, _, err = run(*shlex.split(step, comments=True)[1:])
        assert status == 0, f"{step}: {err}"
    said = r"(0\.\d{3} \S+\n){3}18 False user-17/heart\n1 added; bad\nTrue\nTrue\n\d+ task-\d+\n"
    assert re.fullmatch(said, printed), printed
    assert space["reader"].__repr__().endswith(": closed>")


@pytest.fixture
def home(place: Path, run: Run) -> Path:
    """The files that the pages name, and photos.clipdex."""
    pictures = sorted((place / "demo" / "pictures").iterdir())
    for folder in ("photos", "photos/2024", "more", "holiday", "scans", "shards", "snapshot", "disk/lost+found"):
        (place / folder).mkdir(parents=True)
        for picture in pictures[:3]:
            shutil.copy(picture, place / folder)
    for picture in pictures[3:40]:
        shutil.copy(picture, place / "photos")
    for name in ("ref.jpg", "cat.jpg", "crop.jpg", "a.jpg", "more/copy.jpg", "photos/copy.jpg"):
        shutil.copy(pictures[5], place / name)
    shutil.copy(pictures[6], place / "b.png")
    shutil.copytree(place / "photos", place / "home" / "Pictures")
    (place / "texts.txt").write_text("a red circle\na black heart\n")
    (place / "kinds.txt").write_text("a letter\na form\n")
    (place / "list.txt").write_text("photos/0001.jpg\nphotos/0002.jpg\n")
    with (place / "captions.csv").open("w") as file:
        csv.writer(file).writerows([("image", "caption"), ("photos/0001.jpg", "one"), ("photos/0002.jpg", "two")])
    for folder in ("shards", "snapshot"):
        shutil.rmtree(place / folder)
        (place / folder).mkdir()
    with tarfile.open(place / "shards" / "00000.tar", "w") as tar:
        tar.add(place / "photos" / "0001.jpg", "0001.jpg")
    parquet(place / "snapshot" / "train.parquet", place / "photos" / "0001.jpg")
    assert run("index", "photos", "--index", "photos.clipdex")[0] == 0
    return place


def parquet(file: Path, picture: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [{"bytes": picture.read_bytes(), "path": "a.jpg"}]}), file)


def as_here(words: list[str], address: str) -> list[str]:
    words = [MEANT.get(word, word) for word in words]
    words = [re.sub(r"\b(localhost|gpu-?\d|HOST):8001\b", address, word) for word in words]
    words = [re.sub(r"^~", "home", word) for word in words]
    if "--undo" in words:
        words[words.index("--undo") + 1] = max(map(str, Path("home/extra").glob("moved-*.jsonl")))
    return words


def told(page: Path) -> list[list[str]]:
    """The commands of a page's shell blocks, and of its prose where they name an index."""
    found = [
        shlex.split(line, comments=True)
        for block in blocks(page, "sh", "bash", "console", "shell")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for span in re.findall(r"`(clipdex [^`]*clipdex[^`]*)`", prose):
        found += [shlex.split(command) for command in span.split("&&")]
    return [words[1:] for words in found if words[:1] == ["clipdex"] and len(words) > 2]


# Tested by themselves, or generated.
APART = ("README.md", "bulk.md", "service.md", "collection.md", "commands.md")
RUN = [page for page in PAGES if page.name not in APART and told(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(home: Path, triton: Any, run: Run, page: Path) -> None:
    (home / "home" / "extra").mkdir(exist_ok=True)
    for words in told(page):
        line = " ".join(words)
        if any(re.search(pattern, line) for pattern in ELSEWHERE) or "…" in line:
            continue
        status, _, err = run(*as_here(words, triton.address))
        assert status == 0, f"clipdex {line}: {err}"
        assert "Traceback" not in err
