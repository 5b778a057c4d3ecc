"""How many processors a process may use: what the scheduler allows it, and what its control groups leave."""

import math
import os

import pytest

from clipdex.apps.duplicates.candidate_pairs import in_threads
from clipdex.base import cpus
from clipdex.base.cpus import cpu_quota, usable_cpus
from clipdex.pipeline.decode import DecodePool
from clipdex.pipeline.ring import PixelRing
from clipdex.search.spans import cores
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


@pytest.fixture
def process(tmp_path):
    """A process in /proc, and hierarchies of control groups below tmp_path."""

    def process(groups, mounts, files):
        """groups: lines of /proc/self/cgroup. mounts: (root, mount point, kind, options). files: path -> text."""
        folder = tmp_path / "proc"
        folder.mkdir()
        (folder / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = [
            f"3{i} 23 0:2{i} {root} {tmp_path}/{mount} rw,nosuid shared:9 - {kind} {kind} {options}\n"
            for i, (root, mount, kind, options) in enumerate(mounts)
        ]
        (folder / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + "".join(lines))
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return folder

    return process


V2 = [("/", "cg", "cgroup2", "rw,nsdelegate")]
V1 = [("/", "cg/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"), ("/", "cg/cpuset", "cgroup", "rw,cpuset")]


def version_1(quota, period=100_000, at="cg/cpu,cpuacct"):
    return {f"{at}/cpu.cfs_quota_us": f"{quota}\n", f"{at}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        (["0::/"], V2, {"cg/cpu.max": "50000 100000\n"}, 0.5),
        (["0::/"], V2, {"cg/cpu.max": "max 100000\n"}, None),
        (["0::/a/b"], V2, {"cg/a/b/cpu.max": "max 100000", "cg/a/cpu.max": "150000 100000"}, 1.5),
        (["0::/a/b"], V2, {"cg/a/b/cpu.max": "300000 100000", "cg/a/cpu.max": "200000 100000"}, 2),
        (["0::/a/b"], V2, {"cg/a/b/cpu.max": "100000 100000", "cg/a/cpu.max": "200000 100000"}, 1),
        (["0::/../../else"], V2, {"cg/cpu.max": "70000 100000"}, 0.7),
        (["0::/docker/x"], [("/docker/x", "cg", "cgroup2", "rw")], {"cg/cpu.max": "250000 100000"}, 2.5),
        (["4:cpu,cpuacct:/", "3:cpuset:/"], V1, version_1(150_000), 1.5),
        (["4:cpu,cpuacct:/", "0::/"], V1, version_1(-1), None),
        (["4:cpu,cpuacct:/k/pod"], V1, version_1(-1, at="cg/cpu,cpuacct/k/pod") | version_1(80_000), 0.8),
        (["4:cpu:/docker/x"], [("/docker/x", "cg/cpu", "cgroup", "rw,cpu")], version_1(10, 20, "cg/cpu"), 0.5),
        (["0::/"], V2, {"cg/cpu.max": "nonsense"}, None),
        (["0::/"], V2, {"cg/cpu.max": "5 0"}, None),
        (["nonsense"], V2, {"cg/cpu.max": "50000 100000"}, None),
        ([], [], {}, None),
    ],
)
def test_the_quota_is_the_least_of_the_groups_and_those_around_them(process, groups, mounts, files, quota):
    assert cpu_quota(process(groups, mounts, files)) == quota


def test_a_process_without_proc_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "nothing") is None


@pytest.fixture
def under(monkeypatch):
    def under(quota, allowed=8):
        monkeypatch.setattr(cpus, "_own_quota", lambda: quota)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)

    return under


@pytest.mark.parametrize(
    ("quota", "allowed", "usable"),
    [(0.5, 8, 1), (1.5, 8, 2), (2.0, 8, 2), (99.0, 8, 8), (None, 3, 3), (1e-6, 2, 1)],
)
def test_a_quota_is_rounded_up_and_never_none_or_more_than_allowed(under, quota, allowed, usable):
    under(quota, allowed)
    assert usable_cpus() == usable
    assert usable == (allowed if quota is None else max(1, min(allowed, math.ceil(quota))))
    assert cpus.has_quota() == (usable < allowed)


def test_case_24_all_that_counts_cores_keeps_to_the_quota(under, monkeypatch):
    from clipdex.apps.bench.machine import this_machine
    from clipdex.apps.duplicates import candidate_pairs as candidates

    under(1.5)
    spec = FakeTransport().card.image
    with PixelRing(spec.size, 4, 2) as ring:
        assert DecodePool(spec, ring)._count == 2
    assert cores() == 2
    assert this_machine().cores == 2
    asked = []
    pool = candidates.ThreadPoolExecutor  # type: ignore[attr-defined]
    monkeypatch.setattr(
        candidates,
        "ThreadPoolExecutor",
        lambda threads, **options: asked.append(threads) or pool(threads, **options),
    )
    assert list(in_threads(abs, [-1, -2])) == [1, 2]
    assert asked == [2]


def test_a_model_in_this_process_computes_on_as_many_threads_as_the_quota_allows(under, monkeypatch):
    pytest.importorskip("onnxruntime")
    from conftest import MODEL_REPOSITORY

    from clipdex.wire.runtimes.inproc import InprocTransport

    asked = []
    for quota in (1.5, None):
        under(quota)
        transport = InprocTransport(MODEL_REPOSITORY)
        library = transport._runtime("onnxruntime").library  # type: ignore[attr-defined]
        session = library.InferenceSession
        monkeypatch.setattr(
            library,
            "InferenceSession",
            lambda file, options, make=session, **rest: (
                asked.append(options.intra_op_num_threads) or make(file, options, **rest)
            ),
        )
        transport._session("demo_image")
        transport.close()
        monkeypatch.setattr(library, "InferenceSession", session)
    assert asked == [2, 0]
