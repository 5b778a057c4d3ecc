"""SIGKILL of Ray's workers, of its raylets and of the command, while the parts of an index are made.

Every process that makes a part writes down each picture that it has embedded. So what was made again is counted:
it must be, exactly, what the killed parts had embedded and not committed.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from proofs.runs import draw

import clipdex
from clipdex.index import Index, verify_index
from clipdex.index.part_plan import PartPlan, is_parted
from clipdex.pipeline import run
from clipdex.pipeline.engines.index_by_ray import RayUse, index_by_ray
from clipdex.pipeline.engines.part_job import Recipe
from clipdex.pipeline.index_parts import part_place
from clipdex.sources import open_sources
from clipdex.wire import FakeTransport

TESTS = Path(__file__).resolve().parent.parent
PARTS, DIM, BATCH = 8, 8, 4
KINDS = ("worker", "worker", "worker", "raylet", "driver")
_DIGEST = 16
_PATIENCE_S = 120.0


def slow_client(notes: str, seconds: float) -> clipdex.Client:
    """A client of a slow fake model, in the process of a part: it commits often, and notes what is embedded."""
    run._COMMIT_S = 2.0
    fd = os.open(f"{notes}/{os.getpid()}-{time.time_ns()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(model: str, inputs: Mapping[str, np.ndarray]) -> None:
        os.write(fd, b"".join(digest(row) for row in inputs["pixels"]))
        time.sleep(seconds)

    return clipdex.Client(FakeTransport(embedding_dim=DIM, max_batch_size=BATCH, fault=note))


def digest(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(pixels.tobytes(), digest_size=_DIGEST).digest()


def make_index(folder: str, out: str, notes: str, address: str, seconds: str) -> None:
    """What the driver does, in a process of its own."""
    recipe = Recipe(
        partial(open_sources, [folder]), partial(slow_client, seconds=float(seconds)), notes, {"workers": 1}
    )
    with clipdex.Client(FakeTransport(embedding_dim=DIM)) as client:
        use = RayUse(address, retries=1000)
        index_by_ray(recipe, client.card, Path(out), PARTS, use, progress=lambda _: None)


@dataclass
class Count:
    """kills: by kind. again: pictures embedded again. lost: embedded, and not committed, at a kill."""

    kills: Counter[str] = field(default_factory=Counter)
    again: int = 0
    lost: int = 0
    indexes: int = 0
    pictures: int = 0
    never_killed: int = 0

    def add(self, other: Count) -> None:
        self.kills += other.kills
        for name in ("again", "lost", "indexes", "pictures", "never_killed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ClusterTrouble(Exception):
    """The cluster does not do what a test needs of it."""


@contextmanager
def cluster(raylets: int) -> Iterator[Any]:
    """A head that makes no parts, and raylets with a CPU each, all on 127.0.0.1."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # which lets Ray listen on 127.0.0.1 alone
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(Path(clipdex.__file__).parent.parent)])
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}
    beats = {"health_check_period_ms": 500, "health_check_failure_threshold": 5}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": beats, **store}
    _wait_longer_for_nodes()
    try:
        made = Cluster(initialize_head=True, head_node_args=head)
    except Exception as exc:
        raise ClusterTrouble("no head would start") from exc

    def raylet_of_a_cpu() -> None:
        try:
            made.add_node(wait=False, num_cpus=1, **store)
        except Exception as exc:  # a bare one is Ray's own
            raise ClusterTrouble("a raylet would not start") from exc

    made.raylet_of_a_cpu = raylet_of_a_cpu
    try:
        for _ in range(raylets):
            made.raylet_of_a_cpu()
        yield made
    finally:
        made.shutdown()


def _wait_longer_for_nodes() -> None:
    """Let a node have three minutes to start: on a busy machine, Ray's half a minute is not enough."""
    from ray._private import services

    ask = services.get_node

    def get_node(address: str, node_id: str) -> Any:
        deadline = time.monotonic() + 180
        while True:
            try:
                return ask(address, node_id)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    services.get_node = get_node


def kill_all(directory: Path, kills: int, pictures: int, raylets: int, rng: Random) -> Count:
    """Make indexes, one after the other, until so many kills have hit -> what was counted.

    An index whose cluster breaks down of itself, as on an overloaded machine, is given up with its kills.
    """
    written = draw(directory / "pictures", pictures, DIM)
    paths = digests(list(written))
    count, begun = Count(), 0
    while sum(count.kills.values()) < kills:
        try:
            with cluster(raylets) as made:
                while (left := kills - sum(count.kills.values())) > 0:
                    place, begun = directory / f"{begun}", begun + 1
                    (place / "notes").mkdir(parents=True)
                    count.add(_Siege(made, directory / "pictures", place, paths, rng).end_with(left, written))
                    print(count, flush=True)
        except ClusterTrouble as exc:
            print(f"given up, with its kills, an index whose cluster broke down: {exc}", flush=True)
    return count


def digests(paths: list[bytes]) -> dict[bytes, bytes]:
    """What a model sees of each picture -> its path."""
    seen: list[bytes] = []
    with clipdex.Client(
        FakeTransport(embedding_dim=DIM, fault=lambda _, inputs: seen.extend(map(digest, inputs["pixels"])))
    ) as client:
        client.embed_images([os.fsdecode(path) for path in paths])
    assert len(set(seen)) == len(paths)
    return dict(zip(seen, paths, strict=True))


class _Siege:
    """One index under fire."""

    def __init__(self, made: Any, folder: Path, place: Path, paths: dict[bytes, bytes], rng: Random) -> None:
        self._cluster, self._folder, self._count, self._rng = made, folder, Count(), rng
        self._out, self._notes, self._paths = place / f"x{place.name}.parts", place / "notes", paths
        self._lost: Counter[int] = Counter()
        self._killed: set[int] = set()
        self._kept: dict[int, set[bytes]] = {}

    def end_with(self, kills: int, written: dict[bytes, np.ndarray]) -> Count:
        driver = self._start()
        try:
            driver = self._besiege(driver, kills)
            out, err = driver.communicate()
        finally:
            driver.kill()
        assert driver.returncode == 0, (driver.returncode, out, err)
        self._judge(written)
        return self._count

    def _besiege(self, driver: subprocess.Popen[str], kills: int) -> subprocess.Popen[str]:
        """Kill until there were enough, or there is nobody left to kill -> the last driver, which has ended."""
        deadline = time.monotonic() + 3600
        while True:
            wait = time.monotonic() + self._rng.uniform(0.3, 1.5)
            while time.monotonic() < wait and driver.poll() is None:
                time.sleep(0.02)
            if driver.poll() is not None:
                return driver
            assert time.monotonic() < deadline
            if sum(self._count.kills.values()) < kills and self._at_work():
                kind = self._rng.choice(KINDS)
                if self._strike(kind, driver):
                    self._count.kills[kind] += 1
                if driver.poll() is not None and driver.returncode < 0:
                    driver = self._start()

    def _start(self) -> subprocess.Popen[str]:
        program = "import sys; from proofs.ray_kills import make_index; make_index(*sys.argv[1:])"
        words = [str(self._folder), str(self._out), str(self._notes), self._cluster.address, "0.2"]
        return subprocess.Popen(
            [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def _at_work(self) -> dict[int, tuple[int, int]]:
        """Processes that make parts: pid -> (part, pid of the raylet). Ray shows the task as their title."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    title = (entry / "cmdline").read_bytes()
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                name = re.escape(self._out.name.encode())
                if task := re.match(rb"ray::" + name + rb" part (\d+) of", title):
                    found[int(entry.name)] = int(task[1]), parent
        return found

    def _strike(self, kind: str, driver: subprocess.Popen[str]) -> bool:
        """Kill somebody, wait until all whom that concerns are gone, and note what was lost -> whether it hit."""
        at_work = self._at_work()
        if not at_work:
            return False
        victim = self._rng.choice(list(at_work))
        raylet = at_work[victim][1]
        node = next(
            (n for n in self._cluster.worker_nodes if n.all_processes["raylet"][0].process.pid == raylet), None
        )
        if kind == "worker":
            os.kill(victim, signal.SIGKILL)
            concerned = {victim}
        elif kind == "raylet":
            if node is None or len(self._cluster.worker_nodes) < 2:
                return False
            concerned = {pid for pid, (_, parent) in at_work.items() if parent == raylet}
            os.kill(raylet, signal.SIGKILL)
        else:
            concerned = set(at_work)
            driver.kill()
            driver.communicate()
        self._wait_for_the_end_of(concerned)
        for pid in concerned:
            self._note_loss(pid, at_work[pid][0])
        if kind == "raylet":
            self._cluster.remove_node(node, allow_graceful=False)
            self._replace_raylet()
        return True

    def _replace_raylet(self) -> None:
        with suppress(ClusterTrouble):  # those that are left go on
            self._cluster.raylet_of_a_cpu()
        if not self._cluster.worker_nodes:
            raise ClusterTrouble("there is no raylet left")

    def _wait_for_the_end_of(self, pids: set[int]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while any(is_alive(pid) for pid in pids):
            assert time.monotonic() < deadline, f"{pids} are still there"
            time.sleep(0.005)

    def _note_loss(self, pid: int, part: int) -> None:
        """Note what a killed process had embedded and not committed; what was committed before must be there."""
        kept = self._committed(part)
        assert self._kept.get(part, set()) <= kept, f"committed rows of part {part} are gone"
        self._kept[part] = kept
        self._killed.add(part)
        mine = self._embedded(f"{pid}-*")[part]
        assert len(set(mine)) == len(mine), f"one process has embedded a picture of part {part} twice"
        self._lost[part] += len(set(mine) - kept)

    def _committed(self, part: int) -> set[bytes]:
        if not is_parted(self._out):
            return set()
        home, building = part_place(self._out, PartPlan.read(self._out), part)
        for place in (home, building, home):
            try:
                with Index.open(place) as opened:
                    found = [path for _, path in opened.live_paths()]
            except clipdex.IndexNotFound:
                continue
            assert len(set(found)) == len(found), f"part {part} has a picture twice"
            return set(found)
        return set()

    def _embedded(self, files: str = "*") -> dict[int, list[bytes]]:
        """By part, every picture as often as it was embedded, by processes whose notes are so named."""
        found: dict[int, list[bytes]] = defaultdict(list)
        if not is_parted(self._out):
            return found
        plan = PartPlan.read(self._out)
        for file in self._notes.glob(files):
            data = file.read_bytes()
            for at in range(0, len(data), _DIGEST):
                path = self._paths[data[at : at + _DIGEST]]
                found[plan.part_of(path)].append(path)
        return found

    def _judge(self, written: dict[bytes, np.ndarray]) -> None:
        """Nothing is lost, nothing is there twice, and what was made again is what the killed parts had lost."""
        report = verify_index(self._out)
        assert not report.damages, [damage.what for damage in report.damages]
        with Index.open(self._out) as opened:
            rows = opened.live_paths()
            assert sorted(path for _, path in rows) == sorted(written), "not every picture, each once"
            for row, path in rows:
                assert np.array_equal(opened.vectors[row], written[path]), f"{path!r} has another's vector"
        embedded = self._embedded()
        again = {part: len(each) - len(set(each)) for part, each in embedded.items()}
        for part, times in again.items():
            assert part in self._killed or not times, f"part {part}, which nobody killed, was made again"
            assert times == self._lost[part], f"part {part}: {times} made again, {self._lost[part]} lost"
        self._count.again += sum(again.values())
        self._count.lost += self._lost.total()
        self._count.pictures += len(rows)
        self._count.never_killed += PARTS - len(self._killed)
        self._count.indexes += 1


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
