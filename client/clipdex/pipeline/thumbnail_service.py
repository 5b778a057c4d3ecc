"""Thumbnails drawn by killable processes, with a run's limits."""

from __future__ import annotations

from concurrent.futures import Future

from clipdex.base.limits import Limits
from clipdex.pipeline.picture_service import PictureService
from clipdex.pipeline.picture_worker import CHANGED
from clipdex.pipeline.thumbnail_worker import WANTED
from clipdex.pipeline.worker_service import Given

__all__ = ["CHANGED", "ThumbnailService"]


class ThumbnailService(PictureService):
    """Up to `workers` processes that draw thumbnails, started when needed. Safe between threads; close it."""

    def __init__(
        self, *, workers: int, limits: Limits | None = None, waiting: int = 128, idle_s: float = 30.0
    ) -> None:
        """waiting: pictures that may wait. idle_s: seconds after which a process without work ends.

        Raises:
            InvalidArgument: workers is less than 1.
        """
        module = "clipdex.pipeline.thumbnail_worker"
        super().__init__(module, workers=workers, limits=limits, waiting=waiting, idle_s=idle_s)

    def draw(self, given: Given, side: int, most_bytes: int, content_hash: bytes | None = None) -> Future[bytes]:
        """Queue a picture -> a future of its JPEG, at most `side` pixels wide and high, upright and in sRGB.

        most_bytes: of the JPEG. content_hash: that the file must have, 16 bytes.

        The future raises ImageError if it cannot be drawn; `reason` is "changed" if the hash is another.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the service is closed.
        """
        return self._ask(given, WANTED.pack(side, most_bytes), content_hash, bytes)
