"""Copying along with rows what is kept beside them: the thumbnails of items, and local features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from clipdex.base.errors import IndexDamaged, IndexFormatError
from clipdex.base.item_paths import is_item
from clipdex.base.records import Picture
from clipdex.index.side.feature_file import FeatureFile
from clipdex.index.thumbnails import ThumbnailStore
from clipdex.index.writer import IndexWriter

__all__ = ["copy_kept"]

_FEATURES_AT_ONCE = 100  # pictures, some 70,000 bytes each


def copy_kept(source: Path, writer: IndexWriter, pictures: Sequence[Picture]) -> None:
    """Copy what another index keeps of pictures; what is damaged is left out.

    Raises:
        IndexWriteError: the disk is full or failed.
        IndexFault: the system refuses to read it now.
    """
    _copy_thumbnails(source, writer, pictures)
    _copy_features(source, writer.directory, pictures)


def _copy_features(source: Path, directory: Path, pictures: Sequence[Picture]) -> None:
    """Copy local features, unless the new index has some that were made otherwise."""
    try:
        old = FeatureFile.open(source)
    except (IndexDamaged, IndexFormatError):
        return  # they can be made again
    if old is None:
        return
    contents = list(dict.fromkeys(picture.content_hash for picture in pictures))
    with closing(old), closing(FeatureFile.open_or_make(directory, old.recipe)) as new:
        if new.recipe == old.recipe:
            for start in range(0, len(contents), _FEATURES_AT_ONCE):
                with suppress(IndexDamaged):
                    new.add(old.several(contents[start : start + _FEATURES_AT_ONCE]))


def _copy_thumbnails(source: Path, writer: IndexWriter, pictures: Sequence[Picture]) -> None:
    """Copy the thumbnails of those pictures that are items from another index; damaged ones are left out."""
    items = [picture.content_hash for picture in pictures if is_item(picture.path)]
    if not items:
        return
    try:
        store = ThumbnailStore.open(source)
        if store is None:
            return
        try:
            for content_hash in items:
                jpeg = store.get(content_hash)
                if jpeg is not None:
                    writer.keep_thumbnail(content_hash, jpeg)
        finally:
            store.close()
    except IndexDamaged:
        return
