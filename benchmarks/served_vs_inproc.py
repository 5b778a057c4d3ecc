"""What serving costs: full batches through Triton, by gRPC and in shared memory, against the runtime in process.

    .venv-dev/bin/python benchmarks/served_vs_inproc.py [--shape vit_b_32] [--batch 16] [--openvino] [--rounds 5]

Two requests are in flight, as a bulk run has them; the same file with random weights, the same pixels,
onnxruntime's defaults in process, or with `--openvino` a bf16 export by OpenVINO. `--batch` lowers max_batch_size,
so that samples are short and a shared machine leaves some of them alone; a request costs the server the same,
however many pictures it carries. Figures: docs/performance.md, docs/cpu.md.
"""

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
from random_clip import edited, random_clip
from rounds import Sample, alternate, where

import clipdex
from clipdex.apps.bench.measure_server import shared_copy
from clipdex.base.processor import this_processor
from clipdex.wire.runtimes.open_vino import OpenVino
from clipdex.wire.runtimes.runtime import Opening
from clipdex_server import LocalTriton

Compute = Callable[[np.ndarray], object]


def by_onnxruntime(file: Path) -> Compute:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["embedding"], {"pixels": pixels})


def by_openvino(file: Path) -> Compute:
    session = OpenVino("this").open("image", file, Opening(bf16=this_processor().gains_by_bf16))
    return lambda pixels: session.run({"pixels": pixels}, "embedding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--openvino", action="store_true", help="a bf16 export, by OpenVINO on both sides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4, help="measured a round and side")
    options = parser.parse_args()
    _, repository = random_clip(options.shape, *(("bf16", "openvino") if options.openvino else ()))
    count, rows = options.requests, options.batch
    with tempfile.TemporaryDirectory() as directory:
        copy = edited(repository, Path(directory) / "repository", max_batch_size=rows)
        with LocalTriton(copy) as server, clipdex.connect(server.address) as client:
            size = client.card.image.size
            pixels = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
            file = repository / f"{options.shape}_image" / "1" / "model.onnx"
            compute = (by_openvino if options.openvino else by_onnxruntime)(file)

            def in_process() -> Sample:
                began = time.perf_counter()
                for _ in range(count):
                    compute(pixels)
                return Sample(count * rows / (time.perf_counter() - began), count * rows)

            def served(array: np.ndarray) -> Sample:
                """From the first answer on, when the pipe is full, to the last."""
                waiting = deque(client.submit_pixels(array) for _ in range(2))
                waiting.popleft().result()
                began = time.perf_counter()
                for sent in range(2, count + 3):
                    if sent <= count:
                        waiting.append(client.submit_pixels(array))
                    if waiting:
                        waiting.popleft().result()
                return Sample(count * rows / (time.perf_counter() - began), (count + 1) * rows)

            with shared_copy(client, pixels) as shared:
                sides = {
                    "in process": in_process,
                    "gRPC": lambda: served(pixels),
                    "shared memory": lambda: served(shared),
                }
                found = alternate(sides, rounds=options.rounds)
    print(f"{options.shape}, batches of {rows}; {where()}; {this_processor()}\n{found.remark()}\n")
    print("| | images/s | core ms an image | throughput ÷ in process | core time ÷ in process |")
    print("|---|---|---|---|---|")
    for side in sides:
        ratios = (
            ("", "") if side == "in process" else (f(side, "in process") for f in (found.ratio, found.core_ratio))
        )
        print(f"| {side} | {found.rate(side):.1f} | {found.core_ms(side):.1f} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
