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
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from proofs.kills import write_for_ever
from proofs.workload import Expected, Shared, check

from clipdex.index import IndexWriter, vectors

# The layers from the lowest up, with the size of their images in MiB.
SIZES = {"host": 80, "cache": 64, "disk": 40}

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


def cut_power(directory: Path, cuts: int, rng: Random, *, flushed_only: bool, sync: bool = True) -> Report:
    """Cut so many times. Without `sync`, the writer leaves out the sync of its vectors: this must be noticed."""
    report, expected = Report(), Expected()
    with layers(directory) as places, contextlib.ExitStack() as running:
        for cut in range(cuts):
            if cut % CUTS_AN_INDEX == 0:
                running.close()
                shared = Shared()
                name = f"{cut // CUTS_AN_INDEX}.clipdex"
                # Not the one just left: a removal that is not flushed comes back in parts.
                shutil.rmtree(places["disk"] / f"{cut // CUTS_AN_INDEX - 2}.clipdex", ignore_errors=True)
                writer = running.enter_context(_writer(places["disk"] / name, Random(rng.random()), shared, sync))
            os.kill(writer, signal.SIGCONT)
            time.sleep(rng.uniform(0, 0.02 if cut % CUTS_AN_INDEX == 0 else 0.1))
            acknowledged = shared.get("acknowledged")
            image = _copy(directory, places, flushed_only)
            os.kill(writer, signal.SIGSTOP)  # it has no need to run while its past is looked at
            report.cuts += 1
            try:
                with _mounted_again(directory, image, flushed_only) as disk:
                    _recover(disk / name, acknowledged, expected, report)
            except Exception as exc:
                report.lost.append(f"cut {cut}, {acknowledged} steps acknowledged: {exc!r}")
    return report


def _recover(index: Path, acknowledged: int, expected: Expected, report: Report) -> None:
    if not index.exists() and acknowledged == 0:
        report.made += 1
        return
    steps = check(index, acknowledged, expected)
    IndexWriter(index).close()
    assert check(index, steps, expected) == steps
    report.ahead += steps > acknowledged
    report.steps = max(report.steps, steps)


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


@contextlib.contextmanager
def _writer(index: Path, rng: Random, shared: Shared, sync: bool) -> Iterator[int]:
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if not sync:
                vectors._datasync = lambda fd: None
            write_for_ever(index, rng, shared)
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
