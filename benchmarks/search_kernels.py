"""Which library multiplies int8 rows with a query fastest: bare kernels over a million rows of 512, on all cores.

    .venv-dev/bin/python benchmarks/search_kernels.py

Each on blocks of the same memory, from as many threads as there are cores, unless it has threads of its own.
Without a top-k, but for faiss and usearch, which give nothing less. What was chosen: docs/search-engine.md.
"""

import os
import subprocess
import sys

import numpy as np
from peers import PEERS, peers_python
from search_data import alternating, bare_read, show

from clipdex.search.spans import Span, cores, spans_of, work_through

ROWS, DIM = 1_000_000, 512


def on_all_cores(kernel, step: int = 32_768):
    """Call a kernel with the first and last row of each block."""

    def block(span: Span) -> None:
        kernel(span.first, span.end)

    return lambda: work_through(spans_of(0, ROWS, step, 1 << 62), block, cores())


def sides(count: int, codes: np.ndarray, queries: np.ndarray) -> dict:
    """The libraries, for the first `count` queries."""
    import faiss
    import numkong
    import simsimd
    import usearch.index

    some = queries[:count]
    packed = numkong.dots_pack(some)
    out = np.empty((ROWS, 1), np.int32)[:, 0]  # one query alone
    wide = some.astype(np.float32).T
    flat = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)
    flat.train(codes[:10].astype(np.float32))
    for first in range(0, ROWS, 100_000):
        flat.add(codes[first : first + 100_000].astype(np.float32))
    found = {"bare read": bare_read(codes)}
    if count == 1:
        found["NumKong dot"] = on_all_cores(lambda a, b: numkong.dot(codes[a:b], some, out=out[a:b]))
    found |= {
        "NumKong dots_packed": on_all_cores(lambda a, b: numkong.dots_packed(codes[a:b], packed), 2048),
        "NumKong dots_packed, rows packed": on_all_cores(
            lambda a, b: numkong.dots_packed(some, numkong.dots_pack(codes[a:b])), 1024
        ),
        # Its out= loses a reference to None at every call (6.5.16), which ends Python < 3.12 in the long run.
        "SimSIMD cdist": on_all_cores(lambda a, b: simsimd.cdist(some, codes[a:b], "dot")),
        "NumPy, int8 to float32, BLAS": lambda: [
            codes[a : a + 512].astype(np.float32) @ wide for a in range(0, ROWS, 512)
        ],
        "faiss QT_8bit_direct_signed, top 10": lambda: flat.search(some.astype(np.float32), 10),
    }
    if count == 1:
        found["usearch exact i8, top 10"] = lambda: usearch.index.search(
            codes, some, 10, usearch.index.MetricKind.IP, exact=True, threads=cores()
        )
    return found


def main() -> None:
    if sys.prefix != str(PEERS):
        python = peers_python("faiss-cpu==1.15.1", "numkong==7.8.6", "simsimd==6.5.16", "usearch==2.26.6")
        raise SystemExit(subprocess.run([python, *sys.argv]).returncode)
    rng = np.random.default_rng(0)
    codes = np.empty((ROWS, DIM), np.int8)
    for first in range(0, ROWS, 50_000):
        codes[first : first + 50_000] = rng.integers(-127, 128, (50_000, DIM), dtype=np.int8)
    queries = rng.integers(-127, 128, (64, DIM), dtype=np.int8)
    print(f"{ROWS:,} x {DIM} int8, {cores()} cores, load {os.getloadavg()[0]:.1f}")
    for count, rounds in ((1, 11), (64, 3)):
        print(f"{count} quer{'y' if count == 1 else 'ies'}")
        show(alternating(sides(count, codes, queries), rounds), ours="bare read")


if __name__ == "__main__":
    main()
