"""What it costs to empty rows.sqlite's WAL after each commit, or to have none; whether verify must read it then.

    .venv-dev/bin/python benchmarks/wal_checkpoint.py [--rounds N] [--directory DIR]

Copies an index as a SIGKILL leaves it, flips bits in the WAL that is there, and counts the losses that `verify`
does not see without index/wal.py. Then it writes indexes of 512-wide float16 vectors, in commits of one row and of
16,384, with each of SQLite's ways in turn, and prints medians; alone, and beside a reader that holds a snapshot.
Figures: docs/durability.md.
"""

import argparse
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from damage import damage_and_verify

import clipdex
from clipdex.index import IndexWriter, Manifest, Picture
from clipdex.index.wal import wal_damage

DIM, FLIPS, SEED = 512, 300, 20261128
WAYS = ("WAL", "WAL, emptied", "DELETE", "TRUNCATE", "PERSIST")
SIZES = {"1 row": (1, 100), "16,384 rows": (16_384, 3)}  # rows of a commit, commits of a round


def pictures(start: int, count: int) -> list[Picture]:
    return [
        Picture(b"/photos/%09d.jpg" % i, 1000 + i, 10**18 + i, i.to_bytes(16, "big"), 640, 480, ctime_ns=10**18)
        for i in range(start, start + count)
    ]


def opened(path: Path, way: str, dim: int = DIM) -> IndexWriter:
    """A new index whose database is written in one of `WAYS`."""
    writer = IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", dim))
    if not way.startswith("WAL"):
        writer._store._db.execute(f"PRAGMA journal_mode = {way}")
    return writer


def emptied(writer: IndexWriter) -> bool:
    """Empty the WAL; False if a reader prevents it."""
    busy, _, _ = writer._store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def written(path: Path, way: str, rows: int, vectors: np.ndarray, commits: int, read: bool) -> tuple[float, str]:
    """Seconds for each commit with its append, and what a reader's snapshot did to them."""
    seconds: list[float] = []
    busy, said = 0, ""
    # A commit that was refused is refused again at the end.
    with suppress(clipdex.IndexWriteError), opened(path, way) as writer:
        writer.append(pictures(0, rows), vectors[:rows])
        writer.commit()
        with closing(sqlite3.connect(path / "rows.sqlite", isolation_level=None)) as reader:
            writer._store._db.execute("PRAGMA busy_timeout = 100")
            if read:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM rows").fetchone()
            for commit in range(1, commits + 1):
                batch = pictures(commit * rows, rows)
                began = time.monotonic()
                try:
                    writer.append(batch, vectors[:rows])
                    writer.commit()
                except clipdex.IndexWriteError:
                    break
                if way == "WAL, emptied":
                    busy += not emptied(writer)
                seconds.append(time.monotonic() - began)
            wal = path / "rows.sqlite-wal"
            said = f"{wal.stat().st_size:,} bytes of WAL left" if wal.exists() else "no WAL"
    if way == "WAL, emptied":
        said = f"{busy} of {commits} left it full; {said}"
    return (
        (statistics.median(seconds), said) if len(seconds) == commits else (float("nan"), "a commit was refused")
    )


def costs(directory: Path, rounds: int) -> None:
    vectors = np.random.default_rng(SEED).standard_normal((16_384, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for read in (False, True):
        for name, (rows, commits) in SIZES.items():
            took: dict[str, list[float]] = {way: [] for way in WAYS}
            said = {}
            for number in range(rounds):
                for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
                    path = directory / "x.clipdex"
                    second, said[way] = written(path, way, rows, vectors, commits, read)
                    took[way].append(second)
                    shutil.rmtree(path)
            print(f"commits of {name}{', beside a reader with a snapshot' if read else ''}")
            for way in WAYS:
                median = statistics.median(took[way])
                print(f"  {way:14} {1000 * median:9.1f} ms a commit   {said[way]}", flush=True)


def losses(directory: Path) -> None:
    """Flip bits in the WAL that a writer leaves that empties it after each commit, and is killed."""
    vectors = np.eye(16, dtype=np.float32)
    for state in ("between two commits", "between a commit and its checkpoint", "beside a reader with a snapshot"):
        path, killed = directory / "alive.clipdex", directory / "killed.clipdex"
        with opened(path, "WAL, emptied", 16) as writer:
            reader = sqlite3.connect(path / "rows.sqlite", isolation_level=None)
            for commit in range(20):
                writer.append(pictures(16 * commit, 16), vectors)
                writer.commit()
                if commit == 0 and state.startswith("beside"):
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM rows").fetchone()
                if commit < 19 or not state.startswith("between a"):
                    emptied(writer)
            shutil.copytree(path, killed, ignore=shutil.ignore_patterns("*-shm"))
            reader.close()
        wal = killed / "rows.sqlite-wal"
        held = wal.stat().st_size if wal.exists() else 0
        missed = []
        for check in (True, False):
            with mock.patch("clipdex.index.verify.wal_damage", wal_damage if check else lambda path: None):
                found = (
                    damage_and_verify(killed, directory / "copy.clipdex", Random(SEED), flips=FLIPS, cuts=0)
                    if held
                    else []
                )
            missed.append(len(found))
            shutil.rmtree(directory / "copy.clipdex", ignore_errors=True)
        print(
            f"killed {state}: {held:,} bytes of WAL; of {FLIPS} flipped bits in it verify misses {missed[0]}, "
            f"and {missed[1]} without index/wal.py",
            flush=True,
        )
        shutil.rmtree(path)
        shutil.rmtree(killed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="folder on the disk to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        losses(Path(directory))
        costs(Path(directory), options.rounds)


if __name__ == "__main__":
    main()
