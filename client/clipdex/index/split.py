"""Dividing an index into parts, without embedding anything again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import IndexWriteError
from clipdex.index.create import building_folder, sweep_unfinished
from clipdex.index.files import create, sync_directory
from clipdex.index.kept import copy_kept
from clipdex.index.manifest import PLAN
from clipdex.index.merge import new_place, put, require_sound
from clipdex.index.part_plan import PartPlan, require_count, whole_parts
from clipdex.index.reader import Index
from clipdex.index.writer import IndexWriter

__all__ = ["Split", "split_index"]

_ROWS_AT_ONCE = 16_384
_PATHS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Split:
    """The result of a split. rows: in all parts together. parts: their number."""

    rows: int
    parts: int


def split_index(
    source: PathLike, out: PathLike, parts: int, progress: Callable[[int, int], None] | None = None
) -> Split:
    """Write an index of parts with the pictures of another; vectors, metadata, ids and failures are kept.

    The rows of each part are in the order of the source. It is built beside its place and renamed when it is
    complete; the source, which may have parts itself, is only read.

    Args:
        parts: their number, 1 to 10,000.
        progress: called with the number of rows copied so far and of all rows to copy.

    Raises:
        InvalidArgument: there is something at `out`, or the number of parts is out of range.
        IndexDamaged: the source is damaged: the copy would have matching checksums.
        IndexFault: as `Index` and `IndexWriter` raise it.
    """
    require_count(parts)
    path = as_path(source, "the path of an index")
    target = new_place(out, [path])
    homes = whole_parts(path)
    with Index.open(path) as index:
        for home in homes:
            require_sound(home, "split")
        plan = PartPlan.of(parts, index.manifest, f"split from {os.path.abspath(path)}")
        rows, part_of = _divided(index, plan)
        ledger = index.failures()
        sweep_unfinished(target)
        done = 0
        with building_folder(target) as made:
            for number, name in enumerate(plan.names()):
                with IndexWriter.open_or_create(made / name, index.manifest) as writer:
                    mine = rows[part_of == number]
                    for home in homes:
                        copy_kept(home, writer, ())  # without rows, too, a part has its kind of features
                    for start in range(0, len(mine), _ROWS_AT_ONCE):
                        some = mine[start : start + _ROWS_AT_ONCE].tolist()
                        pictures = index.pictures(some)
                        writer.append([pictures[row] for row in some], np.asarray(index.vectors[some]))
                        for home in homes:
                            copy_kept(home, writer, list(pictures.values()))
                        writer.commit()
                        done += len(some)
                        if progress is not None:
                            progress(done, len(rows))
                    for failure in ledger:
                        if plan.part_of(failure.path) == number:
                            writer.fail(failure)
            try:
                create(made / PLAN, plan.to_json().encode())
                sync_directory(made)
                put(made, target)
                sync_directory(target.parent)
            except OSError as exc:
                raise IndexWriteError(f"{target}: cannot be created: {exc.strerror}") from exc
    return Split(len(rows), parts)


def _divided(index: Index, plan: PartPlan) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """List the live rows of an index, and the part of each."""
    rows, part_of = np.empty(len(index), np.int64), np.empty(len(index), np.int32)
    done = 0
    for start in range(0, len(index.vectors), _PATHS_AT_ONCE):
        live = index.live_paths(start, start + _PATHS_AT_ONCE)
        some = slice(done, done + len(live))
        rows[some], part_of[some] = [row for row, _ in live], [plan.part_of(path) for _, path in live]
        done += len(live)
    return rows[:done], part_of[:done]
