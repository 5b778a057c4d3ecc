"""Cuts the power at random moments of a run, on a disk that is a file, and mounts what is left.

sudo .venv-dev/bin/python benchmarks/prove_power.py      (make prove-power)

tests/proofs/power.py says how. Needs root, loop devices and ext4; says so and ends with status 77 where they lack.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.power import LeftOut, Report, cut_power, cut_power_of_builds, in_own_namespace

_ROOM = 500 << 20


def memory() -> str | None:
    """A place in memory, if it is large enough: the layers make the losses, so no real disk need be waited for."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free > _ROOM else None


def say(report: Report, when: str, first: str, steps: str, seconds: float) -> None:
    """Print what the cuts did. when: when they came. first: what was not there yet at some of them."""
    print(
        f"{report.cuts} power cuts{when}: {len(report.lost)} lost or damaged anything ({report.made} before there "
        f"{first}, {report.ahead} with more than was acknowledged, {steps}), in {seconds:.0f} s",
        flush=True,
    )
    for lost in report.lost:
        print(f"  {lost}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200, help="of each kind of drive (200)")
    parser.add_argument("--builds", type=int, default=100, help="of each, while local features are made (100)")
    parser.add_argument("--controls", type=int, default=20, help="cuts of each writer that does not sync (20)")
    parser.add_argument("--seed", type=int, default=20261123)
    asked = parser.parse_args()
    in_own_namespace()
    rng, failed = Random(asked.seed), False
    with tempfile.TemporaryDirectory(dir=memory()) as made:
        for flushed_only, drive in ((False, "kept what it was sent"), (True, "kept what it was told to flush")):
            place = Path(made) / drive.replace(" ", "-")
            place.mkdir()
            began = time.monotonic()
            report = cut_power(place, asked.cuts, rng, flushed_only=flushed_only)
            shutil.rmtree(place)
            steps = f"up to {report.steps:,} steps"
            say(report, f", a drive that {drive}", "was an index", steps, time.monotonic() - began)
            failed |= bool(report.lost)
            if asked.builds:
                place.mkdir()
                began = time.monotonic()
                report = cut_power_of_builds(place, asked.builds, rng, flushed_only=flushed_only)
                shutil.rmtree(place)
                when = f" while local features were made, a drive that {drive}"
                steps = f"{report.steps:,} builds of 16 pictures completed"
                say(report, when, "were features", steps, time.monotonic() - began)
                failed |= bool(report.lost)
        controls: tuple[LeftOut, ...] = ("vectors", "features")
        for left_out in controls if asked.controls else ():
            place = Path(made) / f"without-{left_out}"
            place.mkdir()
            report = cut_power(place, asked.controls, rng, flushed_only=True, left_out=left_out)
            shutil.rmtree(place)
            print(
                f"the control, a writer that leaves out the sync of its {left_out}: {len(report.lost)} of "
                f"{report.cuts} cuts did damage",
                flush=True,
            )
            failed |= not report.lost
    sys.exit(failed)
