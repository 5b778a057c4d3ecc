"""The memory that the client takes for a million pictures: its peak beside the ring, and whether it grows.

    .venv-dev/bin/python benchmarks/bulk_memory.py [--pictures N] [--shared-memory auto|never]

The pictures are drawn, 8 × 8 pixels each, and all different; the server is a fake in another process, so that the
client runs as fast as it can. Counted is the anonymous resident memory of the client's process, /proc's RssAnon.
Ends with status 1 if it is more than 200 MB, or grows by a byte a picture.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from proofs.bulk_memory import measure

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--shared-memory", choices=["auto", "never"], default="never")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), asked.pictures, asked.shared_memory, asked.workers)
    report = found.report
    print(
        f"{report.indexed:,} pictures by {report.transfer} in {report.seconds:.0f} s "
        f"({report.images_per_s:,.0f} a second): at most {found.peak / 1e6:.0f} MB, "
        f"growing by {found.slope:.2f} bytes a picture"
    )
    for stage, seconds in report.stage_seconds.items():
        print(f"  {stage:<12} {seconds:8.1f} s")
    sys.exit(found.peak > 200e6 or found.slope >= 1 or report.indexed != asked.pictures)
