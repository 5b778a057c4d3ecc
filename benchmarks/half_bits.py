"""Whether NumKong rounds float32 to float16 as NumPy does: all 2³² numbers, bit by bit.

    .venv-dev/bin/python benchmarks/half_bits.py

The vectors of an index are rounded by the faster of the two, so the same pictures must become the same bytes with
either. NaN is compared too, though no index takes it. Some minutes: NumPy notes each overflow and underflow. Then
what either takes for vectors of 512 numbers, 64 at a time, in processor time. Figures: docs/performance.md.
"""

import statistics
import time
from importlib.metadata import version

import numkong
import numpy as np

from clipdex.apps.bench.machine import this_machine
from clipdex.search import kernels

AT_ONCE = 1 << 20
ROWS, DIM, CALLS = 64, 512, 200


def differing(first: int) -> tuple[int, int]:
    """Compare so many numbers from one on, by their bits -> how many differ, of numbers and of NaN."""
    numbers = np.arange(first, first + AT_ONCE, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = numbers.astype(np.float16).view(np.uint16)
    differs = kernels.rounded(numbers, np.dtype(np.float16)).view(np.uint16) != expected
    nan = np.isnan(numbers)
    return int((differs & ~nan).sum()), int((differs & nan).sum())


def each(act) -> float:
    """Return the median of some rounds: seconds of processor time for a vector."""
    took = []
    for _ in range(9):
        began = time.process_time()
        for _ in range(CALLS):
            act()
        took.append((time.process_time() - began) / (CALLS * ROWS))
    return statistics.median(took)


def main() -> None:
    machine = this_machine()
    assert kernels._numkong() is numkong, "NumKong is not used here"
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    half = np.dtype(np.float16)
    print(f"NumKong {version('numkong')}, NumPy {np.__version__}, {machine.cpu}, {machine.date}")
    print(f"a vector by NumPy: {each(lambda: vectors.astype(half)) * 1e6:.2f} µs")
    print(f"a vector as an index does it: {each(lambda: kernels.rounded(vectors, half)) * 1e6:.2f} µs", flush=True)
    numbers = nans = 0
    for first in range(0, 1 << 32, AT_ONCE):
        found = differing(first)
        numbers, nans = numbers + found[0], nans + found[1]
    print(f"of {1 << 32:,} bit patterns, {numbers:,} differ, and {nans:,} of NaN")


if __name__ == "__main__":
    main()
