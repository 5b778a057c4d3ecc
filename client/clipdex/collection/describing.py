"""Local features of pictures that are added by id: made while their bytes are there, in the workers or here."""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from clipdex.base.errors import ImageError, IndexDamaged, IndexFormatError, MissingExtra
from clipdex.base.limits import Limits
from clipdex.client.steps import Steps
from clipdex.collection.decoding import Decoding, InWorkers
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import LocalFeatures, Recipe, opencv
from clipdex.model.images import ImageSource
from clipdex.pipeline.decode_service import DecodedPicture
from clipdex.pipeline.feature_worker import features_of

__all__ = ["Described", "Describing"]

_log = logging.getLogger("clipdex.collection")


@dataclass(frozen=True)
class Described:
    """The local features of one picture that is being added, or what makes them. recipe: how they are made."""

    recipe: Recipe
    found: LocalFeatures | InWorkers[LocalFeatures]

    def steps(self) -> Steps[LocalFeatures | None]:
        """Wait for them; None, which is logged, if they cannot be made: the picture can be added without."""
        if not isinstance(self.found, InWorkers):
            return self.found
        try:
            return (yield from self.found.steps())
        except ImageError as exc:
            _log.warning("%s; it is added without local features", exc)
            return None

    def cancel(self) -> None:
        """Withdraw them, if no worker has the picture yet."""
        if isinstance(self.found, InWorkers):
            self.found.cancel()


class Describing:
    """Makes the local features of what is added to an index that has features. Safe between threads."""

    def __init__(self, directory: Path, decoding: Decoding, wanted: bool | None) -> None:
        """wanted: False for never; None for none, and not an error, where OpenCV is not installed."""
        self._directory, self._decoding = directory, decoding
        self._wanted = wanted
        self._lock = threading.Lock()

    def recipe(self, content_hash: bytes) -> Recipe | None:
        """Return how to make the features of a content; None if it has some, or the index takes none.

        Raises:
            IndexFault: the system refuses to read those of the index.
            MissingExtra: they were asked for, and OpenCV is not installed.
        """
        if self._wanted is False:
            return None
        try:
            file = FeatureFile.open(self._directory)
        except (IndexDamaged, IndexFormatError) as exc:  # it is a side file
            _log.warning("%s; what is added has no local features", exc)
            return None
        if file is None:
            return None
        with closing(file):
            recipe = None if file.held([content_hash]) else file.recipe
        return recipe if recipe is not None and self._is_possible() else None

    def start(
        self, image: ImageSource, decoded: DecodedPicture, waiting: InWorkers[DecodedPicture] | None
    ) -> Described | None:
        """Make the features of a picture, or let the workers; None if it is to have none, or has some.

        image: the bytes of its file, or what is no file. decoded: what it was decoded to. waiting: by the workers,
        if they have decoded it.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the collection is closed.
            Others: as `recipe`.
        """
        recipe = self.recipe(decoded.content_hash)
        if recipe is None:
            return None
        size = (decoded.width, decoded.height)
        if waiting is not None:
            return Described(recipe, self._decoding.described(waiting, recipe, decoded.content_hash, size))
        try:
            return Described(recipe, features_of(image, recipe, size, Limits()))
        except (ImageError, MemoryError) as exc:
            _log.warning("%s; a picture is added without local features", exc or "there is not enough memory")
            return None

    def _is_possible(self) -> bool:
        """Return whether OpenCV is there. Raises MissingExtra if it is not, and features were asked for."""
        try:
            opencv()
        except MissingExtra as exc:
            if self._wanted:
                raise
            with self._lock:
                if self._wanted is None:
                    _log.warning("%s; what is added to %s has no local features", exc, self._directory)
                self._wanted = False
            return False
        return True
