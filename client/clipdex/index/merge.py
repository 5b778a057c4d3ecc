"""Joining indexes of one model into a new one, without embedding anything again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged, IndexWriteError, InvalidArgument
from clipdex.base.records import Failure, Picture
from clipdex.base.replacing import NOREPLACE, renameat2
from clipdex.index.create import building, require_outside_indexes, sweep_unfinished
from clipdex.index.kept import copy_kept
from clipdex.index.manifest import Manifest
from clipdex.index.part_plan import whole_parts
from clipdex.index.reader import Index
from clipdex.index.verify import verify_index
from clipdex.index.writer import IndexWriter

__all__ = ["Merged", "merge_indexes", "new_place", "put", "require_sound"]

_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Merged:
    """The result of a merge. rows: in the new index. replaced: rows left out, as a later index has their path."""

    rows: int
    replaced: int


def merge_indexes(
    sources: Sequence[PathLike], out: PathLike, progress: Callable[[int, int], None] | None = None
) -> Merged:
    """Write a new index with the pictures of several, in their order; vectors, metadata and ids are kept.

    If several have the same path or id, the last of them counts. A failure counts if none has the picture. The
    new index is built beside its place and renamed when it is complete; the others are only read.

    Args:
        sources: indexes of one model, also of parts; the new one has float32 vectors if one of them has.
        progress: called with the number of rows copied so far and of all rows to copy.

    Raises:
        FingerprintMismatch: they are of different models, or their pictures were decoded differently.
        IndexDamaged: one of them is damaged: the copy would have matching checksums.
        InvalidArgument: there is something at `out`, it is inside an index, or there are no sources.
        IndexFault: as `Index` and `IndexWriter` raise it.
    """
    if isinstance(sources, (str, os.PathLike)) or not isinstance(sources, Sequence) or not sources:
        raise InvalidArgument(f"sources is {sources!r:.60}; expected a list of indexes")
    named = [as_path(each, "the path of an index") for each in sources]
    target = new_place(out, named)
    paths = [path for each in named for path in whole_parts(each)]
    with ExitStack() as stack:
        indexes = [stack.enter_context(Index.open(path)) for path in paths]
        manifest = _manifest(indexes)
        for path in paths:
            require_sound(path, "merged")
        sweep_unfinished(target)
        chosen = _chosen(indexes)
        total = sum(map(len, chosen))
        with building(target, manifest) as made:
            with IndexWriter(made) as writer:
                done = 0
                for source, pictures, vectors in _blocks(indexes, chosen):
                    writer.append(pictures, vectors)
                    copy_kept(source, writer, pictures)
                    writer.commit()
                    done += len(pictures)
                    if progress is not None:
                        progress(done, total)
                for failure in _failures(indexes, writer):
                    writer.fail(failure)
            put(made, target)
            IndexWriter(target).close()  # syncs the name
    return Merged(total, sum(map(len, indexes)) - total)


def _manifest(indexes: Sequence[Index]) -> Manifest:
    """The manifest of the new index."""
    first = indexes[0].manifest
    for index in indexes[1:]:
        index.manifest.require_same(first, index.directory)
    wide = any(index.manifest.dtype == "float32" for index in indexes)
    below = next((index.manifest.below_floor for index in indexes if index.manifest.below_floor), "")
    dtype = "float32" if wide else first.dtype
    return replace(first, dtype=dtype, below_floor=below)


def _chosen(indexes: Sequence[Index]) -> list[list[int]]:
    """The rows of each index whose path no later index has."""
    chosen: list[list[int]] = []
    later: set[bytes] = set()
    for index in reversed(indexes):
        rows = index.live_paths()
        chosen.append([row for row, path in rows if path not in later])
        later.update(path for _, path in rows)
    return chosen[::-1]


def _blocks(
    indexes: Sequence[Index], chosen: Sequence[Sequence[int]]
) -> Iterator[tuple[Path, list[Picture], Array]]:
    for index, rows in zip(indexes, chosen, strict=True):
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            pictures = index.pictures(some)
            yield index.directory, [pictures[row] for row in some], np.asarray(index.vectors[some])


def _failures(indexes: Sequence[Index], writer: IndexWriter) -> list[Failure]:
    ledger = {failure.path: failure for index in indexes for failure in index.failures()}
    return [failure for failure in ledger.values() if not writer.has(failure.path)]


def new_place(out: PathLike, sources: Sequence[Path]) -> Path:
    """Return the path of an index to be made from others. Raises InvalidArgument if none can be made there."""
    target = as_path(out, "the path of the new index")
    if any(os.path.realpath(target) == os.path.realpath(path) for path in sources):
        raise InvalidArgument(f"{target} is one of the indexes to merge; give the new index another path")
    require_outside_indexes(target)
    if os.path.lexists(target):
        raise InvalidArgument(f"{target} exists already; give the new index another path, or move it away")
    return target


def require_sound(path: Path, done: str) -> None:
    """Raise IndexDamaged if an index is damaged: a copy would have matching checksums. done: such as "merged"."""
    if damages := verify_index(path).damages:
        raise IndexDamaged(
            f"{path}: {damages[0].what}; it was not {done}, since a copy would look sound: index its "
            "pictures again, then compact it, or leave out what is damaged with  clipdex compact --drop-damaged"
        )


def put(made: Path, target: Path) -> None:
    """Give the new index its name, if nothing has taken it meanwhile."""
    try:
        if not renameat2(os.fsencode(made), os.fsencode(target), NOREPLACE):
            made.rename(target)
    except FileExistsError as exc:
        raise InvalidArgument(f"{target} exists by now; give the new index another path") from exc
    except OSError as exc:
        raise IndexWriteError(f"{target}: cannot be created: {exc.strerror}") from exc
