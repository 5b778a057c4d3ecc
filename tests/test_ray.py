"""Parts made by Ray: several real raylets on 127.0.0.1, real processes, `clipdex index` as a user types it.

`make test-ray` runs them, in an environment of their own: Ray is 240 MB.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL_REPOSITORY, noise

import clipdex
from clipdex import Index

pytest.importorskip("ray")

from proofs.ray_kills import cluster, is_alive, kill_all, slow_client

from clipdex.pipeline.engines.index_by_ray import RayUse, index_by_ray
from clipdex.pipeline.engines.part_job import Recipe
from clipdex.sources import open_sources
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PARTS = 4


@pytest.fixture(scope="module")
def raylets() -> Iterator[Any]:
    with cluster(2) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(60):
        noise(i).save(folder / f"{i:02}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def clipdex_(*words: object, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clipdex", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=900)
    return process.returncode, out, err


def content(index: Path) -> dict[bytes, bytes]:
    with Index.open(index) as opened:
        return {path: opened.vectors[row].tobytes() for row, path in opened.live_paths()}


def by_ray(raylets: Any, folder: Path, out: Path, server: str, *more: object) -> subprocess.Popen[str]:
    words = ("index", folder, "--out", out, "--engine", "ray", "--ray-address", raylets.address)
    return clipdex_(*words, "--server", server, *more)


def test_parts_by_ray_are_what_the_same_parts_are_without_it(
    raylets: Any, triton: Any, folder: Path, tmp_path: Path
) -> None:
    status, out, err = ended(by_ray(raylets, folder, tmp_path / "ray", triton.address, "--parts", PARTS, "--json"))
    assert status == 0, err
    found = json.loads(out)  # nothing of Ray's is among it
    assert (found["discovered"], found["indexed"], found["failed"], found["rows"]) == (61, 60, 1, 60)
    with clipdex.connect(triton.address) as client:
        clipdex.index_pictures(client, folder, tmp_path / "plain", parts=PARTS)
    assert content(tmp_path / "ray") == content(tmp_path / "plain")
    (folder / "00.png").unlink()
    noise(99).save(folder / "01.png")
    status, out, err = ended(by_ray(raylets, folder, tmp_path / "ray", triton.address))
    assert status == 0, err
    assert out.startswith("60 pictures found: 1 indexed, 58 unchanged, 1 failed; 1 vanished")


def test_without_an_address_ray_is_started_for_the_run_on_this_machine_alone(
    triton: Any, folder: Path, tmp_path: Path
) -> None:
    process = clipdex_(
        *("index", folder, "-o", tmp_path / "x", "--parts", 2, "--engine", "ray", "-s", triton.address)
    )
    heard: set[str] = set()
    while process.poll() is None:
        heard |= listening(below(process.pid))
        time.sleep(0.1)
    status, out, err = ended(process)
    assert status == 0 and "60 indexed" in out, err
    assert heard and all(place.startswith(("127.0.0.1:", "[::ffff:127.0.0.1]:")) for place in heard), heard


def below(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = set(), [pid]
    while waiting:
        more = children.get(waiting.pop(), [])
        found |= set(more)
        waiting += more
    return found


def listening(pids: set[int]) -> set[str]:
    """The addresses at which processes listen."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                host, port = fields[1].split(":")
                sockets[fields[9]] = f"{shown(host)}:{int(port, 16)}"
    found = set()
    for pid in pids:
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        found |= {
            sockets[inode[1]]
            for link in links
            if (inode := re.match(r"socket:\[(\d+)\]", link)) and inode[1] in sockets
        }
    return found


def shown(host: str) -> str:
    raw = bytes.fromhex(host)
    words = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    four = ".".join(map(str, words[-4:]))
    return (
        four
        if len(words) == 4
        else f"[::ffff:{four}]"
        if words[:12] == bytes(10) + b"\xff\xff"
        else f"[{words.hex()}]"
    )


@pytest.fixture
def slowly(raylets: Any, folder: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Make parts of `folder` by Ray with a slow fake model; the process answers to Ctrl-C as the command does."""
    (tmp_path / "notes").mkdir()
    program = (
        "import sys\n"
        "from clipdex.cli.common import interruptible\n"
        "from proofs.ray_kills import make_index\n"
        "with interruptible('goes on'): make_index(*sys.argv[1:])\n"
    )

    def start(seconds: float) -> subprocess.Popen[str]:
        words = [folder, tmp_path / "x.parts", tmp_path / "notes", raylets.address, seconds]
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def tasks(out: str) -> dict[int, str]:
    """The processes of Ray's that make parts of an index, with the names of their tasks."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if title.startswith(f"ray::{out} part "):
                found[int(entry.name)] = title
    return found


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_ctrl_c_ends_the_tasks_and_what_they_had_made_is_committed(
    slowly: Callable[..., subprocess.Popen[str]], tmp_path: Path, folder: Path
) -> None:
    process = slowly(1.0)
    names = wait_for(lambda: tasks("x.parts"))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # a task that waited for Ray would lend its CPU to a third
        assert len(tasks("x.parts")) <= 2
        time.sleep(0.05)
    assert all(re.fullmatch(r"ray::x\.parts part \d of 8.*", name) for name in names.values())
    wait_for(lambda: sum(each.stat().st_size for each in (tmp_path / "notes").iterdir()) >= 16 * 32)
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, out) == (130, "") and err == "clipdex: stopped; goes on\n"
    assert not tasks("x.parts")
    committed = 0
    for part in (tmp_path / "x.parts").glob("*part-*"):
        if part.is_dir() and (part / "manifest.json").exists():
            with Index.open(part) as opened:
                committed += len(opened)
    embedded = sum(each.stat().st_size for each in (tmp_path / "notes").iterdir()) // 16
    # A batch whose answer was awaited is lost; of two parts, each has one at most.
    assert 0 <= embedded - committed <= 2 * 2 * 4 and committed > 0
    status, _, err = ended(slowly(0.0))
    assert status == 0, err
    assert len(content(tmp_path / "x.parts")) == 60


def test_a_killed_driver_takes_its_tasks_with_it_and_the_next_run_goes_on(
    slowly: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = slowly(0.3)
    pids = wait_for(lambda: tasks("x.parts"))
    process.kill()
    process.communicate()
    status, _, err = ended(slowly(0.0))  # at once: it waits for the locks of the old tasks
    assert status == 0, err
    assert not any(is_alive(pid) and pid in tasks("x.parts") for pid in pids)
    assert len(content(tmp_path / "x.parts")) == 60 and not clipdex.verify_index(tmp_path / "x.parts").damages


def test_a_few_kills_of_workers_raylets_and_the_driver_lose_nothing(tmp_path: Path) -> None:
    from random import Random

    count = kill_all(tmp_path, 6, 1200, 2, Random(1))
    assert sum(count.kills.values()) >= 6 and count.again == count.lost and count.pictures >= 1200


def test_a_part_that_fails_is_named_with_its_node_and_the_reason(
    raylets: Any, folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe(
        partial(open_if_here, str(folder), os.getpid()), partial(slow_client, seconds=0.0), str(tmp_path)
    )
    with clipdex.Client(FakeTransport(embedding_dim=8)) as client, pytest.raises(clipdex.ClipdexError) as raised:
        index_by_ray(recipe, client.card, tmp_path / "x.parts", 2, RayUse(raylets.address))
    said = str(raised.value)
    assert re.search(r"part \d of .*x\.parts failed on the node \S+: .*pictures: no such file or directory", said)
    assert "every node must have the source at this path" in said and "\n" not in said


def open_if_here(folder: str, driver: int) -> Any:
    """The source, which only the driver's machine has."""
    if os.getpid() != driver:
        raise clipdex.SourceError(f"{folder}: no such file or directory")
    return open_sources([folder])


@pytest.mark.parametrize("words", [("--serve-on-workers", MODEL_REPOSITORY)], ids=["a Triton beside each part"])
def test_a_server_is_started_beside_each_part(
    raylets: Any, folder: Path, tmp_path: Path, words: tuple[object, ...], triton: Any
) -> None:
    command = ("index", folder, "-o", tmp_path / "x", "--parts", 2, "--engine", "ray")
    status, out, err = ended(clipdex_(*command, "--ray-address", raylets.address, *words))
    assert status == 0 and "60 indexed" in out, err
    with clipdex.connect(triton.address) as client:
        clipdex.index_pictures(client, folder, tmp_path / "plain", parts=2)
    assert content(tmp_path / "x") == content(tmp_path / "plain")
