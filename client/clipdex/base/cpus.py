"""The number of processors this process may use: fewer than the machine has, in a container or under a quota."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["cpu_quota", "has_quota", "usable_cpus"]


def usable_cpus() -> int:
    """Return how many threads or processes can compute at once, at least 1.

    These are the processors that it may be scheduled on, limited by the quota of its control groups (`docker
    --cpus`, limits in Kubernetes, systemd's CPUQuota), rounded up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _own_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def has_quota() -> bool:
    """Return whether a quota limits them below the schedulable processors, which other libraries count."""
    return hasattr(os, "sched_getaffinity") and usable_cpus() < len(os.sched_getaffinity(0))


@cache
def _own_quota() -> float | None:
    return cpu_quota(Path("/proc/self"))


def cpu_quota(process: Path) -> float | None:
    """Find the least quota of a process's control groups and their parents, in processors; None without one.

    process: its directory in /proc.
    """
    found = []
    for folder, unified in _groups(process):
        for around in _upwards(*folder):
            quota = _of_version_2(around) if unified else _of_version_1(around)
            if quota is not None:
                found.append(quota)
    return min(found, default=None)


def _groups(process: Path) -> Iterator[tuple[tuple[Path, Path], bool]]:
    """Yield ((mount point of a hierarchy, the process's group in it), whether it is cgroup v2)."""
    with suppress(OSError, ValueError):
        paths = {}  # controllers -> path of the group
        for line in (process / "cgroup").read_text("utf-8", "surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            paths[controllers] = path
        for line in (process / "mountinfo").read_text("utf-8", "surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            root, mount = (_unescaped(field) for field in before.split(" ")[3:5])
            kind, _, options = after.split(" ", 2)
            for controllers, path in paths.items():
                if kind == "cgroup2" and not controllers:
                    yield (Path(mount), _inside(mount, root, path)), True
                elif (
                    kind == "cgroup"
                    and "cpu" in controllers.split(",")
                    and "cpu" in options.split(" ")[-1].split(",")
                ):
                    yield (Path(mount), _inside(mount, root, path)), False


def _inside(mount: str, root: str, path: str) -> Path:
    """Locate a group below a mount, which may show only part of the hierarchy, as in a container."""
    relative = os.path.relpath(path, root)
    return Path(mount) if relative.startswith("..") or ".." in path.split("/") else Path(mount, relative)


def _upwards(mount: Path, group: Path) -> Iterator[Path]:
    yield group
    while group != mount and group != group.parent:
        group = group.parent
        yield group


def _of_version_2(group: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else _positive(int(quota) / int(period))
    return None


def _of_version_1(group: Path) -> float | None:
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return _positive(quota / int((group / "cpu.cfs_period_us").read_text()))
    return None


def _positive(quota: float) -> float | None:
    return quota if quota > 0 else None


def _unescaped(field: str) -> str:
    """Decode the octal escapes with which mountinfo writes blanks and the like."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
