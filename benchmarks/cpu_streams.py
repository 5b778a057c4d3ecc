"""Two requests at once on a CPU: OpenVINO's streams and hints, and onnxruntime's sessions and threads.

    python benchmarks/cpu_streams.py [--shape vit_b_32] [--precision fp32]

Two threads send batches of the image tower (random weights), each the next when it has the answer to the last; and
one thread does the same alone. A stream computes one request on its share of the threads. The memory is what a
process with one side alone holds after full batches, more than before it loaded the model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
from cpu_runtimes import pixels, resident_mb, size_of, tower
from rounds import Sample, alternate, where

from clipdex.wire.runtimes.onnx_runtime import OnnxRuntime
from clipdex.wire.runtimes.runtime import Opening, Session

CORES = len(os.sched_getaffinity(0))
# name -> OpenVINO's settings, or onnxruntime's sessions
SIDES: dict[str, dict[str, Any] | int] = {
    "OpenVINO, 1 stream (as exported)": {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"},
    "OpenVINO, 2 streams": {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "2"},
    "OpenVINO, THROUGHPUT": {"PERFORMANCE_HINT": "THROUGHPUT"},
    "OpenVINO, 1 stream of 1 thread": {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": 1,
    },
    "onnxruntime, 1 session (as exported)": 1,
    "onnxruntime, 2 sessions of 1 thread": 2,
}  # fmt: skip
FIRST = next(iter(SIDES))

Run = Callable[[np.ndarray], object]


def opened(side: str, file: Path) -> tuple[list[Run], str]:
    """-> what each of two threads calls with a batch, and what the runtime says of its streams."""
    settings = SIDES[side]
    if isinstance(settings, int):
        runtime = OnnxRuntime("this")
        sessions = [runtime.open("image", file, Opening(threads=settings - 1)) for _ in range(settings)]
        runs: list[Run] = [partial(_run, session) for session in sessions]
        return runs * (2 // settings), ""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports no import
    import openvino

    common = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(str(file), "CPU", common | settings)
    streams = compiled.get_property("NUM_STREAMS")
    threads = compiled.get_property("INFERENCE_NUM_THREADS")

    def runner() -> Run:
        request = compiled.create_infer_request()
        return lambda rows: request.infer({"pixels": rows}, share_inputs=True, share_outputs=True)

    return [runner(), runner()], f"{streams} streams, {threads} threads"


def _run(session: Session, rows: np.ndarray) -> object:
    return session.run({"pixels": rows}, "embedding")


def at_once(runs: list[Run], rows: np.ndarray, each: int) -> Callable[[], Sample]:
    """A side: every run is called `each` times in a thread of its own -> rows a second."""

    def work(run: Run) -> None:
        for _ in range(each):
            run(rows)

    def side() -> Sample:
        threads = [threading.Thread(target=work, args=(run,)) for run in runs]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = each * len(runs) * len(rows)
        return Sample(done / (time.perf_counter() - began), done)

    return side


def memory(side: str, file: Path, size: int) -> None:
    """In a process of its own: MB more than before, after two batches of 32 at once."""
    __import__("onnxruntime" if isinstance(SIDES[side], int) else "openvino")
    before = resident_mb()
    runs, _ = opened(side, file)
    at_once(runs, pixels(size), 2)()
    print(round(resident_mb() - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    file, size = tower(options.shape, options.precision), size_of(options.shape)
    if options.memory_of:
        return memory(options.memory_of, file, size)
    rows = pixels(size)
    print(f"{where()}; {options.shape}, {options.precision}, {CORES} cores")
    sessions = {side: opened(side, file) for side in SIDES}
    for side, (_, said) in sessions.items():
        print(f"{side}: {said}")
    columns = {}
    for batch, each in ((32, 1), (1, 8)):
        for count in (1, 2):
            found = alternate(
                {
                    side: at_once(runs[:count], rows[:batch], each * 2 // count)
                    for side, (runs, _) in sessions.items()
                },
                rounds=options.rounds,
            )
            columns[f"batches of {batch}, {count} at once"] = found
            print(f"batches of {batch}, {count} at once: {found.remark()}")
    print(f"\n| images/s | {' | '.join(f'{title} | ÷' for title in columns)} | MB |")
    print(f"|---|{'---|---|' * len(columns)}---|")
    for side in SIDES:
        cells = [f"{found.rate(side):.1f} | {found.ratio(side, FIRST)}" for found in columns.values()]
        done = subprocess.run(
            [sys.executable, *sys.argv, "--memory-of", side], capture_output=True, text=True, check=True
        )
        print(f"| {side} | {' | '.join(cells)} | {done.stdout.strip()} |", flush=True)
    return None


if __name__ == "__main__":
    main()
