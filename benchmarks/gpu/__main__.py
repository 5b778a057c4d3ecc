"""The whole GPU table, by one command on a machine with an NVIDIA GPU:

    python benchmarks/gpu

It makes an environment of its own (.venv-gpu: torch, onnxruntime-gpu and a Triton, as pip gives them), exports
ViT-B/32, B/16 and L/14 with random weights in half precision, and measures: the peak of the GPU; the image tower
alone, in ONNX Runtime with CUDA and with TensorRT, in PyTorch as it is and compiled; served by Triton, over gRPC
and by shared memory; and from JPEG files to a committed index. Every row stands alone: one that fails says why,
and the next goes on. Prints a table in Markdown, and writes it with everything else as JSON.

    python benchmarks/gpu --here                       with what is installed, in NVIDIA's container too
    python benchmarks/gpu --here --cpu --shapes tiny   the same steps on a CPU, to see that they run
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from environment import NoGpu, find_gpu, run_in_own_environment

SHAPES = ("vit_b_32", "vit_b_16", "vit_l_14", "vit_l_14_336", "tiny")


def main() -> None:
    arguments = parsed()
    try:
        gpu = None if arguments.cpu else find_gpu()
    except NoGpu as exc:
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
