"""Searching an index twice the size of the memory a process may have, beside reading the same file from the disk.

    .venv-dev/bin/python benchmarks/search_memory.py [--limit-mb 1024] [--directory DIR]

The limit is that of a control group, which counts the page cache as well as the process's own memory, and
RLIMIT_DATA; setting it needs root. Every run begins with the files out of the page cache; runs alternate, medians
of five. Answers are compared with those of a process without a limit. Figures: docs/performance.md.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from search_data import Drawn, PeakMemory

ROUNDS = 5
QUERIES = 3

GROUPS = Path("/sys/fs/cgroup")


def child(kind: str, directory: Path, rows: int, group: str) -> None:
    """One run: read the file, or search it; its figures as JSON."""
    import numpy as np

    from clipdex.search.topk import top_k

    if group:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
        limit = int(group_file(Path(group), "limit").read_text())
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    drawn = Drawn(directory, rows, 512)
    name = "vectors.int8" if "codes" in kind else "vectors.f16"
    for file in directory.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    answers = None
    began = time.perf_counter()
    if kind.startswith("read"):
        with (directory / name).open("rb", buffering=0) as opened:
            buffer = bytearray(8 << 20)
            while opened.readinto(buffer):
                pass
    else:
        codes = drawn.codes if kind == "codes" else None
        with PeakMemory() as memory:
            found = top_k(drawn.vectors, drawn.queries(QUERIES), 10, codes=codes)
        answers = [f.rows.tolist() for f in found]
    took = time.perf_counter() - began
    print(
        json.dumps(
            {
                "took": took,
                "bytes": (directory / name).stat().st_size,
                "answers": answers,
                "anonymous": memory.peak if answers else 0,
                "group": int(group_file(Path(group), "peak").read_text()) if group else 0,
                "numpy": np.__version__,
            }
        )
    )


def group_file(group: Path, what: str) -> Path:
    """The file of a control group, of version 1 or 2, that holds its limit or its peak."""
    names = {
        "limit": ("memory.max", "memory.limit_in_bytes"),
        "peak": ("memory.peak", "memory.max_usage_in_bytes"),
    }
    return next(group / name for name in names[what] if (group / name).exists())


def make_group(limit: int) -> Path:
    """A control group whose memory is limited. Raises PermissionError without root."""
    base = GROUPS / "memory" if (GROUPS / "memory").exists() else GROUPS
    group = base / f"clipdex-search-{os.getpid()}"
    group.mkdir()
    group_file(group, "limit").write_text(str(limit))
    return group


def run(kind: str, directory: Path, rows: int, group: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, str(directory), str(rows), group],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-mb", type=int, default=1024)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    limit = options.limit_mb << 20
    rows = 2 * limit // 1024  # of 512 float16
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        index = Path(directory) / "x.clipdex"
        Drawn(index, rows, 512)
        os.sync()
        right = run("rows", index, rows, "")["answers"]
        group = make_group(limit)
        try:
            runs: dict[str, list[dict]] = {kind: [] for kind in ("read rows", "rows", "read codes", "codes")}
            for _ in range(ROUNDS):
                for kind, done in runs.items():
                    done.append(run(kind, index, rows, str(group)))
        finally:
            group.rmdir()
    print(f"{rows:,} x 512 float16, {rows * 1024 / 1e6:,.0f} MB; limit {limit / 1e6:,.0f} MB; from the disk")
    for kind, done in runs.items():
        rate = statistics.median(r["bytes"] / r["took"] / 1e9 for r in done)
        beside = statistics.median(
            r["bytes"] / r["took"] / (b["bytes"] / b["took"])
            for r, b in zip(done, runs["read codes" if "codes" in kind else "read rows"], strict=True)
        )
        print(
            f"  {kind:10} {statistics.median(r['took'] for r in done):6.2f} s, {rate:5.2f} GB/s, "
            f"{beside:.2f} of reading, the process's own memory {max(r['anonymous'] for r in done) / 1e6:.0f} MB, "
            f"group's peak {max(r['group'] for r in done) / 1e6:,.0f} MB"
        )
    same = all(r["answers"] == right for kind in ("rows", "codes") for r in runs[kind])
    print("answers: those of a process without a limit" if same else "answers: WRONG")
    sys.exit(not same)


if __name__ == "__main__":
    main()
