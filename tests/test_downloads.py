"""Downloads from a hub: resumed where they stopped, checked, and kept where the hub's own tools keep them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_hub import COMMIT, SmallHub, serving

pytest.importorskip("huggingface_hub")

from clipdex_export import downloads

BIG = 3_000_000  # bytes

# Downloads what its arguments name; prints the snapshot, or the refusal, and how far it was reported to be.
FETCH = """
import json, shutil, sys
from clipdex.base.errors import CheckpointError
from clipdex_export.downloads import downloads_reported
from clipdex_export.hub import _download
if free := {free}:
    shutil.disk_usage = lambda path: type("Usage", (), {{"free": free}})
{before}
seen = []
with downloads_reported(lambda progress: seen.append((progress.done, progress.total))):
    try:
        print(_download(sys.argv[1], None, sys.argv[2:]))
    except CheckpointError as exc:
        print("refused:", exc)
print(json.dumps(seen))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "repository"
    (directory / "onnx").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    rng = np.random.default_rng(0)
    for name in ("onnx/vision_model.onnx", "onnx/text_model.onnx", "unwanted.bin"):
        (directory / name).write_bytes(rng.bytes(BIG))
    return directory


@pytest.fixture
def hub(repository: Path) -> Iterator[SmallHub]:
    with serving({"acme/clip": repository}) as hub:
        yield hub


def command(free: int = 0, before: str = "") -> list[str]:
    return [sys.executable, "-c", FETCH.format(free=free, before=before), "acme/clip", "*.json", "onnx/*.onnx"]


def fetch(environment: dict[str, str], free: int = 0, before: str = "") -> tuple[str, list[list[int]]]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    done = subprocess.run(command(free, before), env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    line, seen = done.stdout.splitlines()
    return line, json.loads(seen)


def parts(home: Path) -> list[Path]:
    return list(home.rglob("*.incomplete"))


@pytest.mark.slow
def test_files_are_kept_where_the_hubs_own_tools_look_for_them(hub: SmallHub, repository: Path, tmp_path: Path):
    home = tmp_path / "home"
    line, seen = fetch(hub.environment(home))
    snapshot = home / "hub" / "models--acme--clip" / "snapshots" / COMMIT
    assert line == str(snapshot)
    for name in ("config.json", "onnx/vision_model.onnx", "onnx/text_model.onnx"):
        assert (snapshot / name).read_bytes() == (repository / name).read_bytes()
        assert (snapshot / name).is_symlink()
    assert not (snapshot / "unwanted.bin").exists()
    assert seen[0] == [0, 2 * BIG] and seen[-1] == [2 * BIG, 2 * BIG]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) >= 4
    # Nothing is fetched twice.
    hub.asked.clear()
    assert fetch(hub.environment(home)) == (line, [])
    assert hub.asked == []
    # The hub's own client finds all of it there, without the hub.
    code = "from huggingface_hub import hf_hub_download as f; print(f(*sys.argv[1:], local_files_only=True))"
    words = [sys.executable, "-c", f"import sys; {code}", "acme/clip", "onnx/vision_model.onnx"]
    found = subprocess.run(words, env=hub.environment(home), capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == str(snapshot / "onnx" / "vision_model.onnx"), found.stderr


@pytest.mark.slow
def test_a_connection_cut_in_the_middle_is_continued_from_there(hub: SmallHub, repository: Path, tmp_path: Path):
    hub.cut_after["onnx/vision_model.onnx"] = 1_200_000
    line, seen = fetch(hub.environment(tmp_path / "home"))
    assert not line.startswith("refused")
    spans = [span for name, span in hub.asked if name == "onnx/vision_model.onnx"]
    assert spans == [None, "bytes=1048576-"]
    vision = Path(line) / "onnx" / "vision_model.onnx"
    assert vision.read_bytes() == (repository / "onnx" / "vision_model.onnx").read_bytes()
    assert seen[-1] == [2 * BIG, 2 * BIG]


@pytest.mark.slow
def test_ctrl_c_in_the_middle_loses_nothing_and_the_next_call_goes_on(hub: SmallHub, tmp_path: Path):
    home = tmp_path / "home"
    hub.stall_after["onnx/text_model.onnx"] = 2_000_000
    process = subprocess.Popen(
        command(), env=hub.environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert hub.stalled.wait(30)
    time.sleep(0.5)  # until what was sent is written
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    (part,) = parts(home)
    kept = part.stat().st_size
    assert kept == 1 << 20
    hub.asked.clear()
    line, seen = fetch(hub.environment(home))
    assert not line.startswith("refused")
    assert ("onnx/text_model.onnx", f"bytes={kept}-") in hub.asked
    assert seen[0][0] == kept
    assert not parts(home)


@pytest.mark.slow
def test_a_connection_that_cannot_be_had_again_is_one_sentence_and_nothing_is_lost(
    hub: SmallHub, repository: Path, tmp_path: Path
):
    home = tmp_path / "home"
    hub.cut_after["onnx/text_model.onnx"] = 2_000_000
    whole = repository / "onnx" / "text_model.onnx"
    gone = repository / "gone"
    asked = hub.asked

    class Once(list):
        def append(self, item: tuple[str, str | None]) -> None:
            super().append(item)
            if item[0] == "onnx/text_model.onnx" and whole.exists():
                whole.rename(gone)  # the first answer is on its way; the next is "no such file"

    hub.asked = Once(asked)
    line, _ = fetch(hub.environment(home))
    assert line.startswith(
        "refused: the download of onnx/text_model.onnx from acme/clip was interrupted after 1 MB of 3 MB"
    )
    assert line.endswith("run the same command again to resume it")
    gone.rename(whole)
    hub.asked = []
    assert not fetch(hub.environment(home))[0].startswith("refused")
    assert hub.asked[0] == ("onnx/text_model.onnx", "bytes=1048576-")


@pytest.mark.slow
def test_a_file_with_another_checksum_is_thrown_away_and_fetched_anew(hub: SmallHub, tmp_path: Path):
    home = tmp_path / "home"
    hub.damaged.add("onnx/vision_model.onnx")
    line, _ = fetch(hub.environment(home))
    assert line.startswith("refused: onnx/vision_model.onnx of acme/clip has the sha256 ")
    assert "it was damaged in transit and has been deleted; run the same command again" in line
    assert not parts(home)
    assert not list(home.rglob("snapshots/*/onnx/vision_model.onnx"))
    hub.damaged.clear()
    snapshot, _ = fetch(hub.environment(home))
    vision = Path(snapshot) / "onnx" / "vision_model.onnx"
    assert hashlib.sha256(vision.read_bytes()).hexdigest() == vision.resolve().name


@pytest.mark.slow
def test_what_the_hub_states_of_a_file_is_checked_before_it_names_one(repository: Path, tmp_path: Path):
    victim = tmp_path / "victim" / "notes.clipdex.incomplete"
    victim.parent.mkdir()
    victim.write_text("mine")
    oids = [
        str(tmp_path / "victim" / "notes"),
        "../../../../../victim/notes",
        "",
        "a\0b",
        "A" * 64,
        "a" * 64 + "\n",
        5,
    ]
    sizes = ["x", None, 0, -1, True, 2000.0, float("inf")]
    stated = [{"oid": oid} for oid in oids] + [{"size": size} for size in sizes]
    code = (
        "import sys; from clipdex.base.errors import CheckpointError; from clipdex_export.hub import _download\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(_download(name, None, ['onnx/*.onnx']))\n"
        "    except CheckpointError as exc: print(exc)"
    )
    for path in repository.rglob("*.*"):
        if path.stat().st_size == BIG:
            path.write_bytes(bytes(2000))
    names = [f"acme/clip{number}" for number in range(len(stated))]
    with serving(dict.fromkeys(names, repository)) as hub:
        hub.stated = dict(zip(names, stated, strict=True))
        environment = hub.environment(tmp_path / "home")
        words = [sys.executable, "-c", code, *names]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert done.stderr == "" and hub.asked == []
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith("the hub states the sha256 ") and f" of {name}; expected 64 hexadecimal" in line
    assert victim.read_text() == "mine" and list(victim.parent.iterdir()) == [victim]
    assert not parts(tmp_path / "home")


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(hub: SmallHub, tmp_path: Path):
    environment = hub.environment(tmp_path / "home")
    both = [subprocess.Popen(command(), env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = {process.communicate(timeout=60)[0].splitlines()[0] for process in both}
    assert len(lines) == 1 and not lines.pop().startswith("refused")
    assert sorted(name for name, _ in hub.asked if name.startswith("onnx/")) == [
        "onnx/text_model.onnx",
        "onnx/vision_model.onnx",
    ]


def test_a_disk_without_room_is_said_before_anything_is_fetched(hub: SmallHub, tmp_path: Path):
    line, seen = fetch(hub.environment(tmp_path / "home"), free=5_000_000)
    place = tmp_path / "home" / "hub"
    assert line == (
        f"refused: the download of acme/clip needs 6 MB, but the disk of {place} has 5 MB free: make room, or let "
        "HF_HOME name a folder on another disk"
    )
    assert seen == [] and hub.asked == []


def no_room(home: Path, why: int) -> str:
    return (
        f"refused: the download of acme/clip stopped: there is no room for it in {home / 'hub'} "
        f"({os.strerror(why)}): make room, and run the same command again to resume it, or let HF_HOME name a "
        "folder on another disk"
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_sentence_and_the_next_call_goes_on(hub: SmallHub, tmp_path: Path):
    home = tmp_path / "home"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, -1))"
    line, _ = fetch(hub.environment(home), before=limit)
    assert line == no_room(home, errno.EFBIG)
    (part,) = parts(home)
    assert part.stat().st_size == 1_500_000
    hub.asked.clear()
    assert not fetch(hub.environment(home))[0].startswith("refused")
    assert [span for _, span in hub.asked if span] == ["bytes=1500000-"]


@pytest.mark.parametrize("why", ["ENOSPC", pytest.param("EDQUOT", marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["os.fsync", "huggingface_hub.snapshot_download"])
def test_a_disk_that_is_full_is_not_taken_for_the_network(hub: SmallHub, tmp_path: Path, where: str, why: str):
    before = (
        "import errno, os, huggingface_hub\n"
        "def full(*args, **options):\n"
        f"    raise OSError(errno.{why}, os.strerror(errno.{why}))\n"
        f"{where} = full"
    )
    home = tmp_path / "home"
    assert fetch(hub.environment(home), before=before)[0] == no_room(home, getattr(errno, why))


def test_what_a_file_takes_in_parts_is_written_whole():
    class Parts(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:3])

    part = Parts()
    counted = downloads._Counted(part, 0, lambda at: None)
    assert counted.write(b"0123456789") == 10
    assert part.getvalue() == b"0123456789" and counted.at == 10


@pytest.mark.slow
def test_offline_what_is_in_the_cache_serves_and_what_is_not_is_one_sentence(hub: SmallHub, tmp_path: Path):
    home = tmp_path / "home"
    offline = hub.environment(home, HF_HUB_OFFLINE="1")
    line, _ = fetch(offline)
    assert line.startswith(f"refused: acme/clip is not in the hub's local cache, {home / 'hub'}, or not all of it")
    assert "HF_HUB_OFFLINE is set" in line
    assert hub.asked == [] and not hub.tokens
    snapshot, _ = fetch(hub.environment(home))
    hub.tokens.clear()
    assert fetch(offline) == (snapshot, [])
    assert not hub.tokens
    (Path(snapshot) / "onnx" / "text_model.onnx").unlink()
    assert "or not all of it" in fetch(offline)[0]


@pytest.mark.slow
def test_the_token_is_sent_and_without_it_a_private_repository_is_not_found(hub: SmallHub, tmp_path: Path):
    hub.token = "hf_secret"
    assert "no such repository on the hub (or it is private)" in fetch(hub.environment(tmp_path / "home"))[0]
    line, _ = fetch(hub.environment(tmp_path / "home", HF_TOKEN="hf_secret"))
    assert not line.startswith("refused")


@pytest.mark.slow
def test_the_token_stays_with_the_hub_when_files_are_on_another_host(
    hub: SmallHub, repository: Path, tmp_path: Path
):
    hub.token, hub.elsewhere = "hf_secret", True
    hub.cut_after["onnx/vision_model.onnx"] = 1_200_000
    line, _ = fetch(hub.environment(tmp_path / "home", HF_TOKEN="hf_secret"))
    vision = Path(line) / "onnx" / "vision_model.onnx"
    assert vision.read_bytes() == (repository / "onnx" / "vision_model.onnx").read_bytes()
    assert ("onnx/vision_model.onnx", "bytes=1048576-") in hub.asked


@pytest.mark.slow
def test_the_files_of_a_commit_are_listed_once_however_many_are_fetched(hub: SmallHub, tmp_path: Path):
    """Of a model whose weights are hundreds of files, each is asked for on its own."""
    code = (
        "import sys; from clipdex_export.hub import find_checkpoint, fetch_files\n"
        "files = find_checkpoint('acme/clip', None)\n"
        "for name in ('onnx/vision_model.onnx', 'onnx/text_model.onnx', 'unwanted.bin'):\n"
        "    fetch_files(files, [name])"
    )
    environment = hub.environment(tmp_path / "home")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert len(hub.asked) == 4
    assert hub.lists <= 2  # ours, and that of the hub's client, which it keeps
