"""The whole GPU table, by one command on a machine with an NVIDIA GPU:

    python benchmarks/gpu

It makes an environment of its own (.venv-gpu: torch, onnxruntime-gpu and a Triton, as pip gives them), exports
ViT-B/32, B/16 and L/14 with random weights in half precision, and measures: the peak of the GPU; the image tower
alone, in ONNX Runtime with CUDA and with TensorRT, in PyTorch as it is and compiled; served by Triton, over gRPC
and by shared memory; and from JPEG files to a committed index. Every row stands alone: one that fails says why,
and the next goes on. Prints a table in Markdown, and writes it with everything else as JSON.

    python benchmarks/gpu --here                       with what is installed, in NVIDIA's container too
    python benchmarks/gpu --here --cpu --shapes tiny   the same steps on a CPU, to see that they run

Where no package registry is in reach, and torch for the GPU is there (docs/gpu.md has the steps):

    python benchmarks/gpu --fetch WHEELS               elsewhere: download the other packages
    python benchmarks/gpu --wheels WHEELS              there: install them in a folder, and measure
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from carried import CannotCarry, fetch, run_with
from environment import NoGpu, find_gpu, run_in_own_environment

SHAPES = ("vit_b_32", "vit_b_16", "vit_l_14", "vit_l_14_336", "tiny")


def main() -> None:
    arguments = parsed()
    try:
        if arguments.fetch is not None:
            return fetch(arguments.fetch, arguments.python, arguments.pieces)
        gpu = None if arguments.cpu else find_gpu()
        if not arguments.here and arguments.wheels is not None:
            sys.exit(run_with(arguments.wheels, sys.argv[1:]))
    except (NoGpu, CannotCarry) as exc:
        sys.exit(f"benchmarks/gpu: {exc}")
    if not arguments.here:
        sys.exit(run_in_own_environment(sys.argv[1:]))
    # Only now: nothing of this is needed to say that there is no GPU.
    from measure import measure

    measure(arguments, gpu)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES[:3], choices=SHAPES, metavar="SHAPE")
    parser.add_argument("--batch", type=int, default=64, help="pictures in a full batch (64)")
    parser.add_argument("--instances", type=int, default=2, help="copies of each tower that Triton keeps (2)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each window is measured (5)")
    parser.add_argument("--repeats", type=int, default=5, help="windows of which the median is taken (5)")
    parser.add_argument("--pictures", type=int, default=20_000, help="JPEG files for the run to an index (20000)")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where all is written (gpu.json)")
    parser.add_argument("--keep", type=Path, help="keep the exported models and engines in this directory")
    parser.add_argument(
        "--here", action="store_true", help="use the packages of this interpreter; install nothing"
    )
    parser.add_argument("--cpu", action="store_true", help="on the CPU: to see that it runs, not for figures")
    carried = parser.add_argument_group("a machine that reaches no registry")
    carried.add_argument("--fetch", type=Path, metavar="FOLDER", help="download wheels into FOLDER, and end")
    carried.add_argument("--python", default="3.12", metavar="X.Y", help="with --fetch: that machine's (3.12)")
    carried.add_argument(
        "--pieces",
        type=_megabytes,
        metavar="MB",
        help="with --fetch: cut files into pieces of MB megabytes",
    )
    carried.add_argument("--wheels", type=Path, metavar="FOLDER", help="install the wheels of FOLDER, and measure")
    return parser.parse_args()


def _megabytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of megabytes, 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
