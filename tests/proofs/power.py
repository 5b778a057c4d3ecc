"""Power cuts: what a disk holds at a random moment of a run, mounted and opened.

Three file systems stand on each other, each in a file of the one below, on a loop device:

    disk    ext4, where the index is written
    cache   ext4, holds disk.img: what it has in memory is the drive's volatile cache
    host    ext4, holds cache.img: what has got here was flushed

A frozen file system takes no write, but can be read: an image in it stands still while it is copied, whatever
the writer, the journal and the loop device are in the middle of. Freezing `cache` and copying disk.img gives a
drive that kept every write it was sent; freezing `host` and copying cache.img gives one that kept what it was told
to flush, and of the rest whatever happened to be written back. What `disk` itself still had in memory is lost in
both.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

from proofs.feature_builds import build_for_ever, check_built, draw_index
from proofs.kills import write_for_ever
from proofs.workload import Expected, Shared, check

from clipdex.index import IndexWriter, vectors
from clipdex.index.side import database

# The layers from the lowest up, with the size of their images in MiB.
SIZES = {"host": 80, "cache": 64, "disk": 40}

# What the control leaves out the sync of.
LeftOut = Literal["vectors", "features"]

# An index grows through so many cuts; then the next one is made, so that cuts fall into its making as well.
CUTS_AN_INDEX = 10

_PR_SET_PDEATHSIG = 1


def in_own_namespace() -> None:
    """Start this program again where its mounts are its own and end with it, unless it is there."""
    why = None
    if os.geteuid() != 0:
        why = "mounting a file system needs root"
    for tool in ("mkfs.ext4", "losetup", "fsfreeze", "unshare"):
        if shutil.which(tool) is None:
            why = why or f"{tool} is needed"
    if why is None and os.environ.get("OWN_MOUNTS") != "1":
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        if subprocess.run([*command[:4], "true"], capture_output=True).returncode == 0:
            sys.exit(subprocess.run(command, env=os.environ | {"OWN_MOUNTS": "1"}).returncode)
        why = "this machine lets nobody mount anything"
    if why is not None:
        print(f"skipped: {why}")
        sys.exit(77)


@dataclass
class Report:
    """cuts: how many. made: those before there was an index. ahead: those that found more than was acknowledged.
    lost: what was wrong, by cut; to be empty."""

    cuts: int = 0
    made: int = 0
    ahead: int = 0
    steps: int = 0
    lost: list[str] = field(default_factory=list)


def cut_power(
    directory: Path, cuts: int, rng: Random, *, flushed_only: bool, left_out: LeftOut | None = None
) -> Report:
    """Cut so many times. left_out: what the writer does not sync: this must be noticed."""
    report, expected = Report(), Expected()
    with layers(directory) as places, contextlib.ExitStack() as running:
        for cut in range(cuts):
            if cut % CUTS_AN_INDEX == 0:
                running.close()
                shared = Shared()
                name = f"{cut // CUTS_AN_INDEX}.clipdex"
                # Not the one just left: a removal that is not flushed comes back in parts.
                shutil.rmtree(places["disk"] / f"{cut // CUTS_AN_INDEX - 2}.clipdex", ignore_errors=True)
                write = partial(write_for_ever, places["disk"] / name, Random(rng.random()), shared)
                writer = running.enter_context(_child(partial(_unsynced, left_out, write)))
            os.kill(writer, signal.SIGCONT)
            time.sleep(rng.uniform(0, 0.02 if cut % CUTS_AN_INDEX == 0 else 0.1))
            acknowledged = shared.get("acknowledged")
            image = _copy(directory, places, flushed_only)
            os.kill(writer, signal.SIGSTOP)  # it has no need to run while its past is looked at
            report.cuts += 1
            look = partial(_recover, acknowledged=acknowledged, expected=expected, report=report)
            what = f"cut {cut}, {acknowledged} steps acknowledged"
            _look_after(directory, image, flushed_only, name, look, what, report)
    return report


def cut_power_of_builds(directory: Path, cuts: int, rng: Random, *, flushed_only: bool) -> Report:
    """Cut so many times while local features and their neighbours are made, of the pictures of one index."""
    report = Report()
    sound, wanted = draw_index(directory, 16)
    with layers(directory) as places, contextlib.ExitStack() as running:
        index, shared = places["disk"] / "built.clipdex", Shared()
        shutil.copytree(sound, index)
        subprocess.run(["sync", "--file-system", *places.values()], check=True)
        child = running.enter_context(_child(partial(build_for_ever, index, shared)))
        for cut in range(cuts):
            os.kill(child, signal.SIGCONT)
            time.sleep(rng.uniform(0, 0.5))
            builds, acknowledged = shared.get("begun"), shared.get("acknowledged")
            neighbours = bool(shared.get("compactions"))
            image = _copy(directory, places, flushed_only)
            os.kill(child, signal.SIGSTOP)
            if shared.get("begun") != builds:
                acknowledged = 0  # all are being made anew
            report.cuts += 1
            look = partial(
                _recover_build, wanted=wanted, acknowledged=acknowledged, neighbours=neighbours, report=report
            )
            what = f"cut {cut}, features of {acknowledged} pictures acknowledged"
            _look_after(directory, image, flushed_only, index.name, look, what, report)
        report.steps = shared.get("begun")
    return report


def _look_after(
    directory: Path,
    image: Path,
    flushed_only: bool,
    name: str,
    look: Callable[[Path], None],
    what: str,
    report: Report,
) -> None:
    """Look at the index of that name on a disk that is mounted again."""
    with _mounted_again(directory, image, flushed_only) as disk:
        try:
            look(disk / name)
        except Exception as exc:  # gone with what it holds open before the disk is
            report.lost.append(f"{what}: {exc!r}")


def _recover(index: Path, acknowledged: int, expected: Expected, report: Report) -> None:
    if not index.exists() and acknowledged == 0:
        report.made += 1
        return
    steps = check(index, acknowledged, expected)
    IndexWriter(index).close()
    assert check(index, steps, expected) == steps
    report.ahead += steps > acknowledged
    report.steps = max(report.steps, steps)


def _recover_build(
    index: Path, wanted: dict[bytes, bytes], acknowledged: int, neighbours: bool, report: Report
) -> None:
    held = check_built(index, wanted, acknowledged, neighbours=neighbours)
    report.made += held == 0
    report.ahead += held > acknowledged


@contextlib.contextmanager
def layers(directory: Path) -> Iterator[dict[str, Path]]:
    """The three file systems, mounted -> where, by name."""
    below, places = directory, {}
    with contextlib.ExitStack() as stack:
        for name, size in SIZES.items():
            image, places[name] = below / f"{name}.img", directory / name
            image.write_bytes(bytes(size << 20))  # no holes: a write to the image then changes no metadata below
            # Without uninitialised tables, which the kernel would fill in the background.
            options = ["-E", "lazy_itable_init=0,lazy_journal_init=0"]
            subprocess.run(["mkfs.ext4", "-q", "-F", *options, image], check=True)
            fd = os.open(image, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            stack.enter_context(mounted(image, places[name]))
            below = places[name]
        yield places


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image on a loop device of its own, which goes with the mount."""
    place.mkdir(exist_ok=True)
    ended = subprocess.run(["mount", "-o", "loop,noatime", image, place], capture_output=True, text=True)
    if ended.returncode != 0:
        raise OSError(f"{image.name} cannot be mounted: {ended.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def _unsynced(left_out: LeftOut | None, work: Callable[[], None]) -> None:
    """Do some work without a sync that it needs."""
    connect = database.connect  # type: ignore[attr-defined]

    def connect_unsynced(path: Path, *, write: bool) -> sqlite3.Connection:
        db = connect(path, write=write)
        db.execute("PRAGMA synchronous = OFF")
        return db

    if left_out == "vectors":
        vectors._datasync = lambda fd: None
    elif left_out == "features":
        database.connect = connect_unsynced  # type: ignore[attr-defined]
    work()


@contextlib.contextmanager
def _child(work: Callable[[], None]) -> Iterator[int]:
    """A process that does some work without an end, until the block ends -> its id."""
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(3)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"


def _copy(directory: Path, places: dict[str, Path], flushed_only: bool) -> Path:
    """Copy an image that stands still meanwhile."""
    frozen, name = (places["host"], "cache.img") if flushed_only else (places["cache"], "disk.img")
    copy = directory / "copy.img"
    subprocess.run(["fsfreeze", "--freeze", frozen], check=True)
    try:
        subprocess.run(["cp", "--sparse=always", frozen / name, copy], check=True)
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", frozen], check=True)
    return copy


@contextlib.contextmanager
def _mounted_again(directory: Path, image: Path, flushed_only: bool) -> Iterator[Path]:
    """Mounting replays the journals, as after a start of the machine."""
    with contextlib.ExitStack() as stack:
        if flushed_only:
            image = stack.enter_context(mounted(image, directory / "cache-again")) / "disk.img"
        yield stack.enter_context(mounted(image, directory / "disk-again"))
