"""How long an export takes and how much memory, in the shapes of the real models, with random weights.

    python benchmarks/export_shapes.py vit_b_32 vit_l_14
    python benchmarks/export_shapes.py --keep /tmp/repository vit_b_32

Each shape is exported in a process of its own, so that its peak memory is its own. The export is the real
one, gate included; only the weights are made up, which changes neither time nor memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "export")]

from clipdex_export import export_model  # noqa: E402
from clipdex_export.random_checkpoint import SHAPES, write_random_checkpoint  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["vit_b_32"], metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="export into this repository and leave it there")
    parser.add_argument("--one", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.shapes) - set(SHAPES))
    if unknown:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if options.one:
        print(json.dumps(measure(options.shapes[0], options.one)))
        return
    print(f"{len(os.sched_getaffinity(0))} cores\n")
    print("| shape | parameters | on disk | time | peak memory | smallest cosine |")
    print("|---|---|---|---|---|---|")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, __file__, shape, "--one", str(options.keep or scratch)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(
            f"| {shape} | {found['bytes'] / 4e6:.0f} M | {found['bytes'] / 2**30:.2f} GiB "
            f"| {found['seconds']:.0f} s | {found['peak_bytes'] / 2**30:.1f} GiB | {found['cosine_min']:.9f} |",
            flush=True,
        )
        print("  " + ", ".join(f"{stage} {s:.0f} s" for stage, s in found["stages"].items()), file=sys.stderr)


def measure(shape: str, repository: Path) -> dict[str, object]:
    """Export one shape in this process."""
    stages: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_random_checkpoint(checkpoint, SHAPES[shape], weights=False)
        start = time.perf_counter()
        report = export_model(
            checkpoint,
            name=shape,
            repository=repository,
            allow_random=True,
            overwrite=True,
            progress=lambda stage: stages.append((stage, time.perf_counter())),
        )
        end = time.perf_counter()
    ends = [at for _, at in stages[1:]] + [end]
    parity = report.card.parity
    return {
        "bytes": report.bytes_on_disk,
        "seconds": end - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cosine_min": min(parity["image_cosine_min"], parity["text_cosine_min"]),
        "stages": {stage: at - begun for (stage, begun), at in zip(stages, ends, strict=True)},
    }


if __name__ == "__main__":
    main()
