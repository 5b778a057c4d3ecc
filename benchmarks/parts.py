"""Search over an index of parts, beside one index with the same rows; and the overhead of writing parts.

    .venv-dev/bin/python benchmarks/parts.py [--parts N] [--rows ROWS] [--dim D] [--rounds R] [--plain]
        [--directory DIR]
    .venv-dev/bin/python benchmarks/parts.py --write FOLDER --server inproc:model_repository [--parts N]
    .venv-dev/bin/python benchmarks/parts.py --list FILES [--parts N] [--rounds R]
    .venv-dev/bin/python benchmarks/parts.py --split ROWS [--parts N] [--dim D] [--rounds R]

The first draws PARTS × ROWS rows (default 10 × 100,000 × 512), optimizes both indexes unless --plain, checks
that each query has the same answers, paths and scores, and times single queries and batches of 64, the sides
taking turns; medians of the rounds, by the clock and of the cores of this process. Needs 4 KB of disk for each
row; with --directory the indexes stay there, and those that are there are taken. The second indexes a folder
into one index and into parts, in turns. The third lists that many empty files for a run without parts, and for one
part of a run with them. The fourth divides an index of ROWS rows, and checks one, which a division begins with.
Figures: docs/parts.md.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from filters import write
from rounds import where as machine

import clipdex
from clipdex.index import optimize_index, verify_index
from clipdex.index.part_plan import PartPlan
from clipdex.sources import open_source
from clipdex.sources.part import Divided

TOP = 20


def timed(work: Callable[..., object], *given: object) -> tuple[float, float]:
    """The seconds that something takes by the clock, and those of the cores in this process."""
    began, busy = time.perf_counter(), time.process_time()
    work(*given)
    return time.perf_counter() - began, time.process_time() - busy


def alternating(sides: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each side, by the clock and of the cores; which is first changes from round to round."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=number % 2 == 1):
            took[name].append(timed(sides[name], number))
    return {
        name: (statistics.median(clock for clock, _ in each), statistics.median(busy for _, busy in each))
        for name, each in took.items()
    }


def compared(what: str, took: Mapping[str, tuple[float, float]], parts: int) -> None:
    for kind, clock in enumerate(("by the clock", "of the cores")):
        one, many = took["one"][kind], took["parts"][kind]
        print(
            f"{what}, {clock}: one index {one:.4g} s, {parts} parts {many:.4g} s: {many / one:.2f} ×", flush=True
        )


def ask(index: clipdex.Index, queries: np.ndarray, number: int) -> object:
    return index.search(queries[number], TOP)


def seen(answers: list[clipdex.Hits]) -> list[list[tuple[str, float]]]:
    return [sorted((hit.path, hit.score) for hit in hits) for hits in answers]


def search(parts: int, rows: int, dim: int, rounds: int, *, plain: bool, directory: Path | None) -> None:
    with tempfile.TemporaryDirectory() as made:
        place = directory or Path(made)
        one, many = place / "one.clipdex", place / "many"
        if not one.exists():
            write(one, parts * rows, dim)
        if not many.exists():
            took, _ = timed(clipdex.split_index, one, many, parts)
            print(f"split into {parts} parts: {took:.1f} s", flush=True)
        if not plain:
            optimize_index(one)
            optimize_index(many)
        queries = np.random.default_rng(5).standard_normal((rounds, 64, dim), dtype=np.float32)
        queries /= np.linalg.norm(queries, axis=2, keepdims=True)
        with clipdex.Index.open(one) as whole, clipdex.Index.open(many) as divided:
            assert seen(whole.search(queries[0], TOP)) == seen(divided.search(queries[0], TOP))
            for what, count in (("one query", 1), ("64 queries", 64)):
                asked = queries[:, :count]
                sides: dict[str, Callable[[int], object]] = {
                    "one": partial(ask, whole, asked),
                    "parts": partial(ask, divided, asked),
                }
                alternating(sides, 2)
                compared(what, alternating(sides, rounds), parts)


def writing(folder: Path, server: str, parts: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as place, clipdex.connect(server) as client:
        number = iter(range(10**6))

        def run(count: int | None) -> None:
            clipdex.index_pictures(client, folder, Path(place) / str(next(number)), parts=count)

        took = alternating({"one": lambda i: run(None), "parts": lambda i: run(parts)}, rounds)
        compared("a run", took, parts)


def listing(files: int, parts: int, rounds: int) -> None:
    """Time what each part of a run lists, beside the listing of a run without parts."""
    with tempfile.TemporaryDirectory() as directory:
        for start in range(0, files, 1000):
            folder = Path(directory) / f"{start // 1000:06d}"
            folder.mkdir()
            for i in range(start, min(start + 1000, files)):
                (folder / f"IMG_{i:08d}.jpg").touch()
        plan = PartPlan.of(parts, clipdex.Manifest("f" * 64, "drawn", 512), "")

        def whole(_: int) -> None:
            assert sum(1 for _ in open_source(Path(directory)).files(print)) == files

        def part(number: int) -> None:
            divided = Divided(open_source(Path(directory)), parts, plan.part_of)
            assert 0 < sum(1 for _ in divided.of(number % parts).files(print)) <= files

        compared(f"listing {files:,} files", alternating({"one": whole, "parts": part}, rounds), parts)


def splitting(rows: int, parts: int, dim: int, rounds: int) -> None:
    """Time a division of a drawn index, and the check of the whole that it begins with."""
    with tempfile.TemporaryDirectory() as made:
        one, many = Path(made) / "one.clipdex", Path(made) / "many"
        write(one, rows, dim)
        took: dict[str, list[tuple[float, float]]] = {"verify": [], "split": []}
        for _ in range(rounds):
            took["verify"].append(timed(verify_index, one))
            took["split"].append(timed(clipdex.split_index, one, many, parts))
            shutil.rmtree(many)
    for what, each in took.items():
        clock, busy = (statistics.median(times) for times in zip(*each, strict=True))
        print(
            f"{what}, {rows:,} rows, {parts} parts: {clock:.2f} s by the clock, {busy:.2f} s of the cores, "
            f"{1e6 * busy / rows:.0f} µs of a core for each row",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=10)
    parser.add_argument("--rows", type=int, default=100_000, help="of each part")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plain", action="store_true", help="without int8 codes")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("--list", type=int, metavar="FILES")
    parser.add_argument("--split", type=int, metavar="ROWS")
    parser.add_argument("--server", default="inproc:model_repository")
    given = parser.parse_args()
    print(machine())
    if given.list is not None:
        listing(given.list, given.parts, given.rounds)
    elif given.write is not None:
        writing(given.write, given.server, given.parts, given.rounds)
    elif given.split is not None:
        splitting(given.split, given.parts, given.dim, given.rounds)
    else:
        search(given.parts, given.rows, given.dim, given.rounds, plain=given.plain, directory=given.directory)
