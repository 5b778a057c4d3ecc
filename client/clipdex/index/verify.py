"""Checking an index against its own checksums: what is damaged, and which pictures are affected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import FingerprintMismatch, IndexDamaged, IndexFormatError
from clipdex.base.records import Extent
from clipdex.index.files import fault, open_directory, open_to_read
from clipdex.index.manifest import PLAN, Manifest
from clipdex.index.part_plan import PartPlan, is_parted, missing_parts
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.side.ann_file import ann_damages
from clipdex.index.side.column_file import column_damages
from clipdex.index.side.feature_file import feature_damages
from clipdex.index.side.int8_file import int8_damages
from clipdex.index.side.neighbour_footer import neighbour_damages
from clipdex.index.thumbnails import thumbnail_damages
from clipdex.index.vectors import CUT, read_extent
from clipdex.index.wal import wal_damage
from clipdex.model.picture_rules import DecodeUse

__all__ = ["Damage", "VerifyReport", "check_rows", "verify_index"]


@dataclass(frozen=True)
class Damage:
    """One piece of damage. rows: the rows affected, [first, end)."""

    what: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class VerifyReport:
    """The result of a check: what was read, and the damage found, if any.

    decode: how the index says that its pictures were decoded, "exact" or "fast"; None if it does not say.
    """

    rows: int
    extents: int
    bytes_read: int
    damages: list[Damage]
    decode: DecodeUse | None = None


def verify_index(directory: PathLike, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read everything that is committed and compare it with its checksums.

    Args:
        progress: called with the number of rows read so far and of all rows.

    Raises:
        IndexNotFound: the directory does not exist.
        IndexFault: it cannot be read now, which does not mean damage: a full disk, no locks.
    """
    directory = as_path(directory, "the path of an index")
    if is_parted(directory):
        return _verify_parts(directory, progress)
    while True:  # a compaction in between would mix two indexes
        with _watched(directory) as in_place:
            report = _verify(directory, progress)
            if in_place():
                return report


def _verify_parts(directory: Path, progress: Callable[[int, int], None] | None) -> VerifyReport:
    """Check the plan and each part. Damage is named with its part, and rows are numbered part after part."""
    try:
        plan = PartPlan.read(directory)
    except (IndexDamaged, IndexFormatError) as exc:
        return VerifyReport(0, 0, 0, [Damage(str(exc))])
    damages, rows, extents, read = [], 0, 0, 0
    missing = missing_parts(directory, plan)
    for name in plan.names():
        if name in missing:
            damages.append(Damage(f"{name}: is missing"))
            continue
        part = directory / name
        told = None if progress is None else partial(_told, progress, rows)
        report = verify_index(part, told)
        for each in report.damages:
            where = None if each.rows is None else (each.rows[0] + rows, each.rows[1] + rows)
            damages.append(Damage(f"{name}: {each.what}", where))
        try:
            found = Manifest.read(part)
            found.require_same(plan.manifest, part)
            if (found.dtype, found.embedding_dim) != (plan.dtype, plan.embedding_dim):
                damages.append(Damage(f"{name}: its vectors are not as {PLAN} says"))
        except FingerprintMismatch as exc:
            damages.append(Damage(str(exc)))
        except (IndexDamaged, IndexFormatError):
            pass  # in the report already
        rows, extents, read = rows + report.rows, extents + report.extents, read + report.bytes_read
    return VerifyReport(rows, extents, read, damages, plan.decode)


def _told(progress: Callable[[int, int], None], before: int, done: int, total: int) -> None:
    progress(before + done, before + total)


@contextmanager
def _watched(directory: Path) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the directory at a path is still the same one."""
    try:
        place = open_directory(directory)  # held open, so that its number is not given to another
    except OSError:
        yield lambda: True  # reading it will raise the proper error
        return

    def in_place() -> bool:
        try:
            return os.path.samestat(os.fstat(place), os.stat(directory))
        except OSError:
            return False

    try:
        yield in_place
    finally:
        os.close(place)


def _verify(directory: Path, progress: Callable[[int, int], None] | None) -> VerifyReport:
    damages: list[Damage] = []
    try:
        manifest = Manifest.read(directory)
    except (IndexDamaged, IndexFormatError) as exc:
        return VerifyReport(0, 0, 0, [Damage(str(exc))])
    try:
        if lost := wal_damage(directory / ROWS_FILE):
            damages.append(Damage(lost))
        store = RowStore.open(directory / ROWS_FILE, write=False)
    except (IndexDamaged, IndexFormatError) as exc:
        return VerifyReport(0, 0, 0, [*damages, Damage(str(exc))], manifest.decode)
    try:
        report = check_rows(directory, manifest, store, progress)
        damages += report.damages
        extents = store.extents()  # a side file written meanwhile may cover newer rows
        damages += [Damage(what) for what in int8_damages(directory, manifest, extents)]
        damages += [Damage(what) for what in column_damages(directory, extents, store)]
        damages += [Damage(what) for what in ann_damages(directory, manifest, extents)]
        damages += [Damage(what) for what in thumbnail_damages(directory)]
        damages += [Damage(what) for what in feature_damages(directory)]
        damages += [Damage(what) for what in neighbour_damages(directory, extents)]
    except IndexDamaged as exc:
        return VerifyReport(0, 0, 0, [*damages, Damage(str(exc))], manifest.decode)
    finally:
        store.close()
    return VerifyReport(report.rows, report.extents, report.bytes_read, damages, manifest.decode)


def check_rows(
    directory: Path, manifest: Manifest, store: RowStore, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Compare the rows, and the files that contain them, with their checksums; not the side files.

    Raises:
        IndexDamaged: rows.sqlite cannot be read.
        IndexFault: the system refuses to read something.
    """
    with store.one_moment():
        damages = [Damage(what) for what in store.broken_pages()]
        for broken in store.broken_records():
            damages.append(Damage(broken.what, None if broken.row is None else (broken.row, broken.row + 1)))
        extents, rows = store.extents(), store.committed_rows()
        damages += [Damage(what) for what in _gaps(extents, store.record_count())]
    found, read = _check_vectors(directory / manifest.vectors_file, manifest, extents, progress)
    return VerifyReport(rows, len(extents), read, damages + found)


def _gaps(extents: list[Extent], records: int) -> list[str]:
    """Check that extents follow each other from row 0, and that every committed row has its record."""
    end, found = 0, []
    for extent in extents:
        if extent.first_row != end or extent.row_count < 1:
            found.append(f"the commit record jumps from row {end} to row {extent.first_row}")
        end = extent.first_row + extent.row_count
    if records != end:
        found.append(f"{end:,} rows are committed, but there are {records:,} records of pictures")
    return found


def _check_vectors(
    path: Path, manifest: Manifest, extents: list[Extent], progress: Callable[[int, int], None] | None
) -> tuple[list[Damage], int]:
    """Compare each extent's bytes with its checksum -> (the damage, bytes read)."""
    damages: list[Damage] = []
    total = sum(extent.row_count for extent in extents)
    read = done = 0
    try:
        file = open_to_read(path)
    except IndexDamaged as exc:
        return [Damage(str(exc), (0, total))], 0
    except OSError as exc:
        found = fault(path, exc)
        if not isinstance(found, IndexDamaged):
            raise found from exc
        return [Damage(str(found), (0, total))], 0
    with file:
        for extent in extents:
            span = (extent.first_row, extent.first_row + extent.row_count)
            what = f"{path.name}: rows {span[0]} to {span[1] - 1}"
            try:
                crc32c, length, unsound = read_extent(file.fileno(), extent, manifest)
            except (OSError, ValueError, OverflowError) as exc:
                damages.append(Damage(f"{what} cannot be read: {exc}", span))
                continue
            if length < extent.row_count * manifest.row_bytes:
                damages.append(Damage(f"{what} are incomplete: {CUT}", span))
            elif crc32c != extent.crc32c:
                damages.append(Damage(f"{what} are not what was committed", span))
            else:
                damages += _unsound(path.name, unsound)
            read += length
            done += extent.row_count
            if progress is not None:
                progress(done, total)
    return damages, read


def _unsound(name: str, spans: list[tuple[int, int]]) -> list[Damage]:
    """Report rows that match their checksum but were already wrong when they were committed."""
    found = []
    for first, end in spans:
        which = f"row {first} is" if end == first + 1 else f"rows {first} to {end - 1} are"
        found.append(Damage(f"{name}: {which} not finite or not of norm 1", (first, end)))
    return found
