"""The files of an index as of one commit, opened to be copied elsewhere while a writer may go on.

SQLite copies the databases to temporary files, each in one read transaction; the vectors are those of the rows in
the copy of `rows.sqlite`, which no writer changes; other files are replaced whole, and stay what they are once
they are open. Local features may be of a later moment than the rows: they are found by content.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipdex.base.errors import IndexDamaged, IndexWriteError
from clipdex.index.create import LOCK_FILE
from clipdex.index.files import create, fault, open_directory, open_to_read
from clipdex.index.manifest import MANIFEST, PLAN, Manifest
from clipdex.index.part_plan import is_parted, part_name, whole_parts
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.schema import DAMAGE, connect, connect_new, unreadable
from clipdex.index.side.ann_file import ANN_FILE
from clipdex.index.side.feature_file import FEATURES_FILE
from clipdex.index.side.int8_file import INT8_FILE
from clipdex.index.side.neighbour_footer import NEIGHBOURS_FILE
from clipdex.index.thumbnails import THUMBNAILS_FILE
from clipdex.index.wal import wal_damage

__all__ = ["SIDE_FILES", "SnapshotFile", "complete_files", "index_snapshot", "is_snapshot_name", "required_files"]

SIDE_FILES = (INT8_FILE, ANN_FILE, THUMBNAILS_FILE, FEATURES_FILE, NEIGHBOURS_FILE)
_WHOLE, _DATABASES = (INT8_FILE, ANN_FILE, NEIGHBOURS_FILE), (THUMBNAILS_FILE, FEATURES_FILE)
_VECTORS = ("vectors.f16", "vectors.f32")


@dataclass(frozen=True)
class SnapshotFile:
    """A file of an index. name: from the index's directory, with a slash in an index of parts. size: bytes."""

    name: str
    size: int
    file: BinaryIO


def index_snapshot(directory: Path) -> Generator[SnapshotFile, None, None]:
    """Give the files of an index, or of an index of parts, as of one commit of each part, one after the other.

    A file is open until the next is asked for. Close the generator. Needs room for one copy of a part's
    databases among the temporary files.

    Raises:
        IndexNotFound: a part is missing.
        IndexDamaged: the record of commits cannot be read.
        IndexWriteError: there is no room for the copy.
        IndexFault: as reading an index raises it.
    """
    parts = whole_parts(directory)
    if is_parted(directory):
        with _opened(directory / PLAN) as plan:
            yield SnapshotFile(PLAN, os.fstat(plan.fileno()).st_size, plan)
    for part in parts:
        before = f"{part.name}/" if part != directory else ""
        with ExitStack() as stack:
            for name, size, file in _of_one_commit(part, stack):
                yield SnapshotFile(before + name, size, file)


def _of_one_commit(directory: Path, stack: ExitStack) -> list[tuple[str, int, BinaryIO]]:
    while True:
        attempt = ExitStack()
        try:
            found, in_place = _looked(directory, attempt)
        except BaseException:
            attempt.close()
            raise
        if in_place:
            stack.enter_context(attempt)
            return found
        attempt.close()  # a compaction has taken its place


def _looked(directory: Path, stack: ExitStack) -> tuple[list[tuple[str, int, BinaryIO]], bool]:
    manifest = Manifest.read(directory)
    try:
        place = open_directory(directory)
    except OSError as exc:
        raise fault(directory, exc) from exc
    stack.callback(os.close, place)
    manifest_file = stack.enter_context(_opened(directory / MANIFEST))
    found = [(MANIFEST, manifest_file)]
    for name in _WHOLE:  # before the rows: they may be of fewer rows, never of more
        with suppress(FileNotFoundError):
            found.append((name, stack.enter_context(open_to_read(directory / name))))
    copies = stack.enter_context(_temporary())
    rows = _copied(directory / ROWS_FILE, copies / ROWS_FILE)
    store = RowStore.open(rows, write=False)
    with closing(store):
        count = store.committed_rows()
    databases = [(ROWS_FILE, rows)]
    databases += [
        (name, _copied(directory / name, copies / name))
        for name in _DATABASES
        if os.path.lexists(directory / name)
    ]
    found += [(name, stack.enter_context(_opened(path))) for name, path in databases]
    sized = [(name, os.fstat(file.fileno()).st_size, file) for name, file in found]
    vectors = stack.enter_context(_opened(directory / manifest.vectors_file))
    in_place = os.path.samestat(os.fstat(place), os.stat(directory))
    wanted = count * manifest.row_bytes
    if in_place and os.fstat(vectors.fileno()).st_size < wanted:
        raise IndexDamaged(f"{directory / manifest.vectors_file}: is shorter than its {count:,} committed rows")
    return [*sized, (manifest.vectors_file, wanted, vectors)], in_place


def _opened(path: Path) -> BinaryIO:
    try:
        return open_to_read(path)
    except OSError as exc:
        raise fault(path, exc) from exc


@contextmanager
def _temporary() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="clipdex-")
    except OSError as exc:
        raise IndexWriteError(f"{tempfile.gettempdir()}: no temporary file can be made: {exc.strerror}") from exc
    with folder as name:
        yield Path(name)


def _copied(path: Path, copy: Path) -> Path:
    """Copy a database as of one moment -> the copy."""
    if cut := wal_damage(path):
        raise IndexDamaged(f"{path.parent}: {cut}")
    try:
        with closing(connect(path, write=False)) as old, closing(connect_new(copy)) as new:
            old.backup(new)
    except sqlite3.OperationalError as exc:
        if "full" in str(exc):
            raise IndexWriteError(
                f"{copy.parent}: has no room for a copy of {path}; name another folder in TMPDIR"
            ) from exc
        raise unreadable(path, exc) from exc
    except DAMAGE as exc:
        raise unreadable(path, exc) from exc
    return copy


def is_snapshot_name(name: str) -> bool:
    """Return whether a snapshot may have a file of this name: exactly those of an index, never another path."""
    folder, slash, base = name.rpartition("/")
    if not slash:
        return base == PLAN or base in _NAMES
    number = folder[5:10]
    return base in _NAMES and number.isascii() and number.isdigit() and folder == part_name(int(number))


_NAMES = (MANIFEST, ROWS_FILE, *_VECTORS, *SIDE_FILES)


def required_files(names: frozenset[str]) -> str:
    """Return what a set of names of a snapshot lacks to be an index; "" if nothing."""
    if PLAN not in names:
        folders = [""]
        if stray := next((name for name in sorted(names) if "/" in name), ""):
            return f"{PLAN} beside {stray}"
    else:
        folders = sorted({name.rpartition("/")[0] + "/" for name in names if "/" in name})
        if not folders or any("/" not in name and name != PLAN for name in names):
            return "its parts"
    for folder in folders:
        vectors = sum(folder + each in names for each in _VECTORS)
        for each in (MANIFEST, ROWS_FILE):
            if folder + each not in names:
                return folder + each
        if vectors != 1:
            return f"{folder}vectors.f16 or .f32, one of them"
    return ""


def complete_files(directory: Path) -> None:
    """Create what an index needs beside the files of its snapshot. Raises OSError."""
    for part in whole_parts(directory):
        if not os.path.lexists(part / LOCK_FILE):
            create(part / LOCK_FILE, b"")
