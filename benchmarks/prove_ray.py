"""Ends Ray's workers, its raylets and the command with SIGKILL while parts are made, and checks what is left.

.venv-ray/bin/python benchmarks/prove_ray.py      (make prove-ray)

Eight parts by Ray over a fake model on raylets of 127.0.0.1, index after index, until so many kills have hit. Each
index must have every picture once, with its vector; and exactly those pictures were embedded again that a killed
part had embedded and not committed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.ray_kills import kill_all

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=700, help="of each index (700)")
    parser.add_argument("--raylets", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20261128)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        count = kill_all(Path(made), asked.kills, asked.pictures, asked.raylets, Random(asked.seed))
    killed = ", ".join(f"{number} of a {kind}" for kind, number in sorted(count.kills.items()))
    print(
        f"{sum(count.kills.values())} kills ({killed}) over {count.indexes} indexes of 8 parts, "
        f"{count.pictures:,} pictures: 0 lost, 0 twice; {count.again:,} were embedded again, the {count.lost:,} "
        f"that killed parts had not committed; {count.never_killed} parts were never killed, and embedded each "
        f"picture once; in {time.monotonic() - began:.0f} s"
    )
