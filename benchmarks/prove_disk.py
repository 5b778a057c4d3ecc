"""Lets each write, allocation, sync, cut and rename of an indexing run fail in turn, and fills the disk.

The same for a build of local features, and of the file that finds the nearest of them.

.venv-dev/bin/python benchmarks/prove_disk.py      (make prove-disk)

Python's calls and SQLite's are met alike, by a small library loaded before libc: needs Linux and a C compiler.
The full disk is a tmpfs of 1 MB and less, which needs root.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.faults import (
    KINDS,
    build_in_limited_files,
    build_on_full_disk,
    every_call_in_turn,
    every_call_of_the_build,
    every_call_of_the_command,
    full_disk,
    limited_file_size,
    under_failing_calls,
)


def sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def say_of_command(command: str, runs: int, errors: int, seconds: float) -> None:
    """Print what became of a command whose every call to the disk failed in turn."""
    print(
        f"{runs:,} runs of `{command}`, each on a disk that breaks at another call: {errors} ended with one "
        f"sentence and status 1, 0 with a traceback or a signal, in {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=1, help="try every so manieth call of a writer; 0: none")
    parser.add_argument("--command-stride", type=int, default=1, help="the same of `clipdex index`; 0: none")
    parser.add_argument("--build-stride", type=int, default=1, help="of `clipdex features build`; 0: none")
    parser.add_argument("--build-limits", type=sizes, default=[96, 64, 32], help="KiB a file, of a build")
    parser.add_argument("--build-sizes", type=sizes, default=[448, 320, 192, 128, 48], help="KiB, of a build")
    parser.add_argument(
        "--sizes", type=sizes, default=[1024, 896, 768, 640, 512, 384, 256, 192, 128, 64], help="KiB"
    )
    parser.add_argument("--limits", type=sizes, default=[512, 256, 128, 96, 64], help="KiB a file")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of call")
    asked = parser.parse_args()
    memory = (
        "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    )  # faults are made, so no disk need be waited for
    with tempfile.TemporaryDirectory(dir=memory) as made:
        root = Path(made)
        under_failing_calls(root)
        began = time.monotonic()
        if asked.stride:
            (root / "calls").mkdir()
            kinds = [asked.only] if asked.only else list(KINDS)
            found = every_call_in_turn(root / "calls", kinds=kinds, stride=asked.stride)
            for kind, (runs, errors) in found.items():
                print(f"{kind}: {runs} runs, {errors} ended with an IndexWriteError, the others could do without")
            runs = sum(runs for runs, _ in found.values())
            print(
                f"{runs:,} runs of a writer, each with a fault: 0 acknowledged rows lost, every index sound and "
                f"continued, in {time.monotonic() - began:.0f} s",
                flush=True,
            )
        if asked.command_stride:
            (root / "command").mkdir()
            began = time.monotonic()
            runs, errors = every_call_of_the_command(root / "command", pictures=100, stride=asked.command_stride)
            say_of_command("clipdex index", runs, errors, time.monotonic() - began)
        if asked.build_stride:
            (root / "build").mkdir()
            began = time.monotonic()
            runs, errors = every_call_of_the_build(root / "build", pictures=6, stride=asked.build_stride)
            say_of_command("clipdex features build", runs, errors, time.monotonic() - began)
        if asked.build_limits:
            (root / "limited-build").mkdir()
            had = build_in_limited_files(root / "limited-build", pictures=16, sizes=asked.build_limits)
            print(
                f"a build with an RLIMIT_FSIZE of {asked.build_limits} KiB: ended with status 1 when {had} "
                "pictures had features, then went on",
                flush=True,
            )
        if asked.build_sizes and os.geteuid() == 0:
            (root / "full-build").mkdir()
            had = build_on_full_disk(root / "full-build", pictures=16, sizes=asked.build_sizes)
            print(
                f"a build on a tmpfs with {asked.build_sizes} KiB left: ended with status 1 when {had} pictures "
                "had features, then went on",
                flush=True,
            )
        if asked.limits:
            (root / "limits").mkdir()
            rows = limited_file_size(root / "limits", pictures=600, sizes=asked.limits)
            print(
                f"RLIMIT_FSIZE of {asked.limits} KiB: ended with status 1 at {rows} rows, then went on", flush=True
            )
        if asked.sizes and os.geteuid() != 0:
            print("a full disk: skipped, mounting a tmpfs needs root")
        elif asked.sizes:
            (root / "full").mkdir()
            rows = full_disk(root / "full", pictures=600, sizes=asked.sizes)
            print(f"tmpfs of {asked.sizes} KiB: ended with status 1 at {rows} rows, then went on")
