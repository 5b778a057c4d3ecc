"""Exact search of this checkout beside that of another, in turns: seconds by the clock and of the processors.

    .venv-dev/bin/python benchmarks/search_versions.py CHECKOUT [--rows 1000000 100000] [--queries 1 25 64]

Each side is a process of its own over the same drawn rows × 512 (search_data.py) with int8 codes, top 10. On a
busy machine the ratios count, which are medians of the rounds. Needs 1.6 GB of disk. Figures: docs/performance.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SIDES = ("before", "after", "reading")


def serve(client: str, directory: str) -> None:
    """Answer lines of "side rows queries times" with the clock's and the processors' milliseconds of each time."""
    sys.path.insert(0, client)
    import clipdex

    assert Path(clipdex.__file__).is_relative_to(client), clipdex.__file__
    from search_data import Drawn, bare_read

    from clipdex.search.topk import top_k

    opened: dict[int, Drawn] = {}
    for line in sys.stdin:
        side, *numbers = line.split()
        rows, count, times = map(int, numbers)
        if rows not in opened:
            opened[rows] = Drawn(Path(directory) / f"{rows}.clipdex", rows, 512)
        drawn = opened[rows]
        asked = drawn.queries(64 * count)
        assert drawn.codes is not None
        read = bare_read(drawn.codes.stored)
        took = []
        for i in range(times + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            if side == "reading":
                read()
            else:
                top_k(drawn.vectors, asked[i % 64 * count :][:count], 10, codes=drawn.codes)
            took.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
        print(*(f"{statistics.median(some):.3f}" for some in zip(*took[1:], strict=True)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 100_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 25, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to draw the rows, and to keep them")
    parser.add_argument("--serve", metavar="CLIENT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.directory)
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = options.directory or Path(folder)
        clients = (options.checkout.resolve() / "client", HERE.parent.resolve() / "client")
        servers = [
            subprocess.Popen(
                [sys.executable, __file__, ".", "--serve", str(client), "--directory", str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for client in clients
        ]
        for rows in options.rows:
            for count in options.queries:
                compare(servers, rows, count, options.rounds)
        for server in servers:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()


def compare(servers: list[subprocess.Popen], rows: int, count: int, rounds: int) -> None:
    """Let the sides take turns, and print the medians and the ratios' medians."""
    times = max(1, min(40, 30_000_000 // (rows * (8 + count))))
    took: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in SIDES[turn % 2 :] + SIDES[: turn % 2]:
            server = servers[side != "before"]
            assert server.stdin is not None
            assert server.stdout is not None
            print(side, rows, count, times, file=server.stdin, flush=True)
            took[side].append([float(number) for number in server.stdout.readline().split()])
    print(f"{rows:,} x 512, {count} queries at once, load {os.getloadavg()[0]:.1f}")
    for i, what in enumerate(("by the clock", "of the processors")):
        medians = ", ".join(f"{side} {statistics.median(one[i] for one in took[side]):.1f}" for side in SIDES)
        ratio = statistics.median(b[i] / a[i] for b, a in zip(took["before"], took["after"], strict=True))
        print(f"  ms {what}: {medians}; before / after {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
