"""Kills Triton 20 times under one indexing run: the index must equal an undisturbed one, row for row.

.venv-dev/bin/python benchmarks/prove_restarts.py      (make prove-restarts)

SIGKILL, at random moments of the run, and a start anew on the same port each time. Bits of vectors are compared.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from clipdex.client.client import SharedMemoryUse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
from proofs.bulk_memory import Packed
from proofs.restarts import Killer, index_rows

import clipdex


def run(
    directory: Path, source: Packed, kill_at: list[int], shared_memory: SharedMemoryUse
) -> tuple[int, clipdex.RunReport]:
    with Killer(kill_at) as killer, clipdex.connect(killer.address, shared_memory=shared_memory) as client:
        report = clipdex.index_pictures(client, source, directory, workers=1, progress=killer.watch)
    return killer.killed, report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--shared-memory", choices=["auto", "never"], default="auto")
    parser.add_argument("--seed", type=int, default=20261124)
    asked = parser.parse_args()
    rng = Random(asked.seed)
    with tempfile.TemporaryDirectory() as made:
        source = Packed.draw(Path(made) / "pictures", asked.pictures)
        _, undisturbed = run(Path(made) / "a", source, [], asked.shared_memory)
        kill_at = sorted(rng.sample(range(64, asked.pictures - 200), asked.kills))
        began = time.monotonic()
        killed, report = run(Path(made) / "b", source, kill_at, asked.shared_memory)
        seconds = time.monotonic() - began
        (rows, bits), (rows_too, bits_too) = index_rows(Path(made) / "a"), index_rows(Path(made) / "b")
        same = rows == rows_too and np.array_equal(bits, bits_too)
    print(
        f"{killed} kills of Triton in one run over {report.indexed:,} pictures by {report.transfer}, "
        f"{seconds:.0f} s ({undisturbed.seconds:.0f} s undisturbed): {report.failed} failed, "
        + ("the same rows in the same order, bit for bit" if same else "THE INDEXES DIFFER")
    )
    sys.exit(not same or report.failed > 0 or killed < asked.kills)
