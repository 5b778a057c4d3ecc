"""Opening an index of 10 million rows: time and memory, beside np.load and faiss.read_index of the same vectors.

    .venv-dev/bin/python benchmarks/index_open.py [--rows N] [--dim D] [--directory DIR]

Each side opens in a process of its own, alternating, five times; medians. Memory is what the process has
resident after opening, less before. Needs about 9 GB of disk at the defaults. Figures: docs/performance.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import peers_python

ROUNDS = 5

OPEN = {
    "clipdex.Index.open": "import clipdex; clipdex.Index.open(base + '/x.clipdex')",
    "np.load": "import numpy; numpy.load(base + '/x.npy')",
    "np.load, mmap_mode='r'": "import numpy; numpy.load(base + '/x.npy', mmap_mode='r')",
    "faiss.read_index": "import faiss; faiss.read_index(base + '/x.faiss')",
}

CHILD = """
import json, sys, time
base = sys.argv[1]
statement = sys.argv[2]
module, _, act = statement.partition("; ")
exec(module)
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
before, began = resident(), time.perf_counter()
held = eval(act)
print(json.dumps([time.perf_counter() - began, resident() - before]))
"""


def write(base: Path, rows: int, dim: int, python: Path) -> None:
    """The same vectors as an index, an .npy file and a FAISS index."""
    from clipdex.index import IndexWriter, Manifest, Picture

    began = time.monotonic()
    with IndexWriter.open_or_create(base / "x.clipdex", Manifest("f" * 64, "drawn", dim)) as writer:
        rng = np.random.default_rng(0)
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            vectors = rng.standard_normal((count, dim), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            writer.append(
                [
                    Picture(b"/photos/%09d.jpg" % i, 100_000, 10**18, i.to_bytes(16, "big"), 640, 480)
                    for i in range(start, start + count)
                ],
                vectors,
            )
            writer.commit()
    print(f"{rows:,} rows written in {time.monotonic() - began:.0f} s", file=sys.stderr)
    script = (
        "import sys, numpy as np, faiss\n"
        "base, dim = sys.argv[1], int(sys.argv[2])\n"
        "v = np.memmap(base + '/x.clipdex/vectors.f16', dtype='<f2', mode='r').reshape(-1, dim)\n"
        "np.save(base + '/x.npy', v)\n"
        "index = faiss.IndexFlatIP(dim)\n"
        "for i in range(0, len(v), 100000): index.add(v[i:i + 100000].astype('f4'))\n"
        "faiss.write_index(index, base + '/x.faiss')\n"
    )
    subprocess.run([python, "-c", script, base, str(dim)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    python = peers_python("faiss-cpu")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        write(Path(directory), options.rows, options.dim, python)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in OPEN}
        for _ in range(ROUNDS):
            for name, statement in OPEN.items():
                done = subprocess.run(
                    [python, "-c", CHILD, directory, statement], check=True, capture_output=True, text=True
                )
                found[name].append(json.loads(done.stdout))
    print(f"{options.rows:,} rows × {options.dim}, float16 (FAISS: float32), files in the page cache")
    for name, pairs in found.items():
        seconds, size = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<24} {seconds * 1e3:10.1f} ms {size / 1e6:10.1f} MB resident")


if __name__ == "__main__":
    main()
