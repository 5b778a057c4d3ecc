"""How long an export takes and how much memory, and what the server then needs, in the shapes of the real models.

    python benchmarks/export_shapes.py vit_b_32 rn50
    python benchmarks/export_shapes.py --no-serve --keep /tmp/repository vit_h_14

Each shape is exported in a process of its own, so that its peak memory is its own, and then served by a local
Triton, which answers 64 pictures and 64 texts as onnxruntime in this process does, or the program fails. The
export is the real one, gate included; only the weights are made up, which changes neither time nor memory. RN50
is OpenCLIP's; where torchvision has no build for the machine, the tests' stand-in lends OpenCLIP its names.
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

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("client", "export", "server", "tests")]

import clipdex  # noqa: E402
from clipdex_export import export_model  # noqa: E402
from clipdex_export.random_checkpoint import SHAPES, write_random_checkpoint  # noqa: E402

OPEN_CLIP = {"rn50": "RN50"}
NAMES = [*SHAPES, *OPEN_CLIP]
DEFAULT = ["vit_b_32", "vit_b_16", "vit_l_14", "rn50"]
ROWS, BATCH = 64, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=DEFAULT, metavar="SHAPE", help=", ".join(NAMES))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="export into this repository and leave it there")
    parser.add_argument("--no-serve", action="store_true", help="do not start a server")
    parser.add_argument("--one", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.shapes) - set(NAMES))
    if unknown:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.one:
        print(json.dumps(measure(options.shapes[0], options.one)))
        return
    print(f"{len(os.sched_getaffinity(0))} cores\n")
    print(
        "| shape | parameters | on disk | export | peak memory | smallest cosine "
        "| server ready | pictures/s | texts/s | server's peak |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            repository = options.keep or Path(scratch)
            command = [sys.executable, __file__, shape, "--one", str(repository)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            row = (
                f"| {shape} | {found['bytes'] / 4e6:.0f} M | {found['bytes'] / 2**30:.2f} GiB "
                f"| {found['seconds']:.0f} s | {found['peak_bytes'] / 2**30:.1f} GiB | {found['cosine_min']:.9f} |"
            )
            if not options.no_serve:
                served = serve(shape, repository)
                row += (
                    f" {served['ready_s']:.1f} s | {served['images']:.1f} | {served['texts']:.1f} "
                    f"| {served['peak_bytes'] / 2**30:.1f} GiB |"
                )
        print(row, flush=True)
        print("  " + ", ".join(f"{stage} {s:.0f} s" for stage, s in found["stages"].items()), file=sys.stderr)


def measure(shape: str, repository: Path) -> dict[str, object]:
    """Export one shape in this process."""
    stages: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        source = f"open_clip:{OPEN_CLIP[shape]}" if shape in OPEN_CLIP else str(Path(scratch) / "checkpoint")
        if shape in OPEN_CLIP:
            from torchvision_standin import import_open_clip

            import_open_clip()
        else:
            write_random_checkpoint(Path(source), SHAPES[shape], weights=False)
        start = time.perf_counter()
        report = export_model(
            source,
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


def serve(shape: str, repository: Path) -> dict[str, float]:
    """A local Triton with this model alone: how soon it is ready, how fast, with how much memory."""
    from clipdex_server import LocalTriton

    rng = np.random.default_rng(0)
    texts = [f"a photo of {number} cats" for number in range(ROWS)]
    start = time.perf_counter()
    with LocalTriton(repository, stop_timeout_s=5) as server:
        ready_s = time.perf_counter() - start
        with clipdex.connect(server.address, model=shape) as client:
            side = client.card.image.size
            pixels = rng.integers(0, 256, (ROWS, side, side, 3), dtype=np.uint8)
            client.embed_pixels(pixels[:BATCH])
            client.embed_texts(texts[:BATCH])
            start = time.perf_counter()
            images = np.concatenate([client.embed_pixels(pixels[i : i + BATCH]) for i in range(0, ROWS, BATCH)])
            middle = time.perf_counter()
            captions = np.concatenate([client.embed_texts(texts[i : i + BATCH]) for i in range(0, ROWS, BATCH)])
            end = time.perf_counter()
        assert server.pid is not None
        peak = sum(peak_bytes(pid) for pid in with_children(server.pid))
    with clipdex.connect(f"inproc:{repository}", model=shape) as here:
        np.testing.assert_allclose(images[:BATCH], here.embed_pixels(pixels[:BATCH]), atol=1e-4)
        np.testing.assert_allclose(captions[:BATCH], here.embed_texts(texts[:BATCH]), atol=1e-4)
    return {
        "ready_s": ready_s,
        "images": ROWS / (middle - start),
        "texts": ROWS / (end - middle),
        "peak_bytes": peak,
    }


def with_children(pid: int) -> list[int]:
    """A process and all that it started: a Python backend runs in processes of its own."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
