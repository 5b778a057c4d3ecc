"""Networks that fail and servers that are killed, under calls that must all come back right, and in time.

.venv-dev/bin/python benchmarks/prove_faults.py      (make prove-faults)
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fault_proxy import FAULTS
from proofs.calls import GRACE_S, Tally
from proofs.network import killed_only_server, mixed_faults, passing_faults, staying_fault, two_tritons


def shown(what: str, tally: Tally, *, errors: bool = False) -> bool:
    """Print it -> whether nothing was lost, wrong or late."""
    sound = not tally.wrong and not tally.late and (errors or not tally.errors)
    print(f"{what}: {tally}{'' if sound else f'   NOT AS PROMISED ({tally.last_error})'}", flush=True)
    return sound


def shares(tally: Tally) -> str:
    total = max(1, tally.endpoints.total())
    return " : ".join(f"{count / total:.1%}" for _, count in sorted(tally.endpoints.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each fault")
    parser.add_argument("--kills", type=int, default=20)
    asked = parser.parse_args()
    logging.disable()
    began = time.monotonic()
    sound = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CLIPDEX_CACHE"] = cache
        for fault in FAULTS:
            sound.append(shown(f"{fault}, again and again", passing_faults(fault, asked.seconds)))
        for fault in FAULTS:
            tally = staying_fault(fault, timeout_s=2.0, seconds=asked.seconds / 3)
            sound.append(shown(f"{fault}, that stays, deadline 2 s", tally, errors=True))
        sound.append(shown("two servers, any fault at any time", mixed_faults(2 * asked.seconds)))
        sound.append(shown(f"the only server, killed {asked.kills} times", killed_only_server(asked.kills)))
        even, halfway, back = two_tritons(asked.seconds)
        sound.append(shown(f"two Tritons (split {shares(even)})", even))
        sound.append(shown(f"one of two Tritons killed half-way (split {shares(halfway)})", halfway))
        sound.append(shown(f"and started again half-way (split {shares(back)})", back))
    print(f"grace {GRACE_S} s; {time.monotonic() - began:.0f} s in all")
    sys.exit(not all(sound))
