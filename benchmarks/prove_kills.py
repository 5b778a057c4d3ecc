"""Ends indexing runs with SIGKILL at random moments and checks what is left: every committed row, each once.

The rows of the writer have local features; builds of those of files are ended as well.

.venv-dev/bin/python benchmarks/prove_kills.py      (make prove-kills)
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.feature_builds import kill_builds
from proofs.kills import kill_runs, kill_writers, opening_times

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of a writer (1000)")
    parser.add_argument("--runs", type=int, default=100, help="kills of a whole run with decoding processes (100)")
    parser.add_argument("--builds", type=int, default=100, help="kills of a build of local features (100)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the index whose opening is timed; 0: none")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--directory", type=Path, help="on the disk to be tried; a temporary folder if not given")
    asked = parser.parse_args()
    rng = Random(asked.seed)
    with tempfile.TemporaryDirectory(dir=asked.directory) as made:
        began = time.monotonic()
        (Path(made) / "writers").mkdir()
        phases, steps = kill_writers(Path(made) / "writers", asked.kills, rng)
        where = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
        print(
            f"{asked.kills:,} kills of a writer ({where}; {steps:,} steps written): 0 committed rows lost, "
            f"0 duplicates, opened every time, in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        if asked.runs:
            began = time.monotonic()
            (Path(made) / "runs").mkdir()
            killed, finished = kill_runs(Path(made) / "runs", asked.runs, 400, rng)
            print(
                f"{killed:,} kills of a whole run: 0 committed rows lost, 0 duplicates, no process left; "
                f"{finished} indexes of 400 pictures completed on the way, in {time.monotonic() - began:.0f} s",
                flush=True,
            )
        if asked.builds:
            began = time.monotonic()
            (Path(made) / "builds").mkdir()
            phases, whole = kill_builds(Path(made) / "builds", asked.builds, 16, rng)
            where = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
            print(
                f"{asked.builds:,} kills of a build of local features ({where}): none that was there lost, none "
                f"torn, no process left; {whole} builds of 16 pictures completed on the way, in "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        if asked.rows:
            readers, writers = opening_times(Path(made), asked.rows, 512, 20, rng)
            print(
                f"opening {asked.rows:,} rows × 512 after each of {len(readers)} kills inside a commit: "
                f"a reader {max(readers) * 1e3:.0f} ms at most, a writer {max(writers) * 1e3:.0f} ms at most"
            )
