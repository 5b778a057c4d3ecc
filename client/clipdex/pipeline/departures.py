"""Removal of rows from an index: their file is gone or now left out of its folder, or the user forgets them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.base.item_paths import BEGINS, is_item, path_text, paths_meant
from clipdex.base.object_paths import is_object
from clipdex.base.spelling import composed_path
from clipdex.index.part_plan import PartPlan, is_parted
from clipdex.index.reader import Index
from clipdex.index.writer import IndexWriter
from clipdex.sources.census import Surveyed
from clipdex.sources.locations import containers
from clipdex.sources.scan import nothing_at
from clipdex.sources.source import Source

__all__ = [
    "CopiesMet",
    "Forgotten",
    "Stranded",
    "departures",
    "forget_pictures",
    "gone_folder",
    "is_gone",
    "remove_departed",
]

# Paths of an index of millions, read in parts.
_PATHS_AT_ONCE = 65_536

# Copies of one content to check: there may be thousands of an empty picture.
_COPIES = 16


def departures(source: Source, paths: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Find the indexed paths that are gone from a source -> (those that do not exist, those left out now)."""
    asked = list(paths)
    gone = source.vanished(asked)
    if not isinstance(source, Surveyed):
        return gone, []
    away = frozenset(gone)
    return gone, source.left_out(path for path in asked if path not in away)


def remove_departed(writer: IndexWriter, source: Source, failed_before: Iterable[bytes]) -> tuple[int, int]:
    """Remove the rows and failures of files that the source no longer has -> (rows gone, rows left out).

    failed_before: the ledger's paths before the run. What has failed since stays until the next run, even if its
        file is gone: the run counts it as failed, and the ledger says why.
    """
    parts = [departures(source, paths) for paths in writer.live_paths(_PATHS_AT_ONCE)]
    lines = departures(source, failed_before)
    for path in chain.from_iterable(chain(*parts, lines)):
        writer.remove(path)
    return sum(len(gone) for gone, _ in parts), sum(len(out) for _, out in parts)


def is_gone(path: bytes) -> bool:
    """Return whether a picture's file certainly does not exist; a failing disk or network proves nothing.

    Of the path of an item that was added by id, which no file can have, the system says nothing; nor of an object
    in a bucket: only a listing does.
    """
    if is_object(path):
        return False
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)  # a folder has taken its place
    except (FileNotFoundError, NotADirectoryError):
        return all(nothing_at(container) for container, _ in containers(path))
    except (OSError, ValueError):
        return False


def gone_folder(path: bytes) -> bytes | None:
    """Return the topmost missing folder around a missing file; None if the file's own folder exists.

    An empty folder counts as missing: it may be the mount point of a disk.
    """
    file = next((container for container, _ in containers(path)), path)
    folder, top = os.path.dirname(file), None
    while nothing_at(folder):
        top, folder = folder, os.path.dirname(folder)
    return top or (folder if _is_empty(folder) else None)


def _is_empty(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


@dataclass(frozen=True)
class Stranded:
    """Rows whose file is gone, but whose content a run found elsewhere.

    folders: the number of live rows below each folder that is gone. files: the number of others.
    """

    folders: dict[str, int] = field(default_factory=dict)
    files: int = 0


class CopiesMet:
    """The rows whose content a run found elsewhere: their file may have been moved."""

    def __init__(self, writer: IndexWriter) -> None:
        self._writer = writer
        self._gone: set[bytes] = set()

    def note(self, content_hash: bytes) -> None:
        """Note that a file has the content of an existing row."""
        if len(self._gone) < _PATHS_AT_ONCE:
            self._gone.update(filter(is_gone, self._writer.live_paths_of_content(content_hash, _COPIES)))

    def stranded(self) -> Stranded:
        """Count those whose file is gone and that are still in the index, and the rows in the same folders."""
        known = [(path, self._writer.known(path)) for path in self._gone]
        left = [path for path, file in known if file is not None and file.row is not None]
        folders = {folder for path in left if (folder := gone_folder(path)) is not None}
        prefixes = {os.path.join(folder, b""): os.fsdecode(folder) for folder in folders}
        count: Counter[str] = Counter()
        if prefixes:
            for paths in self._writer.live_paths(_PATHS_AT_ONCE):
                for path in paths:
                    if path.startswith(tuple(prefixes)):
                        count[next(folder for prefix, folder in prefixes.items() if path.startswith(prefix))] += 1
        return Stranded(dict(count), sum(gone_folder(path) is None for path in left))


@dataclass(frozen=True)
class Forgotten:
    """The rows and failures removed from an index, or to be removed.

    folders: the rows by folder; `id:` for items that were added by id.
    """

    rows: int
    failures: int
    folders: dict[str, int]


def forget_pictures(
    index: PathLike,
    paths: Iterable[PathLike] = (),
    *,
    missing: bool = False,
    whole_folders: bool = False,
    dry_run: bool = False,
) -> Forgotten:
    """Remove rows and lines of the ledger from an index, in one transaction, or one a part. No file is touched.

    A picture that is still in an indexed folder comes back with the next run over it.

    Args:
        paths: remove what is at or below them, also in tars and tables; everything if empty and `missing` is set.
            `id:ID` is the item that was added by that id.
        missing: remove only pictures whose file is gone. A file that cannot be examined for another reason is not.
        whole_folders: with `missing`, also remove pictures whose whole folder is gone or empty, as if a disk were
            not mounted. Not needed for what is below `paths`.
        dry_run: count, and change nothing.

    Raises:
        InvalidArgument: there is nothing at or below one of the paths; neither paths nor `missing` are given; or
            whole folders are gone, which may only be unmounted.
        IndexFault: as `IndexWriter` raises it.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    named = [paths_meant(path) for path in paths]
    if not named and not missing:
        raise InvalidArgument("there is nothing to forget; give paths, or --missing (missing=True)")
    directory = as_path(index, "the path of an index")
    if dry_run:
        with Index.open(directory) as opened:
            rows = [path for _, path in opened.live_paths()]
            lines = opened.failed_paths()
            return _forgotten(*_chosen(directory, rows, lines, named, missing, whole_folders))
    if is_parted(directory):
        return _forget_in_parts(directory, named, missing, whole_folders)
    with IndexWriter(directory) as writer:
        rows = [path for part in writer.live_paths(_PATHS_AT_ONCE) for path in part]
        lines = writer.failed_paths()
        rows, lines = _chosen(directory, rows, lines, named, missing, whole_folders)
        for path in rows + lines:
            writer.remove(path)
        writer.commit()
    return _forgotten(rows, lines)


def _forget_in_parts(directory: Path, named: list[list[bytes]], missing: bool, whole_folders: bool) -> Forgotten:
    with Index.open(directory) as opened:
        rows = [path for _, path in opened.live_paths()]
        lines = opened.failed_paths()
    rows, lines = _chosen(directory, rows, lines, named, missing, whole_folders)
    plan, of_part = PartPlan.read(directory), dict[int, list[bytes]]()
    for path in rows + lines:
        of_part.setdefault(plan.part_of(path), []).append(path)
    for number, paths in sorted(of_part.items()):
        with IndexWriter(directory / plan.names()[number]) as writer:
            for path in paths:
                writer.remove(path)
    return _forgotten(rows, lines)


def _forgotten(rows: list[bytes], lines: list[bytes]) -> Forgotten:
    folders = Counter(BEGINS if is_item(path) else os.fsdecode(os.path.dirname(path)) for path in rows)
    return Forgotten(len(rows), len(lines), dict(folders))


def _chosen(
    directory: Path,
    rows: list[bytes],
    lines: list[bytes],
    named: list[list[bytes]],
    missing: bool,
    whole_folders: bool,
) -> tuple[list[bytes], list[bytes]]:
    if named:
        below = [next(filter(None, (_below(path, rows + lines) for path in meant)), set()) for meant in named]
        for meant, found in zip(named, below, strict=True):
            if not found:
                raise InvalidArgument(
                    f"{path_text(meant[0])}: {directory} has nothing at or below it; nothing was forgotten"
                )
        chosen = set().union(*below)
        rows, lines = ([path for path in some if path in chosen] for some in (rows, lines))
    if missing:
        rows, lines = [p for p in rows if is_gone(p)], [p for p in lines if nothing_at(p) and is_gone(p)]
        if not named and not whole_folders:
            _require_folders(rows + lines)
    return rows, lines


def _below(folder: bytes, paths: list[bytes]) -> set[bytes]:
    """Return the paths at or below a folder, tar or table, compared as bytes or else as normalised Unicode."""
    prefixes = tuple(dict.fromkeys((os.path.join(folder, b""), folder + b"!/")))
    found = {path for path in paths if path == folder or path.startswith(prefixes)}
    if found or folder.isascii():
        return found
    wanted = composed_path(folder)
    prefixes = (os.path.join(wanted, b""), wanted + b"!/")
    return {path for path in paths if composed_path(path) == wanted or composed_path(path).startswith(prefixes)}


def _require_folders(paths: list[bytes]) -> None:
    gone = Counter(folder for path in paths if (folder := gone_folder(path)) is not None)
    if gone:
        (folder, count), more = gone.most_common(1)[0], len(gone) - 1
        others = f", and {sum(gone.values()) - count:,} in {counted(more, 'other such folder')}" if more else ""
        raise InvalidArgument(
            f"{counted(count, 'picture is', 'pictures are')} below {os.fsdecode(folder)}, which is gone or "
            f"empty as a whole{others}: is a "
            "disk not mounted? nothing was forgotten; name the folder, or give --yes (whole_folders=True) for all"
        )
