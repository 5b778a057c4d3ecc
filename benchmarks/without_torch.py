"""What exporting ready-made ONNX needs on disk, and what towers for single rows cost.

    python benchmarks/without_torch.py       # the size of the extra `onnx`, in a new environment without torch
    python benchmarks/without_torch.py --shape   # exports in the shape of ViT-B/32, in an environment with torch

`first_answer.py` shows the whole way from nothing to an answer.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("client", "export", "server", "tests")]

from clipdex_export.sessions import open_session  # noqa: E402

VIT_B_32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
BATCH, ROUNDS = 16, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="store_true", help="measure the shape of ViT-B/32")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores\n")
    with tempfile.TemporaryDirectory() as scratch:
        (of_the_shape if options.shape else size_of_the_extra)(Path(scratch))


def size_of_the_extra(scratch: Path) -> None:
    """Install clipdex with and without the extra `onnx`."""
    environment = scratch / "environment"
    step("python -m venv", [sys.executable, "-m", "venv", environment])
    program = environment / "bin"
    empty = megabytes(environment)
    pip = [program / "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    step("pip install 'clipdex[cli]'", [*pip, f"{ROOT}[cli]"])
    base = megabytes(environment)
    step("pip install 'clipdex[cli,onnx]'", [*pip, f"{ROOT}[cli,onnx]"])
    whole = megabytes(environment)
    print(f"installed: {base - empty} MB for clipdex[cli], {whole - base} MB more for the extra onnx")
    for module in ("torch", "transformers", "skimage"):
        found = subprocess.run([program / "python", "-c", f"import {module}"], capture_output=True, check=False)
        assert found.returncode, f"{module} is installed"


def of_the_shape(scratch: Path) -> None:
    """Export ViT-B/32 in the layout of transformers.js; an image tower for single rows, freed and row by row."""
    from onnx_layouts import write_immich, write_transformers_js

    from clipdex_export.onnx_sources import load_onnx
    from clipdex_export.random_checkpoint import SHAPES, write_random_checkpoint

    write_random_checkpoint(scratch / "checkpoint", SHAPES["vit_b_32"], corpus=["a photo of a cat"], merges=50)
    write_transformers_js(scratch / "js", scratch / "checkpoint")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
        "from clipdex_export import export_model; "
        "export_model(sys.argv[1], name='js', repository=sys.argv[2])"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in ("client", "export"))
    step("export", [sys.executable, "-c", code, scratch / "js", scratch / "models"], PYTHONPATH=paths)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    print(f"its peak memory: {peak:.1f} GiB")

    write_immich(scratch / "rows", shape=VIT_B_32)
    tower: Any = load_onnx(str(scratch / "rows")).image.tower
    sessions = {}
    for freed in (True, False):
        path = scratch / f"{freed}.onnx"
        replace(tower, file=replace(tower.file, freed=freed)).write(path)
        sessions["freed" if freed else "row by row"] = open_session(path)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"pixels": pixels})
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"image tower, {name}: {BATCH / float(np.median(seconds[1:])):.1f} pictures/s in batches of {BATCH}")


def step(what: str, words: list[Any], **settings: str) -> str:
    start = time.perf_counter()
    done = subprocess.run(
        list(map(str, words)), env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{what} failed: {done.stderr or done.stdout}")
    print(f"{time.perf_counter() - start:6.1f} s  {what}", flush=True)
    return done.stdout


def megabytes(directory: Path) -> int:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) // 1_000_000


if __name__ == "__main__":
    main()
