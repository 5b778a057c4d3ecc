"""Rewriting an index without its tombstones, atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged, IndexWriteError
from clipdex.base.records import Failure, Picture
from clipdex.base.replacing import EXCHANGE, renameat2
from clipdex.index.create import aside, building, put_back
from clipdex.index.files import sync_directory
from clipdex.index.kept import copy_kept
from clipdex.index.part_plan import is_parted, whole_parts
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.verify import Damage, check_rows
from clipdex.index.wal import wal_damage
from clipdex.index.writer import IndexWriter

__all__ = ["compact_index"]

_ROWS_AT_ONCE = 16_384


def compact_index(
    directory: PathLike, progress: Callable[[int, int], None] | None = None, *, drop_damaged: bool = False
) -> int:
    """Drop the dead rows and renumber the others, in their order -> how many were dropped.

    The new index is built beside the old one and takes its place in one step. Readers that have the old one
    open keep it until they refresh. Needs disk space for a second copy. An index of parts is compacted part by
    part; what an error leaves undone is as it was.

    Args:
        progress: called with the number of rows copied so far and of all rows to copy.
        drop_damaged: leave damaged live rows out, too; each gets a line in the ledger, and the next run over its
            file embeds it again.

    Raises:
        IndexLocked: another process is writing.
        IndexDamaged: a live row is damaged: the copy would have matching checksums. The index is unchanged.
        IndexWriteError: the disk is full or failed; the index is unchanged.
    """
    directory = Path(os.path.realpath(as_path(directory, "the path of an index")))  # not a link to it, nor "."
    if is_parted(directory):
        return sum(compact_index(part, progress, drop_damaged=drop_damaged) for part in whole_parts(directory))
    put_back(directory)
    cut = wal_damage(directory / ROWS_FILE)
    if cut and not drop_damaged:
        raise _refusal(directory, [Damage(cut)])
    with IndexWriter(directory) as old:
        if old.committed_rows == old.live_rows() and not drop_damaged:
            return 0
        damages, dead = _damages(old)
        lost = _live_rows(old, damages, dead)
        if damages and not drop_damaged:
            raise _refusal(directory, damages)
        dropped = len(dead) + len(lost)
        if dropped == 0 and not damages:
            return 0
        with building(directory, old.manifest) as new_directory:
            with IndexWriter(new_directory) as new:
                _copy(old, new, lost, progress)
                _note(old, new, lost)
            with _translated(directory):
                _exchange(new_directory, directory)
                sync_directory(directory.parent)
            # What is now at `new_directory` is the old index; `building` removes it.
    return dropped


def _damages(old: IndexWriter) -> tuple[list[Damage], frozenset[int]]:
    """Check the index -> (damage to anything that would be copied, the dead rows)."""
    store = RowStore.open(old.directory / ROWS_FILE, write=False)
    try:
        found = check_rows(old.directory, old.manifest, store).damages
        dead = frozenset(store.snapshot()[1])
    finally:
        store.close()
    return [each for each in found if each.rows is None or not dead.issuperset(range(*each.rows))], dead


def _live_rows(old: IndexWriter, damages: list[Damage], dead: frozenset[int]) -> frozenset[int]:
    """Find the live rows that are damaged."""
    spans = [range(*each.rows) for each in damages if each.rows is not None]
    return frozenset(row for span in spans for row in span if row < old.committed_rows) - dead


def _refusal(directory: Path, damages: list[Damage]) -> IndexDamaged:
    more = f" (and {len(damages) - 1:,} more:  clipdex verify  names them)" if len(damages) > 1 else ""
    return IndexDamaged(
        f"{directory}: {damages[0].what}{more}; it was not compacted, since a copy would look sound: index its "
        "pictures again, then compact it, or leave out what is damaged with --drop-damaged"
    )


def _copy(
    old: IndexWriter, new: IndexWriter, lost: frozenset[int], progress: Callable[[int, int], None] | None
) -> None:
    """Copy the live rows except the lost ones, keeping the first and the last time of commit."""
    first, last = old.commit_times()
    total, done = old.live_rows() - len(lost), 0
    copy_kept(old.directory, new, ())  # without rows, too, an index has its kind of features
    for pictures, vectors in _first_halved(old.live_blocks(_ROWS_AT_ONCE, lost)):
        new.append(pictures, vectors)
        copy_kept(old.directory, new, pictures)
        done += len(pictures)
        new.commit(first if done < total and new.committed_rows == 0 else last)
        if progress is not None:
            progress(done, total)


def _first_halved(blocks: Iterator[tuple[list[Picture], Array]]) -> Iterator[tuple[list[Picture], Array]]:
    """Split the first block, so that two rows make two extents: each extent has one time of commit."""
    for number, (pictures, vectors) in enumerate(blocks):
        middle = len(pictures) // 2 if number == 0 else 0
        if middle:
            yield pictures[:middle], vectors[:middle]
        yield pictures[middle:], vectors[middle:]


def _note(old: IndexWriter, new: IndexWriter, lost: frozenset[int]) -> None:
    """Copy the ledger, and add the pictures of the lost rows to it."""
    ledger = {failure.path: failure for failure in old.failures(damaged=False)}
    for row in sorted(lost):
        for picture in old.live_pictures(row, row + 1).values():
            # With a size and time that no file has, so that the next run reads it again.
            what = f"row {row} of the index was damaged"
            ledger[picture.path] = Failure(picture.path, "damaged", what, 0, 0)
    for path, failure in ledger.items():
        # A damaged path may be that of a sound row.
        if not lost or (isinstance(path, bytes) and new.known(path) is None):
            new.fail(failure)


@contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise IndexWriteError(
            f"{directory}: the compacted index could not take its place: {exc.strerror}"
        ) from exc


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories: in one step where the kernel can (Linux), else in three renames."""
    if renameat2(os.fsencode(one), os.fsencode(other), EXCHANGE):
        return
    shutil.rmtree(aside(other), ignore_errors=True)
    other.rename(aside(other))
    try:
        one.rename(other)
    except OSError:
        put_back(other)
        raise
    with suppress(OSError):  # the next compaction removes it
        aside(other).rename(one)
