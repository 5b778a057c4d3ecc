"""The same load by NVIDIA's perf_analyzer and by `clipdex bench server`: do they see the same throughput?

    .venv-dev/bin/python benchmarks/perf_analyzer.py [--shape vit_b_32] [--batch 1] [--concurrency 4]

perf_analyzer is taken from the wheel of tritonclient 2.50.0, which pip downloads to .bench/. It needs Debian's
libb64-0d (apt-get install libb64-0d) and CUDA's runtime library, which nvidia-pytriton brings. Both keep the same
number of requests in flight, over gRPC, for as long. `--shape demo` is the small model, where a client's own work
is more of the whole. Figures: docs/performance.md.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from random_clip import KEPT, ROOT, random_clip
from rounds import Sample, alternate, where

import clipdex
from clipdex.apps.bench.load import Window
from clipdex.apps.bench.measure_server import ServerSettings, measure_server
from clipdex_server import LocalTriton

VERSION = "2.50.0"


def perf_analyzer() -> tuple[Path, dict[str, str]]:
    """The program, and the environment it needs."""
    directory = KEPT / "perf_analyzer"
    program = directory / "perf_analyzer"
    if not program.exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory)]
        subprocess.run([*command, f"tritonclient=={VERSION}"], check=True)
        (wheel,) = directory.glob(f"tritonclient-{VERSION}-*.whl")
        with zipfile.ZipFile(wheel) as opened:
            name = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
            with opened.open(name) as source, program.open("wb") as target:
                shutil.copyfileobj(source, target)
        program.chmod(0o755)
        wheel.unlink()
    spec = find_spec("pytriton")
    assert spec is not None and spec.origin is not None, "nvidia-pytriton is not installed"
    (cudart,) = (Path(spec.origin).parents[1] / "nvidia_pytriton.libs").glob("libcudart-*.so.12*")
    link = directory / "libcudart.so.12"
    link.unlink(missing_ok=True)
    link.symlink_to(cudart)
    return program, os.environ | {"LD_LIBRARY_PATH": str(directory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="vit_b_32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="a window; perf_analyzer takes three")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = options.shape
    repository = ROOT / "model_repository" if model == "demo" else random_clip(model)[1]
    program, environment = perf_analyzer()
    window = Window(3 * options.seconds, warmup_seconds=options.seconds / 2)
    settings = ServerSettings(batches=(options.batch,), concurrencies=(options.concurrency,), window=window)
    with LocalTriton(repository) as server, clipdex.connect(server.address, model=model) as client:

        def rows_done() -> int:
            return client.statistics("image").rows

        def nvidia() -> Sample:
            before = rows_done()
            command = [str(program), "-m", f"{model}_image", "-u", server.address, "-i", "grpc", "--async"]
            command += ["-b", str(options.batch), "--concurrency-range", str(options.concurrency)]
            # Three windows, however much they differ: so that both sides measure for as long.
            command += ["-p", str(round(1e3 * options.seconds)), "-r", "3", "-s", "999"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            found = re.search(r"throughput: ([\d.]+) infer/sec", done.stdout)
            if found is None:
                sys.exit(f"perf_analyzer failed:\n{done.stdout}{done.stderr}")
            return Sample(float(found[1]), rows_done() - before)

        def ours() -> Sample:
            before = rows_done()
            (point,) = measure_server(client, settings)
            return Sample(point.rows_per_s, rows_done() - before)

        found = alternate({"perf_analyzer": nvidia, "clipdex bench server": ours}, rounds=options.rounds)
    print(f"{model}, batch {options.batch}, {options.concurrency} in flight, gRPC; {where()}")
    print(found.remark() + "\n")
    print("| | images/s | core ms an image |\n|---|---|---|")
    for side in ("perf_analyzer", "clipdex bench server"):
        print(f"| {side} | {found.rate(side):.1f} | {found.core_ms(side):.2f} |")
    print(f"\nours ÷ perf_analyzer: {found.ratio('clipdex bench server', 'perf_analyzer')}")


if __name__ == "__main__":
    main()
