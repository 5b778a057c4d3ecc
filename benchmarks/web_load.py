"""A million rows behind the web server: 50 clients search for a minute while another process adds 20,000 items.

    .venv-dev/bin/python benchmarks/web_load.py [--seconds S] [--clients N] [--items N]      (make prove-web)

The server is a process of its own. The clients are 50 kept-alive connections of one asyncio loop that sends
requests made beforehand and looks at no more of an answer than its status, length and number of hits: half of them
search by a vector, half by a row. All share the machine's cores. First the bare engine, `Index.search` with 64
queries at a time, and the server without the writer; then the minute with the writer; then the bare engine again.

It fails if a request is not answered with status 200 and 20 hits, if an added item is missing, or if the server's
memory grows: its own memory (RssAnon) at the end may be 10 % and 32 MB more than after the first third. The page
cache holds the index's files, as for any reader; mapped pages (RssFile) are shown and not counted. Needs 2 GB of
disk. Figures: docs/performance.md.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from filters import write
from rounds import where as machine

import clipdex

TOP = 20
BATCH = 64
CHUNK = 100  # items of one `add`
CREATED = "clipdex web ready on port "


def serve(path: Path) -> None:
    """Serve an index as `clipdex web` does, until standard input ends."""
    from clipdex.web import WebSettings
    from clipdex.web.running import bound
    from clipdex.web.running import serve as run

    def end() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=end, daemon=True).start()
    with suppress(KeyboardInterrupt), bound("127.0.0.1", 0) as listening:
        settings = WebSettings(indexes=(path,))
        run(settings, listening, lambda address: print(f"{CREATED}{address.rpartition(':')[2]}", flush=True))


def add(path: Path, count: int, seconds: float) -> None:
    """Add items at an even pace, each chunk durable before the next."""
    rng = np.random.default_rng(7)
    with clipdex.Collection.open(path) as pictures:
        dim = len(pictures.vector(0))
        began = time.monotonic()
        for first in range(0, count, CHUNK):
            vectors = rng.standard_normal((CHUNK, dim), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            pictures.add([clipdex.Item(f"late-{first + i}", vector=each) for i, each in enumerate(vectors)])
            time.sleep(max(0.0, began + seconds * (first + CHUNK) / count - time.monotonic()))


class Load:
    """Clients that search without a pause. errors: what went wrong; took: seconds that each request took."""

    def __init__(self, port: int, rows: int, dim: int) -> None:
        self.port, self.errors, self.took = port, list[str](), list[float]()
        rng = np.random.default_rng(3)
        vectors = rng.standard_normal((500, dim), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        requests = []
        for vector, row in zip(vectors, rng.integers(0, rows, len(vectors)).tolist(), strict=True):
            body = json.dumps({"vector": [round(float(x), 7) for x in vector], "top_k": TOP}).encode()
            requests.append(
                b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (port, len(body), body)
            )
            line = b"GET /v1/similar?row=%d&top_k=%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (row, TOP, port)
            requests.append(line)
        self._requests = itertools.cycle(requests)

    async def run(self, clients: int, seconds: float) -> None:
        """Search from so many connections for some time."""
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(until) for _ in range(clients)))

    async def _client(self, until: float) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            while time.perf_counter() < until:
                began = time.perf_counter()
                writer.write(next(self._requests))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                body = await reader.readexactly(length)
                self.took.append(time.perf_counter() - began)
                if not head.startswith(b"http/1.1 200") or body.count(b'"row":') != TOP:
                    self.errors.append(f"{head[:60]!r} {body[:200]!r}")
            writer.close()
        except Exception as exc:
            self.errors.append(f"{type(exc).__name__}: {exc}")


class Server:
    """The server's process."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, __file__, "--serve", str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(CREATED):
            raise SystemExit(f"the server did not start: {line}")
        self.port = int(line.removeprefix(CREATED))

    def memory(self) -> tuple[float, float]:
        """MB of its own, and of mapped files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        return tuple(int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]

    def cpu_s(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        """End it, and wait."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def bare(path: Path, seconds: float) -> tuple[float, float]:
    """`Index.search`, 64 at a time -> (queries a second, queries in a second of processor time)."""
    with clipdex.Index.open(path) as index:
        rng = np.random.default_rng(5)
        queries = rng.standard_normal((BATCH, index.manifest.embedding_dim), dtype=np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        index.search(queries, TOP)
        began, used, count = time.perf_counter(), _own_cpu(), 0
        while time.perf_counter() - began < seconds:
            index.search(queries, TOP)
            count += BATCH
        return count / (time.perf_counter() - began), count / (_own_cpu() - used)


async def phase(
    server: Server, load: Load, clients: int, seconds: float, title: str
) -> tuple[tuple[float, float], list[float]]:
    """Load the server -> (rates as of `bare`; MB of its own memory, every sixth of the time)."""
    load.took.clear()
    own, files = [], []
    ours, theirs = _own_cpu(), server.cpu_s()
    began = time.perf_counter()
    running = asyncio.ensure_future(load.run(clients, seconds))
    for i in range(7):
        await asyncio.sleep(max(0.0, began + i * seconds / 6 - time.perf_counter()))
        mine, mapped = server.memory()
        own.append(mine)
        files.append(mapped)
    await running
    took = time.perf_counter() - began
    p50, p99 = np.percentile(load.took, (50, 99)) * 1e3
    rate = len(load.took) / took
    print(
        f"{title}: {len(load.took):,} requests, {len(load.errors)} errors, {rate:.1f} a second, p50 {p50:.0f} ms, "
        f"p99 {p99:.0f} ms; cores used: server {(server.cpu_s() - theirs) / took:.2f}, "
        f"clients {(_own_cpu() - ours) / took:.2f}"
    )
    step = seconds / 6
    shown = ", ".join(
        f"{i * step:.0f} s: {a:.0f} + {b:.0f}" for i, (a, b) in enumerate(zip(own, files, strict=True))
    )
    print(f"  server's memory, MB of its own + of mapped files: {shown}", flush=True)
    return (rate, len(load.took) / (server.cpu_s() - theirs)), own


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def prove(path: Path, asked: argparse.Namespace) -> list[str]:
    """Measure, print, and list what is wrong."""
    before = bare(path, 5)
    print(f"bare engine, {BATCH} queries at a time: {before[0]:.1f} a second", flush=True)
    with clipdex.Index.open(path) as index:
        rows, dim = index.vectors.shape
    server = Server(path)
    writer = None
    try:
        load = Load(server.port, rows, dim)
        await load.run(asked.clients, 2)
        alone, _ = await phase(server, load, asked.clients, asked.seconds / 3, "without a writer")
        command = [sys.executable, __file__, "--write", str(path), "--items", str(asked.items)]
        writer = subprocess.Popen([*command, "--seconds", str(0.95 * asked.seconds)])
        title = f"while {asked.items:,} items are added"
        rate, own = await phase(server, load, asked.clients, asked.seconds, title)
        late = writer.wait(300)
        wrong = load.errors[:5]
        wrong += [f"the writer ended with status {late}"] if late else []
        with clipdex.Collection.open(path, read_only=True) as pictures:
            missing = asked.items - len({each for each in pictures.ids() if each.startswith("late-")})
            wrong += [f"{missing} of the added items are missing"] if missing > 0 else []
        if own[-1] > 1.1 * own[2] + 32:
            wrong.append(f"the server's memory grew from {own[2]:.0f} to {own[-1]:.0f} MB")
    finally:
        server.close()
        if writer is not None and writer.poll() is None:
            writer.kill()
    after = bare(path, 5)
    print(f"bare engine again: {after[0]:.1f} a second")
    print(
        f"processor time of a request {1e3 / alone[1]:.1f} ms, with the writer {1e3 / rate[1]:.1f} ms; of a query "
        f"of the bare engine {1e3 / before[1]:.1f} and {1e3 / after[1]:.1f} ms"
    )
    for i, what in enumerate(("by the clock", "by the server's processor time, which other work takes less from")):
        engine = (before[i] + after[i]) / 2
        print(
            f"share of the engine's rate {what}: {alone[i] / engine:.2f}, with the writer {rate[i] / engine:.2f}"
        )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument(
        "--index", type=Path, help="an index that this script made before, to which items are added"
    )
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return 0
    if asked.write:
        add(asked.write, asked.items, asked.seconds)
        return 0
    print(machine())
    with tempfile.TemporaryDirectory(dir=asked.directory) as made:
        path = asked.index or Path(made) / "x.clipdex"
        if not path.exists():
            write(path, asked.rows, asked.dim)
            clipdex.index.optimize_index(path)
        wrong = asyncio.run(prove(path, asked))
    for each in wrong:
        print(f"wrong: {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
