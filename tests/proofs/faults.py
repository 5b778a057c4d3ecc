"""A disk that refuses: every write, allocation, sync, cut and rename in turn, and disks that are full."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from proofs.feature_builds import RECIPE, check_built, commit_each_and_note_it, draw_index
from proofs.runs import check_run, commit_often_and_note_it, draw
from proofs.workload import Expected, Shared, check, write

import clipdex
from clipdex.index import compact_index
from clipdex.wire import FakeTransport

# As in failing_calls.c, each with what the kernel says when it fails.
KINDS = {
    "pwrite": errno.ENOSPC,
    "write": errno.ENOSPC,
    "posix_fallocate": errno.ENOSPC,
    "fsync": errno.EIO,
    "fdatasync": errno.EIO,
    "ftruncate": errno.EIO,
    "rename": errno.EIO,
    "renameat2": errno.EIO,
}

SEED = 7

DIM = 512  # of the real runs: a megabyte is soon full


def under_failing_calls(directory: Path) -> None:
    """Start this program again with failing_calls.c loaded, unless it is."""
    if hasattr(ctypes.CDLL(None), "fault_arm"):
        return
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print("skipped: a C compiler is needed to make system calls fail")
        sys.exit(77)
    library = directory / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library)}
    sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)


@dataclass(frozen=True)
class Fault:
    """The n-th call of a kind fails; with `for_ever`, every one after it as well."""

    kind: str
    nth: int
    for_ever: bool = False
    half: bool = False

    def __str__(self) -> str:
        how = "written in half" if self.half else "and all after it" if self.for_ever else "alone"
        return f"{self.kind} no. {self.nth} {how}"

    def arm(self, scope: Path) -> None:
        library = ctypes.CDLL(None)
        library.fault_scope(os.fsencode(scope))
        kind = list(KINDS).index(self.kind)
        library.fault_arm(kind, ctypes.c_long(self.nth), KINDS[self.kind], self.for_ever, self.half)


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit status, negative for a signal; what it said; the calls it made, by kind."""

    status: int
    said: str
    calls: dict[str, int]


def run_in_child(work: Callable[[], None], scope: Path, log: Path, fault: Fault | None) -> Outcome:
    """Run some work in a child process, with a fault in its calls below `scope`."""
    counts = log.with_suffix(".calls")
    child = os.fork()
    if child == 0:
        status = 70
        try:
            with log.open("wb") as file:
                os.dup2(file.fileno(), 2)
                os.dup2(file.fileno(), 1)
            (fault or Fault("pwrite", -1)).arm(scope)
            status = _status_of(work)
            library = ctypes.CDLL(None)
            library.fault_seen.restype = ctypes.c_long
            counts.write_text(" ".join(str(library.fault_seen(i)) for i in range(len(KINDS))))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    numbers = map(int, counts.read_text().split()) if counts.exists() else [0] * len(KINDS)
    counts.unlink(missing_ok=True)
    said = log.read_text()
    return Outcome(os.waitstatus_to_exitcode(ended), said, dict(zip(KINDS, numbers, strict=True)))


def _status_of(work: Callable[[], None]) -> int:
    try:
        work()
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1 if exc.code else 0
    except clipdex.IndexFault as exc:
        print(f"clipdex: {type(exc).__name__}: {exc}", file=sys.stderr)
        return 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70
    return 0


def every_call_in_turn(directory: Path, *, kinds: list[str], stride: int = 1) -> dict[str, tuple[int, int]]:
    """Let each call of a writer fail in turn, alone and for ever -> by kind, (runs, those that ended in an error).

    The run makes an index, commits twelve times, compacts, and commits twice more. AssertionError at the first
    thing that is not as promised.
    """
    place, log = directory / "disk", directory / "log"
    place.mkdir()
    index, expected, shared = place / "x.clipdex", Expected(), Shared()

    def work() -> None:
        write(index, Random(SEED), shared, commits=12)
        compact_index(index)
        write(index, Random(SEED), shared, commits=2)

    def start_over() -> None:
        shutil.rmtree(index, ignore_errors=True)
        shared.set("acknowledged", 0)

    whole = run_in_child(work, place, log, None)
    assert whole.status == 0, whole.said
    found: dict[str, tuple[int, int]] = {}
    for kind in kinds:
        runs = errors = 0
        for fault in _faults(kind, whole.calls[kind], stride):
            start_over()
            outcome = run_in_child(work, place, log, fault)
            _expect_a_sentence(outcome, fault)
            runs, errors = runs + 1, errors + (outcome.status == 1)
            left = [path.name for path in place.iterdir() if path != index]
            assert not left, f"{fault}: left behind: {left}"
            try:
                if shared.get("acknowledged") or index.exists():
                    check(index, shared.get("acknowledged"), expected)
                # There is space again.
                write(index, Random(SEED), shared, commits=1)
                compact_index(index)
                check(index, shared.get("acknowledged"), expected)
            except Exception as exc:
                raise AssertionError(f"{fault}: {exc!r} after: {outcome.said}") from exc
        if runs:
            found[kind] = runs, errors
    start_over()
    return found


def _faults(kind: str, calls: int, stride: int) -> Iterator[Fault]:
    for nth in range(1, calls + 1, stride):
        yield Fault(kind, nth)
        yield Fault(kind, nth, for_ever=True)
        if kind in ("pwrite", "write"):
            yield Fault(kind, nth, half=True)


def _expect_a_sentence(outcome: Outcome, fault: object) -> None:
    """A run ends well, or with status 1 and one sentence that says what failed; with nothing else."""
    where = f"{fault}: status {outcome.status}: {outcome.said}"
    assert outcome.status in (0, 1), where
    assert "Traceback" not in outcome.said, where
    if outcome.status == 1:
        (sentence,) = [line for line in outcome.said.splitlines() if line.startswith("clipdex: ")]
        said = sentence.removesuffix("; this does not mean that the index is damaged")
        assert "IndexDamaged" not in said and "damaged" not in said, where
        assert "not a sound" not in sentence, where


# A real run on a disk that breaks, or is full


def command(folder: Path, index: Path, shared: Shared) -> Callable[[], None]:
    """`clipdex index FOLDER --out INDEX`, with a fake server, that notes how many rows each commit returned."""

    def run() -> None:
        import clipdex.cli.connection_options as cli
        from clipdex.cli import main

        commit_often_and_note_it(32, shared)
        # Batches of two: what is decoded ahead must fit where no file may grow beyond 64 KiB.
        cli.connect = lambda *args, **options: clipdex.Client(FakeTransport(embedding_dim=DIM, max_batch_size=2))  # type: ignore[attr-defined]
        sys.argv = ["clipdex", "index", str(folder), "--out", str(index), "--workers", "1"]
        main()

    return run


def every_call_of_the_command(directory: Path, *, pictures: int, stride: int = 1) -> tuple[int, int]:
    """Let each call of `clipdex index` fail in turn, for ever -> (runs, those that ended with status 1)."""
    place, log = directory / "disk", directory / "log"
    place.mkdir()
    index, shared = place / "x.clipdex", Shared()
    written = draw(directory / "pictures", pictures, DIM)
    work = command(directory / "pictures", index, shared)
    whole = run_in_child(work, place, log, None)
    assert whole.status == 0, whole.said
    runs = errors = 0
    for kind, calls in whole.calls.items():
        for nth in range(1, calls + 1, stride):
            shutil.rmtree(index)
            shared.set("acknowledged", 0)
            fault = Fault(kind, nth, for_ever=True)
            outcome = run_in_child(work, place, log, fault)
            _expect_a_sentence(outcome, fault)
            runs, errors = runs + 1, errors + (outcome.status == 1)
            assert list(place.iterdir()) in ([], [index]), f"{fault}: left behind: {list(place.iterdir())}"
            if index.exists():
                check_run(index, written, shared.get("acknowledged"))
            outcome = run_in_child(work, place, log, None)
            assert outcome.status == 0, f"{fault}: does not go on: {outcome.said}"
            assert check_run(index, written, pictures) == pictures
    return runs, errors


def full_disk(directory: Path, *, pictures: int, sizes: list[int]) -> list[int]:
    """`clipdex index` on a tmpfs of so many KiB, which then grows -> rows that were there when it was full."""
    written = draw(directory / "pictures", pictures, DIM)
    place, log, rows = directory / "tmpfs", directory / "log", []
    place.mkdir()
    for size in sizes:
        with tmpfs(place, size):
            index, shared = place / "x.clipdex", Shared()
            work = command(directory / "pictures", index, shared)
            outcome = run_in_child(work, place, log, None)
            assert outcome.status == 1, f"{size} KiB: status {outcome.status}: {outcome.said}"
            _expect_a_sentence(outcome, f"{size} KiB")
            print(f"  {size} KiB: {next(line for line in outcome.said.splitlines() if 'clipdex: ' in line)}")
            rows.append(check_run(index, written, shared.get("acknowledged")) if index.exists() else 0)
            subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
            outcome = run_in_child(work, place, log, None)
            assert outcome.status == 0, f"{size} KiB: does not go on: {outcome.said}"
            assert check_run(index, written, pictures) == pictures
    return rows


@contextlib.contextmanager
def tmpfs(place: Path, kib: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def limited_file_size(directory: Path, *, pictures: int, sizes: list[int]) -> list[int]:
    """`clipdex index` where no file may grow beyond so many KiB -> the rows it had then. Needs no root."""
    written = draw(directory / "pictures", pictures, DIM)
    place, log, rows = directory / "limited", directory / "log", []
    place.mkdir()
    for size in sizes:
        index, shared = place / "x.clipdex", Shared()
        work = command(directory / "pictures", index, shared)

        def limited(size: int = size, work: Callable[[], None] = work) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size << 10, resource.RLIM_INFINITY))
            work()

        outcome = run_in_child(limited, place, log, None)
        assert outcome.status == 1, f"{size} KiB: status {outcome.status}: {outcome.said}"
        _expect_a_sentence(outcome, f"{size} KiB a file")
        rows.append(check_run(index, written, shared.get("acknowledged")) if index.exists() else 0)
        outcome = run_in_child(work, place, log, None)
        assert outcome.status == 0, f"{size} KiB: does not go on: {outcome.said}"
        assert check_run(index, written, pictures) == pictures
        shutil.rmtree(index)
    return rows


# A build of local features on such a disk


def build_command(index: Path, shared: Shared) -> Callable[[], None]:
    """`clipdex features build INDEX`, that notes how many pictures have features after each commit."""

    def run() -> None:
        import clipdex.cli.features as cli
        from clipdex.cli import main
        from clipdex.features.build_neighbours import build_neighbours

        commit_each_and_note_it(shared)
        cli.build_neighbours = partial(build_neighbours, fewest=1)  # type: ignore[attr-defined]
        settings = [
            "--kind",
            RECIPE.kind,
            "--most",
            str(RECIPE.most),
            "--side",
            str(RECIPE.side),
            "--workers",
            "1",
        ]
        sys.argv = ["clipdex", "features", "build", str(index), *settings]
        main()

    return run


class Build:
    """An index on a disk, of which the command makes the features: whole, or on a disk that refuses."""

    def __init__(self, directory: Path, pictures: int) -> None:
        self.place, self.log, self.shared = directory / "disk", directory / "log", Shared()
        self.place.mkdir()
        self.sound, self.wanted = draw_index(directory, pictures)
        self.index = self.place / "x.clipdex"
        self._work = build_command(self.index, self.shared)

    def start_over(self) -> None:
        shutil.rmtree(self.index, ignore_errors=True)
        shutil.copytree(self.sound, self.index)
        self.shared.set("acknowledged", 0)

    def run(self, fault: Fault | None, before: Callable[[], None] = lambda: None) -> Outcome:
        """before: called in the process of the command."""

        def work() -> None:
            before()
            self._work()

        return run_in_child(work, self.place, self.log, fault)

    def check_refused(self, outcome: Outcome, what: object) -> int:
        """What is there after a run that the disk refused something -> how many pictures have features."""
        _expect_a_sentence(outcome, what)
        assert list(self.place.iterdir()) == [self.index], f"{what}: left behind: {list(self.place.iterdir())}"
        return self._check(self.shared.get("acknowledged"), what, neighbours=False)

    def check_goes_on(self, what: object) -> None:
        outcome = self.run(None)
        assert outcome.status == 0, f"{what}: does not go on: {outcome.said}"
        assert self._check(len(self.wanted), what, neighbours=True) == len(self.wanted)

    def _check(self, acknowledged: int, what: object, *, neighbours: bool) -> int:
        try:
            return check_built(self.index, self.wanted, acknowledged, neighbours=neighbours)
        except Exception as exc:
            raise AssertionError(f"{what}: {exc!r} after: {self.log.read_text()}") from exc


def every_call_of_the_build(directory: Path, *, pictures: int, stride: int = 1) -> tuple[int, int]:
    """Let each call of `clipdex features build` fail in turn, for ever -> (runs, those with status 1)."""
    build = Build(directory, pictures)
    build.start_over()
    whole = build.run(None)
    assert whole.status == 0, whole.said
    runs = errors = 0
    for kind, calls in whole.calls.items():
        for nth in range(1, calls + 1, stride):
            build.start_over()
            fault = Fault(kind, nth, for_ever=True)
            outcome = build.run(fault)
            runs, errors = runs + 1, errors + (outcome.status == 1)
            build.check_refused(outcome, fault)
            build.check_goes_on(fault)
    return runs, errors


def build_on_full_disk(directory: Path, *, pictures: int, sizes: list[int]) -> list[int]:
    """A build on a tmpfs with so many KiB left -> how many pictures had features when it was full."""
    build, found = Build(directory, pictures), []
    needed = sum(-(-path.stat().st_size // 4096) * 4 for path in build.sound.iterdir()) + 32  # and a reader's -shm
    for size in sizes:
        with tmpfs(build.place, needed + size):
            build.start_over()
            outcome = build.run(None)
            assert outcome.status == 1, f"{size} KiB: status {outcome.status}: {outcome.said}"
            print(f"  {size} KiB: {next(line for line in outcome.said.splitlines() if 'clipdex: ' in line)}")
            subprocess.run(["mount", "-o", "remount,size=8m", build.place], check=True)
            found.append(build.check_refused(outcome, f"{size} KiB"))
            build.check_goes_on(f"{size} KiB")
    return found


def build_in_limited_files(directory: Path, *, pictures: int, sizes: list[int]) -> list[int]:
    """A build where no file may grow beyond so many KiB -> pictures that had features then. Needs no root."""
    build, found = Build(directory, pictures), []
    for size in sizes:
        build.start_over()
        limits = (size << 10, resource.RLIM_INFINITY)
        outcome = build.run(None, partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits))
        assert outcome.status == 1, f"{size} KiB: status {outcome.status}: {outcome.said}"
        found.append(build.check_refused(outcome, f"{size} KiB a file"))
        build.check_goes_on(f"{size} KiB a file")
    return found
