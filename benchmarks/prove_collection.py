"""Ends processes that add items from 16 threads with SIGKILL: every acknowledged item is there, once.

A picture is there with its local features.

.venv-dev/bin/python benchmarks/prove_collection.py      (make prove-collection)
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.collection_kills import THREADS, kill_collections

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of a process (1000)")
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--directory", type=Path, help="on the disk to be tried; a temporary folder if not given")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.directory) as made:
        began = time.monotonic()
        changes, amid = kill_collections(Path(made), asked.kills, Random(asked.seed))
        print(
            f"{asked.kills:,} kills of a process that adds, replaces and removes items from {THREADS} threads "
            f"({amid:,} of them while changes were under way; {changes:,} changes acknowledged): every "
            "acknowledged change there, once, each picture with its local features, in "
            f"{time.monotonic() - began:.0f} s"
        )
