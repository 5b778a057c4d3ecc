"""Making an index directory: built under another name, then renamed, so that there is never half of one."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipdex.errors import IndexWriteError
from clipdex.index.manifest import MANIFEST, Manifest
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.vectors import sync_directory

__all__ = ["LOCK_FILE", "building", "create_index", "sweep_unfinished"]

LOCK_FILE = "writer.lock"


def create_index(directory: Path, manifest: Manifest) -> None:
    """Make an empty index where nothing is.

    Raises:
        IndexWriteError: the place cannot be written.
    """
    with building(directory, manifest) as made:
        try:
            made.rename(directory)
            sync_directory(directory.parent)
        except OSError as exc:
            raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc


@contextmanager
def building(directory: Path, manifest: Manifest) -> Iterator[Path]:
    """An empty index beside `directory`, removed at the end of the block if it is still there."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=_prefix(directory), dir=directory.parent))
    except OSError as exc:
        raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
    try:
        try:
            made.chmod(0o777 & ~_umask())
            RowStore.create(made / ROWS_FILE)
            for name, text in ((manifest.vectors_file, ""), (LOCK_FILE, ""), (MANIFEST, manifest.to_json())):
                with (made / name).open("w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            sync_directory(made)
        except OSError as exc:
            raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep_unfinished(directory: Path) -> None:
    """Remove what killed processes left of indexes that were to become `directory`. For holders of its lock."""
    for path in directory.parent.glob(glob.escape(_prefix(directory)) + "*"):
        shutil.rmtree(path, ignore_errors=True)


def _prefix(directory: Path) -> str:
    return f".{directory.name}.building-"


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
