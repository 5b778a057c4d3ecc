"""JPEG files to a committed index, against the bound: encoding and decoding alone, their core time added up.

    .venv-dev/bin/python benchmarks/jpeg_to_index.py [--pictures 256] [--batch 32] [--rounds 5]

The bound is strict: onnxruntime in this process with full batches and nothing else to do, and the decode workers'
own function in this process, whose core time is shared out between all cores. The run is `index_pictures` through
Triton on the same cores, from listing the files to the commit; its workers' start is in it, so that more pictures
come nearer to the bound. 640 × 480 JPEGs, drawn. Figures: docs/performance.md.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from random_clip import edited, random_clip
from rounds import Sample, alternate, spread, where

import clipdex
from clipdex.apps.bench.measure_index import draw_photos
from clipdex.model.images import open_image, to_pixels
from clipdex_server import LocalTriton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="the served model's max_batch_size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shared-memory", default="auto", choices=("auto", "always", "never"))
    options = parser.parse_args()
    _, repository = random_clip(options.shape)
    rows, cores = options.batch, len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        paths = draw_photos(directory / "photos", options.pictures)
        copy = edited(repository, directory / "repository", max_batch_size=rows)
        with (
            LocalTriton(copy) as server,
            clipdex.connect(server.address, shared_memory=options.shared_memory) as client,
        ):
            spec = client.card.image
            settings = onnxruntime.SessionOptions()
            settings.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                str(repository / f"{options.shape}_image" / "1" / "model.onnx"),
                settings,
                providers=["CPUExecutionProvider"],
            )
            noise = np.random.default_rng(0).integers(0, 256, (rows, spec.size, spec.size, 3), dtype=np.uint8)
            reports: list[clipdex.RunReport] = []

            def run() -> Sample:
                began = time.perf_counter()
                index = directory / f"{len(reports)}.clipdex"
                reports.append(clipdex.index_pictures(client, directory / "photos", index))
                assert reports[-1].indexed == len(paths)
                return Sample(len(paths) / (time.perf_counter() - began), len(paths))

            def encode() -> Sample:
                """Pictures a second, on all cores."""
                count = max(1, 64 // rows)
                began = time.perf_counter()
                for _ in range(count):
                    session.run(["embedding"], {"pixels": noise})
                return Sample(count * rows / (time.perf_counter() - began), count * rows)

            def decode() -> Sample:
                """Pictures a core second."""
                some = paths[:128]
                began = time.thread_time()
                for path in some:
                    to_pixels(open_image(path.read_bytes(), fill=spec.fill), spec)
                return Sample(len(some) / (time.thread_time() - began), len(some))

            found = alternate({"encode": encode, "decode": decode, "run": run}, rounds=options.rounds)
    shares, core_shares = [], []
    for each in found.calm("encode", "decode", "run"):
        bound = 1 / (1 / each["encode"].rate + 1 / each["decode"].rate / cores)
        shares.append(each["run"].rate / bound)
        core_shares.append((each["encode"].core_s + each["decode"].core_s) / each["run"].core_s)
    print(
        f"{options.shape}, {len(paths)} JPEGs of 640 × 480, batches of {rows}, {reports[-1].transfer}; {where()}"
    )
    print(found.remark() + "\n")
    print("| | |\n|---|---|")
    print(f"| encoding alone, all cores | {found.rate('encode'):.1f} images/s |")
    print(f"| decoding and resizing, a core | {found.rate('decode'):.1f} images/s |")
    print(f"| JPEG files → committed index | {found.rate('run'):.1f} images/s |")
    print(f"| ÷ the bound | {spread(shares)} |")
    print(f"| core time of encoding + decoding ÷ core time of the run | {spread(core_shares)} |")
    print("\nthe last run's stages, seconds: ", end="")
    print(", ".join(f"{stage} {seconds:.2f}" for stage, seconds in reports[-1].stage_seconds.items()))


if __name__ == "__main__":
    main()
