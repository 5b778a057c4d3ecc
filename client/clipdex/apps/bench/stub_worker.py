"""Worker process that decodes nothing: it answers at once, or after a given time, as if its slot had been filled.

It takes the place of `pipeline/decode_worker.py` where everything else of a run is measured, and speaks its
messages. Its last argument is the time that a picture takes, in seconds; it sleeps for that, so that many workers
need no cores. The content hash is made of the path: every picture is a different one.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time

from clipdex.base.errors import ImageError
from clipdex.base.exif import Exif
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.records import storable
from clipdex.looks.signature import SIGNATURE_BYTES
from clipdex.pipeline.decode_worker import DECODED, HEADER, SLOT
from clipdex.pipeline.worker_loop import More, serve

__all__ = ["STUB_DECODER", "main", "stub_decoder"]

_SIZE = (640, 480)
STUB_DECODER = "clipdex.apps.bench.stub_worker"


def stub_decoder(seconds: float = 0.0) -> tuple[str, str]:
    """Return the `decoder` of a DecodePool whose workers take so long for a picture."""
    return STUB_DECODER, repr(seconds)


class _Stub:
    def __init__(self, seconds: float, *, exif: bool) -> None:
        self._seconds = seconds
        self._free_at = 0.0
        self._said = bytes(SIGNATURE_BYTES) + (Exif().as_json().encode() if exif else b"")

    def __call__(self, message: bytes, with_more: More) -> bytes:
        """Answer a request as `decode_file` would."""
        try:
            request = ReadRequest.parse(message[SLOT.size :])
        except ImageError as exc:
            raise AssertionError("a source of stub pictures refuses none") from exc
        info = os.stat(request.file)
        stated = (*request.identity(info), storable(info.st_ctime_ns))
        digest = hashlib.blake2b(request.file + message[SLOT.size :], digest_size=16).digest()
        if self._seconds:
            # By a schedule: what one sleep took too long, the next makes up for while there is work.
            now = time.monotonic()
            self._free_at = max(self._free_at, now - self._seconds) + self._seconds
            time.sleep(max(0.0, self._free_at - now))
        return HEADER.pack(DECODED, *_SIZE, *stated, digest, self._seconds, 0.0) + self._said


def main() -> None:
    """Serve until the pipe closes."""
    descriptor, memory, _, _, _, *also = sys.argv[1:]
    serve(int(descriptor), int(memory), Limits(), _Stub(float(also[-1]), exif="exif" in also))
