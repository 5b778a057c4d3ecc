"""An indexing run in a process of its own, killed (SIGKILL) half-way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from clipdex import Index

_PROGRAM = """
import pathlib, sys, time, clipdex
from clipdex.pipeline import run
from clipdex.wire import FakeTransport
run._COMMIT_S = 0
slow = lambda model, inputs: time.sleep(0.05)
with clipdex.Client(FakeTransport(max_batch_size=2, fault=slow)) as client:
    clipdex.index_pictures(client, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), workers=1)
"""


def kill_a_run(source: Path, index: Path, *, after: int) -> int:
    """Index over a slow fake server, and kill it when more than `after` rows are committed -> those left."""
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(source), str(index)]) as process:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            if index.exists():
                with Index.open(index) as opened:
                    if len(opened) > after:
                        break
            time.sleep(0.01)
        process.kill()
    with Index.open(index) as opened:
        return len(opened)
