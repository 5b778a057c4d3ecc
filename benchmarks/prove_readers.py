"""Searches an index while a writer commits, replaces, removes, compacts and is killed; sends a second writer in.

.venv-dev/bin/python benchmarks/prove_readers.py      (make prove-readers)
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.readers import race_to_create, read_while_writing, refusal_of_the_command, refusal_times

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=100_000)
    parser.add_argument("--readers", type=int, default=2, help="processes")
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds that a writer lives")
    parser.add_argument("--races", type=int, default=100, help="of two writers to one new index")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        times = refusal_times(root, 100)
        seconds, said = refusal_of_the_command(root)
        print(f"a second writer refuses in {max(times) * 1e3:.1f} ms at most; as a command in {seconds:.2f} s:")
        print(f"  {said}")
        locked = race_to_create(root, asked.races)
        print(f"{asked.races} times two writers at once on a new index: one wrote; {locked} others were told so")
        began = time.monotonic()
        tally, compactions, kills = read_while_writing(root, asked.searches, asked.readers, asked.kill_every)
        print(
            f"{tally.searches:,} searches and {tally.refreshes:,} refreshes by {asked.readers} readers beside a "
            f"writer that compacted {compactions:,} times and was killed {kills}: only committed rows, each with "
            f"its own vector ({tally.compared:,} whole comparisons; {tally.renewed:,} refreshes met a compacted "
            f"index); longest search {tally.longest_search_us / 1e3:.0f} ms, longest refresh "
            f"{tally.longest_refresh_us / 1e3:.0f} ms, in {time.monotonic() - began:.0f} s"
        )
