"""What indexing costs beside decoding and embedding: the share of a run's time at 10,000 pictures.

    .venv-dev/bin/python benchmarks/index_overhead.py [--pictures N] [--repository DIR --model NAME]

Draws the pictures, indexes them through a real Triton, and prints each stage's seconds. Overhead is everything the
joining thread does itself (place, submit, append, commit) and the scan; waiting for pixels and vectors is not.
"Other" is what no stage names: starting the workers, looking for what is gone. Figures: docs/performance.md.
"""

import argparse
import tempfile
from pathlib import Path

import clipdex
from clipdex_export.demo.questions import draw_demo_pictures
from clipdex_server import LocalTriton

OVERHEAD = ("scan", "place", "submit", "append", "commit")
WAITING = ("wait_decode", "wait_embed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, LocalTriton(options.repository) as server:
        folder = Path(directory) / "pictures"
        draw_demo_pictures(folder, options.pictures)
        with clipdex.connect(server.address, model=options.model) as client:
            report = clipdex.index_pictures(client, folder, Path(directory) / "x.clipdex")
    speed = f"{report.images_per_s:.0f} images/s"
    print(f"{options.model}: {report.indexed:,} pictures in {report.seconds:.1f} s, {speed}")
    for stage, seconds in report.stage_seconds.items():
        print(f"  {stage:<12} {seconds:8.2f} s {seconds / report.seconds:7.1%}")
    overhead = sum(report.stage_seconds[stage] for stage in OVERHEAD)
    joining = sum(report.stage_seconds[stage] for stage in (*OVERHEAD[1:], *WAITING))
    other = max(0.0, report.seconds - joining)
    print(f"  other        {other:8.2f} s {other / report.seconds:7.1%}")
    print(f"  overhead     {overhead:8.2f} s {overhead / report.seconds:7.1%}   ({' + '.join(OVERHEAD)})")


if __name__ == "__main__":
    main()
