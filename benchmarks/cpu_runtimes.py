"""onnxruntime and OpenVINO on this CPU, on the same files: speed, fidelity, memory, the time to load.

    python benchmarks/cpu_runtimes.py speed [--shape vit_b_32]      the image tower, random weights, in turn
    python benchmarks/cpu_runtimes.py memory [--shape vit_b_32]     one process each: load, first batches, memory
    python benchmarks/cpu_runtimes.py fidelity      the demo model on its 1,000 held-out pictures and 1,200 texts

On a machine that is never calm, `--rounds 2 --wait 0` wastes no time on waiting for it: then heed the core time.
bf16 is asked of OpenVINO as clipdex asks for it; what it then computes in is printed, since without AMX or
AVX512_BF16 that is float32. `fidelity` computes bfloat16 by rounding, so that it says the same on any machine.
Figures: docs/cpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import rounds as rounds_of
from random_clip import random_clip
from rounds import Sample, alternate, where

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "export")]

from clipdex.base.processor import this_processor  # noqa: E402
from clipdex.wire.runtimes.onnx_runtime import OnnxRuntime  # noqa: E402
from clipdex.wire.runtimes.open_vino import OpenVino  # noqa: E402
from clipdex.wire.runtimes.runtime import Opening, Session  # noqa: E402

BATCH = 32
# name -> the runtime, the precision of the file, whether bfloat16 is asked for
SIDES = {
    "onnxruntime float32": ("onnxruntime", "fp32", False),
    "onnxruntime int8": ("onnxruntime", "int8", False),
    "OpenVINO float32": ("openvino", "fp32", False),
    "OpenVINO bf16": ("openvino", "fp32", True),
    "OpenVINO int8": ("openvino", "int8", False),
    "OpenVINO int8, the rest bf16": ("openvino", "int8", True),
}
FIRST = next(iter(SIDES))


def tower(shape: str, precision: str) -> Path:
    return random_clip(shape, precision)[1] / f"{shape}_image" / "1" / "model.onnx"


def opened(side: str, file: Path) -> Session:
    name, _, bf16 = SIDES[side]
    runtime = OpenVino("this") if name == "openvino" else OnnxRuntime("this")
    return runtime.open("image", file, Opening(bf16=bf16))


def pixels(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)


def size_of(shape: str) -> int:
    from clipdex_export.random_checkpoint import SHAPES

    return int(SHAPES[shape].image_size)


def speed(shape: str, rounds: int) -> None:
    rows = pixels(size_of(shape))
    sessions = {side: opened(side, tower(shape, SIDES[side][1])) for side in SIDES}
    exact = sessions[FIRST].run({"pixels": rows}, "embedding")

    def full(session: Session) -> Callable[[], Sample]:
        def run() -> Sample:
            began = time.perf_counter()
            session.run({"pixels": rows}, "embedding")
            return Sample(BATCH / (time.perf_counter() - began), BATCH)

        return run

    def lone(session: Session) -> Callable[[], Sample]:
        def run() -> Sample:
            times = []
            for row in range(10):
                began = time.perf_counter()
                session.run({"pixels": rows[row : row + 1]}, "embedding")
                times.append(time.perf_counter() - began)
            return Sample(1e3 * statistics.median(times), 10)  # milliseconds

        return run

    batches = alternate({side: full(session) for side, session in sessions.items()}, rounds=rounds)
    singles = alternate({side: lone(session) for side, session in sessions.items()}, rounds=rounds)
    head()
    print(f"{shape}, image tower, random weights, batches of {BATCH}, and one picture\n")
    print(
        "| | images/s | ÷ onnxruntime float32 | core ms an image | ÷ | one picture, ms | ÷ | its core ms | "
        "smallest cosine | mean |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for side, session in sessions.items():
        found = session.run({"pixels": rows}, "embedding")
        cosines = (found * exact).sum(axis=1)
        cells = [
            side,
            f"{batches.rate(side):.1f}",
            batches.ratio(side, FIRST),
            f"{batches.core_ms(side):.1f}",
            batches.core_ratio(side, FIRST),
            f"{singles.rate(side):.0f}",
            singles.ratio(side, FIRST),
            f"{singles.core_ms(side):.0f}",
            f"{cosines.min():.6f}",
            f"{cosines.mean():.6f}",
        ]
        print(f"| {' | '.join(cells)} |")
    print(f"\nbatches: {batches.remark()}\n\none picture: {singles.remark()}")


def head() -> None:
    runtime = OpenVino("this")  # before the import below: it keeps OpenVINO from reporting itself
    import onnxruntime
    import openvino

    bf16 = "natively" if runtime._bf16 else "not: OpenVINO computes in float32 where bf16 is asked for"
    print(f"{where()}; {this_processor()}; multiplies bf16: {bf16}")
    print(
        f"onnxruntime {onnxruntime.__version__}, OpenVINO {openvino.__version__}; load {os.getloadavg()[0]:.0f}\n"
    )


def memory(shape: str) -> None:
    head()
    print(f"{shape}, image tower: one process each\n")
    print(
        "| | load, core s | again, from a cache | MB loaded | MB at most | a new batch size, core ms more |\n"
        "|---|---|---|---|---|---|"
    )
    for side, (name, precision, _) in SIDES.items():
        file = tower(shape, precision)
        found = in_a_process("once", side, file)
        cached = "" if name != "openvino" else f"{in_a_process('cached', side, file)['load']:.2f}"
        print(
            f"| {side} | {found['load']:.2f} | {cached} | {found['loaded']:.0f} | {found['peak']:.0f} | "
            f"{found['new_size_ms']:.0f} |",
            flush=True,
        )


def in_a_process(what: str, side: str, file: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, what, "--side", side, "--file", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def once(side: str, file: Path) -> None:
    """In a process of its own: what loading costs, and every size of batch for the first time and again."""
    name = SIDES[side][0]
    __import__(name) if name == "onnxruntime" else OpenVino("this")
    before, began = resident_mb(), time.process_time()
    session = opened(side, file)
    load, loaded = time.process_time() - began, resident_mb() - before
    rows = pixels(input_size(file))
    extra = []
    session.run({"pixels": rows}, "embedding")
    for size in (1, 2, 3, 5, 8):
        took = []
        for _ in range(2):
            began = time.process_time()
            session.run({"pixels": rows[:size]}, "embedding")
            took.append(time.process_time() - began)
        extra.append(1e3 * (took[0] - min(took[1:])))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    result = {"load": load, "loaded": loaded, "peak": peak, "new_size_ms": statistics.median(extra)}
    print(json.dumps(result))


def cached(side: str, file: Path) -> None:
    """In a process of its own: what loading costs when OpenVINO has compiled the file before."""
    runtime = OpenVino("this")
    with tempfile.TemporaryDirectory() as directory:
        runtime._core.set_property({"CACHE_DIR": directory})
        runtime.open("image", file, Opening(bf16=SIDES[side][2]))
        began = time.process_time()
        runtime.open("image", file, Opening(bf16=SIDES[side][2]))
        print(json.dumps({"load": time.process_time() - began}))


def input_size(file: Path) -> int:
    import onnx

    dims = onnx.load(file, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return int(dims[1].dim_value)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def fidelity() -> None:
    """The demo model, whose weights are trained: vectors by each runtime, against float32 by onnxruntime."""
    import int8

    from clipdex_export.bfloat16 import as_bfloat16
    from clipdex_export.sessions import open_session

    head()
    print(int8.HEAD.replace("int8", "the demo model"))
    with tempfile.TemporaryDirectory() as scratch:
        demo = int8.Demo(Path(scratch))
        quantized = {part: demo.quantized(part) for part in demo.towers}

        def line(title: str, files: dict[str, Path], open_: Callable[[Path], Callable[..., Any]]) -> None:
            runs = {part: open_(file) for part, file in files.items()}

            def run(path: Path, name: str, rows: np.ndarray) -> np.ndarray:
                part = "image" if name == "pixels" else "text"
                parts = [runs[part](name, rows[i : i + 64]) for i in range(0, len(rows), 64)]
                return np.concatenate(parts)

            print(demo.line(title, files["image"], files["text"], run), flush=True)

        def by(side: str) -> Callable[[Path], Callable[..., Any]]:
            def open_(file: Path) -> Callable[..., Any]:
                session = opened(side, file)
                return lambda name, rows: session.run({name: rows}, "embedding")

            return open_

        def rounded(file: Path) -> Callable[..., Any]:
            session = open_session(as_bfloat16(file).SerializeToString(), optimized=False)
            return lambda name, rows: session.run(["embedding"], {name: rows})[0]

        line("onnxruntime, float32", demo.towers, by("onnxruntime float32"))
        line("OpenVINO, float32", demo.towers, by("OpenVINO float32"))
        line("bf16, by rounding", demo.towers, rounded)
        line("OpenVINO, bf16 asked for", demo.towers, by("OpenVINO bf16"))
        line("onnxruntime, int8", quantized, by("onnxruntime int8"))
        line("OpenVINO, int8", quantized, by("OpenVINO int8"))
        line("int8, the rest bf16 by rounding", quantized, rounded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "fidelity", "once", "cached"])
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", type=float, default=20.0, help="seconds to wait for a calm moment")
    parser.add_argument("--side", default=FIRST, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    vars(rounds_of)["_WAIT_S"] = options.wait
    if not options.wait:
        vars(rounds_of)["_TRIES"] = 1
    if options.what == "speed":
        speed(options.shape, options.rounds)
    elif options.what == "memory":
        memory(options.shape)
    elif options.what == "fidelity":
        fidelity()
    else:
        (once if options.what == "once" else cached)(options.side, options.file)


if __name__ == "__main__":
    main()
