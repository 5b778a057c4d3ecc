"""Indexing from a bucket against the same pictures on this machine, in turns: what a request's time costs.

.venv-dev/bin/python benchmarks/buckets.py [--pictures 5000] [--ms 20] [--fetches 64] [--rounds 3] [--moto] [--pin]
                                           [--repository DIR]

The bucket waits before each answer. It is tests/s3_server.py in a process of its own, or with --moto, moto's
server (make .venv-buckets/ready): both take processor time from the decoders on the same machine; it is printed
beside the rates. Last, what a read alone costs this process, by obstore and by clipdex. With --pin, indexing has
the first core alone, and the bucket the second. The model is the fake server, which answers at once, so that the
rate is the decoders'; or, with --repository, one that computes in this process. Figures: docs/performance.md.
"""

import argparse
import io
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from s3_server import BUCKET, S3Server

import clipdex
from clipdex.sources.fetch_ahead import FetchAhead
from clipdex.sources.object_member import ObjectMember
from clipdex.sources.opening import open_source
from clipdex.wire import FakeTransport


def draw(folder: Path, count: int, side: int) -> None:
    """Draw smooth pictures of a photograph's size and detail, as JPEG."""
    random = np.random.default_rng(1)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        (folder / f"{number:06}.jpg").write_bytes(buffer.getvalue())


def serve(folder: str, ms: float, pipe: Connection) -> None:
    with S3Server(latency_s=ms / 1000) as server:
        for path in sorted(Path(folder).iterdir()):
            server.put(f"in/{path.name}", path.read_bytes())
        pipe.send(server.environment)
        pipe.recv()


@contextmanager
def own_bucket(folder: Path, ms: float) -> Iterator[int]:
    """Serve the pictures by tests/s3_server.py -> the process's id. Sets the environment."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), ms, there))
    server.start()
    try:
        os.environ.update(here.recv())
        assert server.pid is not None
        yield server.pid
    finally:
        here.send(None)
        server.join()


@contextmanager
def moto_bucket(folder: Path, ms: float) -> Iterator[int]:
    """Serve the pictures by moto -> the process's id. Sets the environment."""
    from obstore.store import from_url

    root = Path(__file__).resolve().parent
    command = [str(root.parent / ".venv-buckets/bin/python"), str(root / "slow_moto.py"), str(ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        os.environ.update(
            AWS_ENDPOINT_URL=endpoint,
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_REGION="us-east-1",
        )
        try:
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")).close()
            store: Any = from_url(f"s3://{BUCKET}", client_options={"allow_http": True})
            with ThreadPoolExecutor(16) as threads:
                for path in sorted(folder.iterdir()):
                    threads.submit(store.put, f"in/{path.name}", path.read_bytes())
            yield server.pid
        finally:
            server.terminate()


@dataclass(frozen=True)
class Round:
    """One run: pictures a second; processor seconds of indexing, and of the bucket."""

    rate: float
    ours: float
    bucket: float


def processor_s(pid: int) -> float:
    """The processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def our_s() -> float:
    """The processor time of this process and of its decoders that have ended."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in found)


def model(repository: str | None) -> clipdex.Client:
    """A client of the model in a repository, or of a fake server that answers at once."""
    if repository is None:
        return clipdex.Client(FakeTransport(image_size=224))
    return clipdex.connect(f"inproc:{repository}")


def run(client: clipdex.Client, source: str | Path, fetches: int, expected: int, pid: int) -> Round:
    """Index into a new index; the rate is from the first picture decoded."""
    ours, theirs = our_s(), processor_s(pid)
    with tempfile.TemporaryDirectory() as name:
        report = clipdex.index_pictures(client, open_source(source, fetches=fetches), Path(name) / "x.clipdex")
    assert (report.indexed, report.failed) == (expected, 0), report
    found = Round(report.images_per_s, our_s() - ours, processor_s(pid) - theirs)
    print(f"{source}: {found}, load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def reads_alone(fetches: int) -> None:
    """Read each object once by obstore's `get`, and once as a run does, and print the processor time of both."""
    from obstore.store import from_url

    store: Any = from_url(f"s3://{BUCKET}", client_options={"allow_http": True})
    files = list(open_source(f"s3://{BUCKET}/in", fetches=fetches).files(lambda failure: None))
    keys = [file.path.decode().removeprefix(f"s3://{BUCKET}/") for file in files]
    began = our_s()
    with ThreadPoolExecutor(fetches) as threads:
        for _ in threads.map(lambda key: bytes(store.get(key).bytes()), keys):
            pass
    bare, began = our_s() - began, our_s()
    with FetchAhead(1 << 30) as ahead:
        for file in ahead.over(files):
            assert isinstance(file.member, ObjectMember)
            file.member.request()
    ours = our_s() - began
    print(
        f"a read alone, {fetches} at a time: {1000 * bare / len(keys):.2f} ms of processor time by obstore, "
        f"{1000 * ours / len(keys):.2f} as a run reads"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--side", type=int, default=480, help="height of a picture")
    parser.add_argument("--ms", type=float, default=20.0, help="before each answer of the bucket")
    parser.add_argument("--fetches", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--moto", action="store_true", help="moto's server")
    parser.add_argument("--repository", help="of a model that is computed in this process; by default none is")
    parser.add_argument("--pin", action="store_true", help="indexing on the first core, the bucket on the second")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, asked.pictures, asked.side)
        with (moto_bucket if asked.moto else own_bucket)(folder, asked.ms) as pid:
            if asked.pin:
                one, two = sorted(os.sched_getaffinity(0))[:2]
                for task in os.listdir(f"/proc/{pid}/task"):
                    os.sched_setaffinity(int(task), {two})
                os.sched_setaffinity(0, {one})
            rounds: dict[str, list[Round]] = {}
            # After the pinning: a runtime starts a thread for each core that it may use.
            with model(asked.repository) as client:
                for _round in range(asked.rounds):
                    rounds.setdefault("local", []).append(run(client, folder, 1, asked.pictures, pid))
                    for fetches in asked.fetches:
                        found = run(client, f"s3://{BUCKET}/in", fetches, asked.pictures, pid)
                        rounds.setdefault(f"bucket, {fetches} at a time", []).append(found)
            reads_alone(max(asked.fetches))
    local = rounds["local"]
    for what, all_of in rounds.items():
        ratio = statistics.median(one.rate / here.rate for one, here in zip(all_of, local, strict=True))
        middle = statistics.median(one.rate for one in all_of)
        each = ", ".join(f"{one.rate:,.0f}" for one in all_of)
        ours, bucket = (
            1000 * statistics.median(values) / asked.pictures
            for values in ([one.ours for one in all_of], [one.bucket for one in all_of])
        )
        print(
            f"{what}: {middle:,.0f} pictures/s, {ratio:.2f} of local ({each}); "
            f"processor time a picture: {ours:.1f} ms, and {bucket:.1f} ms of the bucket's"
        )
