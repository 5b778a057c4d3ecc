"""The page over a million rows: its first answer, a search to its first thumbnails, and the bytes of the page.

    .venv-dev/bin/python benchmarks/web_page.py [--rows N] [--index X.clipdex]

The server is a process of its own, as `clipdex web` runs it; a browser's six connections are threads here. 24
pictures with JPEG files of 1,600 x 1,200 are added to the drawn rows; each is the search's hit for the others. The
first search of them starts the workers that draw; another has larger thumbnails drawn; later ones find them in the
cache. Prints the median and
the worst of `ROUNDS`. Needs 2 GB of disk. Figures: docs/performance.md.
"""

import argparse
import hashlib
import http.client
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filters import write
from rounds import where as machine
from thumbnails import photograph
from web_load import Server

import clipdex

ROUNDS = 15
SHOWN = 24
CONNECTIONS = 6
SIZE = (1_600, 1_200)


def add_files(path: Path, folder: Path) -> int:
    """Add pictures that have files, alike to a search -> the row of the first."""
    bare = photograph(SIZE)
    with clipdex.Index.open(path) as index:
        manifest, first = index.manifest, len(index.vectors)
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal(manifest.embedding_dim) + 0.2 * rng.standard_normal(
        (SHOWN + 1, manifest.embedding_dim)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pictures = []
    for i in range(SHOWN + 1):
        data = bare + b"%d" % i  # what follows the end of a JPEG is not looked at
        file = folder / f"{i}.jpg"
        file.write_bytes(data)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        pictures.append(
            clipdex.Picture(os.fsencode(file), len(data), file.stat().st_mtime_ns, digest, *SIZE, None)
        )
    with clipdex.IndexWriter.open_or_create(path, manifest) as writer:
        writer.append(pictures, vectors.astype(np.float32))
        writer.commit()
    return first


class Browser:
    """Six kept-alive connections to a port."""

    def __init__(self, port: int) -> None:
        self._threads = ThreadPoolExecutor(CONNECTIONS)
        self._free = [http.client.HTTPConnection("127.0.0.1", port, timeout=120) for _ in range(CONNECTIONS)]

    def get(self, address: str) -> bytes:
        """Ask, and return the body."""
        connection = self._free.pop()
        connection.request("GET", address)
        answer = connection.getresponse()
        body = answer.read()
        self._free.append(connection)
        if answer.status != 200:
            raise SystemExit(f"{address}: {answer.status} {body[:300]!r}")
        return body

    def search(self, row: int, side: int = 320) -> tuple[float, float, float]:
        """Search -> seconds to the hits, to the first thumbnail, and to all of them."""
        began = time.perf_counter()
        hits = json.loads(self.get(f"/v1/similar?row={row}&top_k={SHOWN}"))["hits"]
        found, done = time.perf_counter() - began, []

        def thumbnail(hit: dict[str, str]) -> None:
            self.get(f"{hit['thumbnail']}&side={side}")
            done.append(time.perf_counter() - began)

        list(self._threads.map(thumbnail, hits))
        return found, min(done), max(done)


def shown(title: str, seconds: list[float]) -> None:
    """Print the median and the worst."""
    print(f"{title:<52} {statistics.median(seconds) * 1e3:7.0f} ms, worst {max(seconds) * 1e3:.0f} ms", flush=True)


def measure(path: Path, first: int) -> None:
    """Ask the server, and print."""
    server = Server(path)
    try:
        browser = Browser(server.port)
        cold = browser.search(first)
        pages, used = [], server.cpu_s()
        for i in range(ROUNDS):
            began = time.perf_counter()
            page = browser.get("/" if i else "/?")
            pages.append(time.perf_counter() - began)
        used = (server.cpu_s() - used) / ROUNDS
        print(f"the first page: {len(page):,} bytes, {used * 1e3:.0f} ms of processor time")
        shown("  its time", pages)
        drawn = browser.search(first, 640)
        for title, took in {"the first search": cold, "thumbnails drawn, workers started": drawn}.items():
            found, one, every = (round(each * 1e3) for each in took)
            print(f"{title}: {found} ms to the hits, {one} to a thumbnail, {every} to all")
        used = server.cpu_s()
        warm = [browser.search(first + 1 + i % SHOWN) for i in range(ROUNDS)]
        used = (server.cpu_s() - used) / ROUNDS
        for title, at in ("to the hits", 0), ("to the first thumbnail", 1), (f"to all {SHOWN} thumbnails", 2):
            shown(f"a search, thumbnails cached, {title}", [each[at] for each in warm])
        print(f"  {used * 1e3:.0f} ms of processor time")
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--index", type=Path, help="an index of drawn rows, to which pictures are added")
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["CLIPDEX_CACHE"] = str(folder / "cache")  # no thumbnail of an earlier run
        path = asked.index or folder / "x.clipdex"
        if not path.exists():
            write(path, asked.rows, 512)
            clipdex.index.optimize_index(path)
        measure(path, add_files(path, folder))


if __name__ == "__main__":
    main()
