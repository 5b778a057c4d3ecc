"""Single pictures decoded by killable processes, with a run's limits: for pictures that come from outside."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from clipdex.base.arrays import Pixels
from clipdex.base.errors import ClipdexError, ImageError
from clipdex.base.exif import Exif
from clipdex.base.limits import Limits
from clipdex.model.card import ImageSpec
from clipdex.model.picture_rules import EXACT, PictureRules
from clipdex.pipeline.decode import start_decoder
from clipdex.pipeline.decode_worker import DECODED, HEADER, NO_HASH, SLOT, told_by
from clipdex.pipeline.large_pictures import machine_memory
from clipdex.pipeline.ring import PixelRing
from clipdex.pipeline.worker_process import WorkerProcess
from clipdex.pipeline.worker_service import ADVICE, Given, WorkerService

__all__ = ["DecodeService", "DecodedPicture"]


@dataclass(frozen=True)
class DecodedPicture:
    """The facts of a picture that an index keeps, and its pixels for the model, uint8 (S, S, 3).

    width, height: as shown. size: of its file in bytes. content_hash: 16 bytes. phash: its perceptual signature.
    exif: what its file says of it; None if that was not read.
    """

    width: int
    height: int
    size: int
    content_hash: bytes
    phash: bytes | None
    pixels: Pixels = field(repr=False, compare=False)
    exif: Exif | None = None


class DecodeService:
    """Up to `workers` processes that decode pictures for one model. Safe between threads; close it.

    Processes start when there is work and end when there is none. If one dies at a picture, or takes longer than
    `limits.file_timeout_s`, that picture fails with an ImageError, and another process takes its place.
    """

    def __init__(
        self,
        spec: ImageSpec,
        *,
        workers: int,
        rules: PictureRules = EXACT,
        exif: bool = False,
        limits: Limits | None = None,
        waiting: int = 128,
        idle_s: float = 30.0,
    ) -> None:
        """spec: how the model's pictures are resized. waiting: pictures that may wait.

        exif: also read what pictures, and the sidecars of those given by path, say of them.

        Raises:
            InvalidArgument: workers is less than 1.
            ClipdexError: there is no memory for the pixels.
        """
        bounds = (limits or Limits()).within(machine_memory())

        def start() -> WorkerProcess:
            return start_decoder(WorkerProcess, self._ring, spec, bounds, rules, exif=exif, advice=ADVICE)

        self._service = WorkerService(start, workers=workers, limits=bounds, waiting=waiting, idle_s=idle_s)
        try:
            self._ring = PixelRing(spec.size, workers, 1)  # a slot for each process
        except OSError as exc:
            raise ClipdexError(f"there is not enough memory for decoded pictures: {exc.strerror}") from exc

    @property
    def workers(self) -> int:
        """The most processes that run at once."""
        return self._service.workers

    def decode(self, given: Given) -> Future[DecodedPicture]:
        """Queue a picture -> a future of it, which raises ImageError if it cannot be decoded.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the service is closed.
        """
        return self._service.submit(given, lambda slot: SLOT.pack(slot, NO_HASH), self._parsed)

    def _parsed(self, slot: int, answer: bytes) -> DecodedPicture:
        status, width, height, size, _, _, digest, _, _ = HEADER.unpack_from(answer)
        if status != DECODED:
            reason, _, detail = answer[HEADER.size :].decode().partition("\0")
            raise ImageError(detail, reason=reason)
        phash, exif = told_by(answer)
        return DecodedPicture(width, height, size, digest, phash, self._ring.at(slot).copy(), exif)

    def processes(self) -> list[int]:
        """List the ids of the running processes."""
        return self._service.processes()

    def close(self) -> None:
        """End the processes; pictures that are not done fail with Closed. Safe to call twice."""
        self._service.close()
        self._ring.close()

    def __enter__(self) -> DecodeService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
