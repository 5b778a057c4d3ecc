"""Pictures that are given to a collection, decoded in worker processes or here, with the same result."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import Generic, TypeAlias, TypeVar, cast

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, Closed, ImageError
from clipdex.base.limits import Limits
from clipdex.base.open_files import is_open_file, name_of, read_open
from clipdex.client.steps import Steps
from clipdex.looks.local_features import LocalFeatures, Recipe
from clipdex.model.card import ImageSpec
from clipdex.model.images import ImageSource, require_readable
from clipdex.model.picture_rules import PictureRules
from clipdex.pipeline.decode_service import DecodedPicture, DecodeService
from clipdex.pipeline.feature_service import FeatureService
from clipdex.pipeline.thumbnail_service import ThumbnailService
from clipdex.pipeline.worker_service import Given
from clipdex.sources.thumbnail import drawn

__all__ = ["Decoding", "InWorkers", "thumbnail_here"]

_T = TypeVar("_T")

THUMBNAIL_SIDE, THUMBNAIL_BYTES = 320, 24 << 10

# What went wrong when the worker read a file, and not when it decoded it.
_READING = ("vanished", "broken_link", "not_a_file", "unreadable")


class InWorkers(Generic[_T]):
    """A picture that a worker decodes, to pixels or to local features.

    given: what the worker reads. name: its path, or words for it. thumbnail: of its JPEG, if wanted.
    """

    def __init__(
        self,
        given: Given,
        name: str,
        path: str | None,
        done: Future[_T],
        thumbnail: Future[bytes] | None = None,
    ) -> None:
        self.given = given
        self.name = name
        self.path = path
        self.done = done
        self.thumbnail = thumbnail

    def error(self, exc: ImageError) -> tuple[ImageError, bool]:
        """Translate the error of a worker -> as this process would have raised it, and whether reading failed."""
        if self.path is not None and exc.reason in _READING:
            try:
                require_readable(self.path)
            except ImageError as ours:
                return ours, True
            return ImageError(f"{self.path}: cannot be read: {exc}", reason="unreadable"), True
        return exc, False

    def steps(self) -> Steps[_T]:
        """Wait for it; raises ImageError, which names it, as this process would have raised it."""
        try:
            return cast(_T, (yield cast("Future[Array]", self.done)))
        except ImageError as exc:
            error, named = self.error(exc)
            raise error if named else ImageError(f"{self.name}: {exc}", reason=exc.reason) from exc
        finally:
            self.done.cancel()

    def cancel(self) -> None:
        """Withdraw it, if no worker has it yet."""
        self.done.cancel()
        if self.thumbnail is not None:
            self.thumbnail.cancel()


class Decoding:
    """The workers of a collection, and what they do. Safe between threads; close it.

    workers: processes that decode; 0 to decode in this one. thumbnails: whether items get one. exif: whether what
    their files say of them is kept.
    """

    def __init__(
        self, spec: ImageSpec | None, rules: PictureRules, workers: int, thumbnails: bool, exif: bool
    ) -> None:
        """spec: of the model's pictures; None where there is no model, and nothing to decode."""
        self.workers = workers
        self.thumbnails = thumbnails
        self.exif = exif
        self._decoder = None
        if workers and spec is not None:
            self._decoder = DecodeService(spec, workers=workers, rules=rules, exif=exif)
        self._finder: FeatureService | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._drawer = ThumbnailService(workers=workers) if self._decoder is not None and thumbnails else None

    def in_workers(self, image: ImageSource, *, thumbnail: bool = False) -> InWorkers[DecodedPicture] | None:
        """Give a picture to the workers; None if it is to be decoded in this process.

        Raises:
            ImageError, InvalidArgument: it is an open file that cannot be read.
            ServerBusy: too many pictures wait already.
        """
        if self._decoder is None:
            return None
        given, name, path = _given(image)
        if given is None:
            return None
        done = self._decoder.decode(given)
        drawing = None
        if thumbnail and self._drawer is not None:
            try:
                drawing = self._drawer.draw(given, THUMBNAIL_SIDE, THUMBNAIL_BYTES)
            except ClipdexError:
                done.cancel()
                raise
        return InWorkers(given, name, path, done, drawing)

    def features(self, image: ImageSource, recipe: Recipe) -> InWorkers[LocalFeatures] | None:
        """Give a picture to the workers for its local features; None if they are to be found in this process.

        Raises:
            ImageError, InvalidArgument: it is an open file that cannot be read.
            MissingExtra: OpenCV is not installed.
            ServerBusy: too many pictures wait already.
            Closed: the collection is closed.
        """
        if not self.workers:
            return None
        given, name, path = _given(image)
        if given is None:
            return None
        return InWorkers(given, name, path, self._feature_finder().extract(given, recipe))

    def described(
        self, waiting: InWorkers[DecodedPicture], recipe: Recipe, content_hash: bytes, size: tuple[int, int]
    ) -> InWorkers[LocalFeatures]:
        """Give a picture that the workers have decoded to them again, for its local features.

        content_hash, size: what it was found to have, as `FeatureService.extract` takes them.

        Raises:
            ServerBusy, Closed: as `features`.
        """
        given = waiting.given
        done = self._feature_finder().extract(given, recipe, content_hash=content_hash, size=size)
        return InWorkers(given, waiting.name, waiting.path, done)

    def _feature_finder(self) -> FeatureService:
        with self._lock:
            if self._closed:
                raise Closed("this Collection is closed: open it again with Collection.open")
            if self._finder is None:  # not before it is wanted: OpenCV is an extra
                self._finder = FeatureService(workers=self.workers)
            return self._finder

    def close(self) -> None:
        """End the workers. Safe to call twice."""
        with self._lock:
            self._closed = True
        for service in (self._decoder, self._drawer, self._finder):
            if service is not None:
                service.close()


def thumbnail_here(image: ImageSource) -> bytes | None:
    """Draw the thumbnail of a picture that was decoded in this process; None if it cannot be drawn."""
    try:
        return drawn(image, THUMBNAIL_SIDE, THUMBNAIL_BYTES, max_pixels=Limits().max_pixels)
    except (ImageError, MemoryError):
        return None


_Found: TypeAlias = "tuple[Given | None, str, str | None]"


def _given(image: ImageSource) -> _Found:
    """Return (what a worker reads, its name, its path); None for pixels, which need no decoding."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return Given(bytes(image)), "the bytes given", None
    if isinstance(image, (str, os.PathLike)):
        raw, name = os.fsencode(image), os.fspath(image)
        if b"\0" in raw:
            return None, name, None  # the error is the same here
        return Given(path=os.path.abspath(raw)), name, name
    if is_open_file(image):
        return Given(read_open(image)), name_of(image), None
    return None, "", None
