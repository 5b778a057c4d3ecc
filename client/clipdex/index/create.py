"""Creating an index directory: built under another name, then renamed, so that it is never incomplete."""

from __future__ import annotations

import glob
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipdex.base.errors import IndexWriteError, InvalidArgument
from clipdex.index.file_system import lacking, locked
from clipdex.index.files import create, sync_directory
from clipdex.index.manifest import MANIFEST, Manifest
from clipdex.index.rows import ROWS_FILE, RowStore

__all__ = [
    "LOCK_FILE",
    "aside",
    "building",
    "building_folder",
    "create_index",
    "put_back",
    "require_outside_indexes",
    "sweep_unfinished",
    "unfinished_name",
]

LOCK_FILE = "writer.lock"


def create_index(directory: Path, manifest: Manifest) -> None:
    """Create an empty index at a path that does not exist. Its name is synced to disk when a writer opens it.

    Raises:
        InvalidArgument: it would be inside another index.
        IndexWriteError: the directory cannot be created.
    """
    require_outside_indexes(directory)
    try:
        with building(directory, manifest) as made:
            try:
                made.rename(directory)
            except OSError as exc:
                raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
    except IndexWriteError:
        # Another process may have been faster and have removed this one's: its index is just as good.
        if not os.path.lexists(directory):
            raise


def require_outside_indexes(directory: Path) -> None:
    """Raise InvalidArgument if a path is inside an index, whose next compaction would remove what is there."""
    for folder in Path(os.path.realpath(directory)).parents:
        if (folder / MANIFEST).is_file() and (folder / ROWS_FILE).is_file():
            raise InvalidArgument(
                f"{directory} is inside the index {folder}; give the new index a path outside it"
            )


@contextmanager
def building(directory: Path, manifest: Manifest) -> Iterator[Path]:
    """Create an empty index beside `directory`; it is removed at the end of the block if it is still there."""
    with building_folder(directory) as made:
        try:
            RowStore.create(made / ROWS_FILE)
            for name, text in ((manifest.vectors_file, ""), (LOCK_FILE, ""), (MANIFEST, manifest.to_json())):
                create(made / name, text.encode())
            sync_directory(made)
        except OSError as exc:
            raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
        except sqlite3.Error as exc:
            with suppress(OSError):
                create(made / MANIFEST, manifest.to_json().encode())  # for `lacking` to test the file system with
            lack = lacking(made / MANIFEST)
            raise IndexWriteError(f"{directory}: cannot be created: {exc}{f': {lack}' if lack else ''}") from exc
        yield made


@contextmanager
def building_folder(directory: Path) -> Iterator[Path]:
    """Create an empty folder beside `directory`; it is removed at the end of the block if it is still there."""
    try:
        _make_folder(directory.parent)
        made, lock = _made(directory)
    except OSError as exc:
        raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
    try:
        try:
            made.chmod(0o777 & ~_umask())
        except OSError as exc:
            raise IndexWriteError(f"{directory}: cannot be created: {exc.strerror}") from exc
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def sweep_unfinished(directory: Path) -> None:
    """Remove unfinished indexes that killed processes left beside `directory`, but none that is being built."""
    directory = Path(os.path.realpath(directory))  # they are beside the index, not beside a link to it
    for path in directory.parent.glob(glob.escape(_prefix(directory)) + "*"):
        with suppress(OSError, IndexWriteError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if locked(lock, path):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def unfinished_name(directory: Path) -> Path:
    """Return a new name beside an index, under which the next writer removes what is there."""
    made = tempfile.mkdtemp(prefix=_prefix(directory), dir=directory.parent)
    os.rmdir(made)
    return Path(made)


def _made(directory: Path) -> tuple[Path, int]:
    """Create an empty folder beside a path -> (its path, a descriptor whose lock shows that we are alive)."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=_prefix(directory), dir=directory.parent))
        with suppress(FileNotFoundError):
            lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            alone = True
            with suppress(IndexWriteError):  # a file system without locks: no process can remove it there either
                alone = locked(lock, made)
            if alone and made.is_dir():
                return made, lock
            os.close(lock)  # another process removes it, before it was locked


def put_back(directory: Path) -> None:
    """Restore an index that a compaction had moved aside when it was killed (see `compact`)."""
    directory = Path(os.path.realpath(directory))
    if not os.path.lexists(directory) and aside(directory).is_dir():
        with suppress(OSError):  # another process was faster
            aside(directory).rename(directory)


def aside(directory: Path) -> Path:
    """The path to which a compaction moves the old index if it cannot swap the two in one step."""
    return directory.with_name(f".{directory.name}.old")


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, like `mkdir -p`, and sync each new entry to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def _prefix(directory: Path) -> str:
    return f".{directory.name}.building-"


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
