"""Local features found by killable processes, with a run's limits."""

from __future__ import annotations

from concurrent.futures import Future

from clipdex.base.limits import Limits
from clipdex.looks.local_features import LocalFeatures, Recipe, opencv
from clipdex.pipeline.feature_worker import wanted
from clipdex.pipeline.picture_service import PictureService
from clipdex.pipeline.worker_service import Given

__all__ = ["FeatureService"]


class FeatureService(PictureService):
    """Up to `workers` processes that find local features, started when needed. Safe between threads; close it."""

    def __init__(
        self, *, workers: int, limits: Limits | None = None, waiting: int = 128, idle_s: float = 30.0
    ) -> None:
        """waiting: pictures that may wait. idle_s: seconds after which a process without work ends.

        Raises:
            InvalidArgument: workers is less than 1.
            MissingExtra: OpenCV is not installed.
        """
        opencv()  # that it is missing should be said here, and once
        module = "clipdex.pipeline.feature_worker"
        super().__init__(module, workers=workers, limits=limits, waiting=waiting, idle_s=idle_s)

    def extract(
        self,
        given: Given,
        recipe: Recipe,
        *,
        content_hash: bytes | None = None,
        size: tuple[int, int] | None = None,
    ) -> Future[LocalFeatures]:
        """Queue a picture -> a future of its local features.

        content_hash: that the file must have, 16 bytes. size: its width and height as shown, if they are known:
        then a large JPEG is not decoded in full.

        The future raises ImageError if it cannot be decoded; `reason` is "changed" if the hash is another.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the service is closed.
        """
        width = recipe.width
        return self._ask(
            given, wanted(recipe, size), content_hash, lambda made: LocalFeatures.from_bytes(made, width)
        )
