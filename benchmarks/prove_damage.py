"""Flips 2,000 bits and cuts 500 times in an index, and flips 500 bits in the WAL of a killed writer.

The index has local features, and the file that finds the nearest of them; 500 bits more are flipped in the WAL
that a killed process has left of the features.

`verify` must find every one that falls in the data.

.venv-dev/bin/python benchmarks/prove_damage.py      (make prove-damage)
"""

import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from damage import damage_and_verify, write_features, write_index, write_killed_index, write_neighbours

FLIPS, CUTS, IN_WAL, SEED = 2000, 500, 500, 20261123

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        sound = Path(directory) / "sound.clipdex"
        write_index(sound)
        write_features(sound)
        write_neighbours(sound)
        killed = Path(directory) / "killed.clipdex"
        write_killed_index(killed)
        began = time.monotonic()
        rng = Random(SEED)
        missed = damage_and_verify(sound, Path(directory) / "flipped.clipdex", rng, flips=FLIPS, cuts=0)
        missed += damage_and_verify(sound, Path(directory) / "cut.clipdex", rng, flips=0, cuts=CUTS)
        missed += damage_and_verify(killed, Path(directory) / "log.clipdex", rng, flips=IN_WAL, cuts=0)
        lost = Path(directory) / "lost.clipdex"  # whose features a kill left in their log
        write_index(Path(directory) / "another.clipdex")
        write_features(Path(directory) / "another.clipdex", killed=lost)
        missed += damage_and_verify(lost, Path(directory) / "features.clipdex", rng, flips=IN_WAL, cuts=0)
    for what in missed:
        print(f"not found: {what}")
    print(
        f"{FLIPS:,} flipped bits, {CUTS} cuts, {IN_WAL} flipped bits in a killed writer's WAL, "
        f"and {IN_WAL} in that of local features: "
        f"{len(missed)} not found, in {time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(missed))
