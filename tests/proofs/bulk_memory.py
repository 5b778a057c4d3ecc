"""What a run over a million pictures takes of memory: sampled while it goes on, through a fake server."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import clipdex
from clipdex.base.read_request import ReadRequest
from clipdex.client.client import SharedMemoryUse
from clipdex.sources.scan import FoundFile

_SIDE = 8
_HEADER = (
    b"BM"
    + (54 + _SIDE * _SIDE * 3).to_bytes(4, "little")
    + bytes(4)
    + (54).to_bytes(4, "little")
    + (40).to_bytes(4, "little")
    + _SIDE.to_bytes(4, "little") * 2
    + b"\x01\0\x18\0"
    + bytes(24)
)
PICTURE_BYTES = len(_HEADER) + _SIDE * _SIDE * 3
_SAMPLE_EVERY = 4_096


@dataclass(frozen=True)
class _Member:
    source: Packed
    number: int

    def request(self) -> bytes:
        return ReadRequest(self.source.file, self.number * PICTURE_BYTES, PICTURE_BYTES, PICTURE_BYTES, 1).encode()

    def metadata(self) -> str:
        return "{}"


class Packed:
    """So many different BMP files of 8 × 8 pixels, one behind the other in one file."""

    def __init__(self, file: Path, count: int) -> None:
        self.file = os.fsencode(file)
        self.count = count

    @classmethod
    def draw(cls, file: Path, count: int) -> Packed:
        rng = np.random.default_rng(20261124)
        with file.open("wb") as out:
            for start in range(0, count, 10_000):
                n = min(10_000, count - start)
                records = np.empty((n, PICTURE_BYTES), dtype=np.uint8)
                records[:, : len(_HEADER)] = np.frombuffer(_HEADER, np.uint8)
                records[:, len(_HEADER) :] = rng.integers(0, 256, (n, _SIDE * _SIDE * 3), dtype=np.uint8)
                out.write(records.tobytes())
        return cls(file, count)

    def files(self, on_failure):
        for i in range(self.count):
            yield FoundFile(b"/drawn/%07d.bmp" % i, PICTURE_BYTES, 1, member=_Member(self, i))

    def vanished(self, paths):
        return []

    def nothing_found(self):
        return clipdex.SourceError("nothing was drawn")


@dataclass(frozen=True)
class Memory:
    """Samples of a run: pictures indexed, and the client's anonymous memory in bytes."""

    report: clipdex.RunReport
    pictures: np.ndarray
    anonymous: np.ndarray

    @property
    def peak(self) -> int:
        return int(self.anonymous.max())

    @property
    def slope(self) -> float:
        """Bytes a picture, a straight line through the samples of the run's last four fifths."""
        late = self.pictures > self.pictures[-1] / 5
        return float(np.polyfit(self.pictures[late], self.anonymous[late], 1)[0])


def anonymous_bytes() -> int:
    """This process's resident memory that is neither a file's nor shared."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(directory: Path, count: int, shared_memory: SharedMemoryUse, workers: int) -> Memory:
    """Index `count` drawn pictures through a fake server in a process of its own."""
    source = Packed.draw(directory / "pictures", count)
    samples: list[tuple[int, int]] = []

    def sample(progress: clipdex.Progress) -> None:
        if not samples or progress.indexed - samples[-1][0] >= _SAMPLE_EVERY:
            samples.append((progress.indexed, anonymous_bytes()))

    serve = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert serve.stdout is not None
        address = serve.stdout.readline().strip()
        with clipdex.connect(address, shared_memory=shared_memory) as client:
            report = clipdex.index_pictures(
                client, source, directory / "x.clipdex", workers=workers, progress=sample
            )
    finally:
        serve.communicate("")
    samples.append((report.indexed, anonymous_bytes()))
    pictures, anonymous = np.array(samples).T
    return Memory(report, pictures, anonymous)


if __name__ == "__main__":  # the server
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from fake_triton import FakeTriton

    from clipdex.wire import FakeTransport

    class _Forgetful(FakeTransport):
        """One that does not keep a list of a million requests."""

        def submit(self, *arguments, wait=False):
            self.requests.clear()
            return super().submit(*arguments)

    with FakeTriton(_Forgetful(max_batch_size=64)) as server:
        print(server.address, flush=True)
        sys.stdin.read()
