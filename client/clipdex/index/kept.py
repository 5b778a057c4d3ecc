"""Copying the thumbnails of items along with their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipdex.base.errors import IndexDamaged
from clipdex.base.item_paths import is_item
from clipdex.base.records import Picture
from clipdex.index.thumbnails import ThumbnailStore
from clipdex.index.writer import IndexWriter

__all__ = ["copy_thumbnails"]


def copy_thumbnails(source: Path, writer: IndexWriter, pictures: Sequence[Picture]) -> None:
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
