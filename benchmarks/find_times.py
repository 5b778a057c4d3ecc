"""`clipdex find` on a folder: the first call, and calls after it, with nothing changed and with one picture more.

    .venv-dev/bin/python benchmarks/find_times.py [--pictures 1000] [--rounds 5]

Each call is a process of its own, as a user starts it, with a ViT-B/32 of random weights that is exported already.
"cold": the files of index and model have left the page cache, as posix_fadvise asks. Beside the time on the clock
stands that of the cores, which other programs on the machine lengthen less. 640 × 480 JPEGs, drawn. Figures:
docs/find.md.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_clip import random_clip
from rounds import where

from clipdex.apps.bench.measure_index import draw_photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, repository = random_clip()
    print(where())
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = Path(scratch) / "photos", Path(scratch) / "cache"
        paths = draw_photos(folder, options.pictures + options.rounds)
        kept = [path.rename(Path(scratch) / path.name) for path in map(Path, paths[options.pictures :])]
        words = [sys.executable, "-m", "clipdex", "find", "a cat sleeping", str(folder), "-r", str(repository)]

        def seconds() -> tuple[float, float]:
            environment = os.environ | {"CLIPDEX_CACHE": str(cache)}
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            began, used = time.perf_counter(), core_seconds()
            subprocess.run(words, env=environment, check=True, capture_output=True)
            return time.perf_counter() - began, core_seconds() - used

        report(f"first call, {options.pictures:,} pictures indexed", [seconds()])
        cold = []
        for _ in range(options.rounds):
            for place in (repository, cache):
                forget(place)
            cold.append(seconds())
        report("nothing changed, cold", cold)
        report("nothing changed, warm", [seconds() for _ in range(options.rounds)])
        more = []
        for path in kept:
            path.rename(folder / path.name)
            more.append(seconds())
        report("one picture more, warm", more)


def forget(place: Path) -> None:
    """Ask the kernel to drop the files below a directory from its page cache."""
    os.sync()
    for path in place.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def core_seconds() -> float:
    """What all processes that ended have used of the cores."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(what: str, times: list[tuple[float, float]]) -> None:
    walls, cores = zip(*times, strict=True)
    span = f"({min(walls):.2f} to {max(walls):.2f})" if len(walls) > 1 else ""
    print(
        f"{what:<36} {statistics.median(walls):8.2f} s; cores {statistics.median(cores):7.2f} s  {span}",
        flush=True,
    )


if __name__ == "__main__":
    main()
