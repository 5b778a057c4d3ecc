"""`clipdex verify`, `compact`, `optimize` and `info`: check, maintain and describe an index."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import IndexFault, IndexNotFound
from clipdex.base.item_paths import path_text
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.index_options import takes_index
from clipdex.cli.missing_parts import AllowMissingOption, note_missing
from clipdex.cli.printing import complain, note, printable, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.index import (
    Damage,
    Index,
    IndexInfo,
    PartedIndex,
    VerifyReport,
    compact_index,
    optimize_index,
    verify_index,
)

__all__ = ["compact", "info", "optimize", "verify"]

_PATHS_SHOWN = 10
_UNKNOWN = 3  # exit status if the index cannot be checked


@takes_index
def verify(index: Path, as_json: JsonOption = False) -> None:
    """Check a whole index for damage.

    Exit status 0 if everything is as it was written; 1 if not, or if there is no index; 3 if it cannot be checked
    because the system refuses to read it, as on a full disk. Sound rows can still be searched. `clipdex index`
    over the same files embeds damaged rows again; `clipdex compact` then drops the damage.
    """
    try:
        with interruptible("nothing was changed"), rows_progress("checking") as progress:
            report = verify_index(index, progress)
    except IndexNotFound:
        raise
    except IndexFault as exc:
        complain(f"clipdex: {exc}")
        raise typer.Exit(_UNKNOWN) from exc
    if as_json:
        say_json(_verified(index, report))
        if report.damages:
            raise typer.Exit(1)
        return
    for damage in report.damages:
        complain(f"damaged: {damage.what}")
        _show_pictures(index, damage)
    where = shown_path(str(index))
    read = f"{counted(report.rows, 'row')} in {counted(report.extents, 'commit')}"
    read += f", {report.bytes_read / 1e6:,.1f} MB of vectors"
    if report.decode == "fast":
        read += ", of pictures decoded fast"
    if report.damages:
        if any(damage.rows is not None for damage in report.damages) and _opens(index):
            note("clipdex index  over the same files embeds those again;  clipdex compact  then drops the damage")
        say(f"{where}: {len(report.damages):,} damaged ({read})")
        raise typer.Exit(1)
    say(f"{where}: sound ({read})")


def _opens(index: Path) -> bool:
    """Whether an index can still be opened; if not, no command can mend it."""
    try:
        Index.open(index).close()
    except IndexFault:
        return False
    return True


def _show_pictures(index: Path, damage: Damage) -> None:
    """List the files to index again."""
    if damage.rows is None:
        return
    first, end = damage.rows
    try:
        with Index.open(index) as opened:
            for row in range(first, min(end, first + _PATHS_SHOWN)):
                complain(f"  row {row}: {printable(path_text(opened.picture(row).path))}")
    except IndexFault:
        return  # too damaged to name them
    if end - first > _PATHS_SHOWN:
        complain(f"  ... to row {end - 1}")


def _verified(index: Path, report: VerifyReport) -> dict[str, object]:
    return {
        "index": str(index),
        "sound": not report.damages,
        "rows": report.rows,
        "commits": report.extents,
        "bytes_read": report.bytes_read,
        "decode": report.decode,
        "damages": [
            {
                "what": damage.what,
                "first_row": (damage.rows or (None,))[0],
                "end_row": (damage.rows or (None,))[-1],
            }
            for damage in report.damages
        ],
    }


@takes_index
def compact(
    index: Path,
    drop_damaged: Annotated[
        bool,
        typer.Option("--drop-damaged", help="Also drop damaged rows; the ledger then lists their files."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Rewrite an index without the rows of files that are gone or were replaced.

    The new index replaces the old one in one step; until then, both need room on the disk. Refuses to copy a
    damaged row: index those files again first, or drop them.
    """
    with interruptible("the index is as it was"), rows_progress("copying") as progress:
        dropped = compact_index(index, progress, drop_damaged=drop_damaged)
    if as_json:
        say_json({"index": str(index), "dropped": dropped})
        return
    one, many = ("tombstone or damaged row", "tombstones or damaged rows") if drop_damaged else ("tombstone", "")
    what = f"{counted(dropped, one, many)} dropped" if dropped else f"no {many or 'tombstones'}"
    say(f"{shown_path(str(index))}: {what}")


@takes_index
def optimize(index: Path, as_json: JsonOption = False) -> None:
    """Make searching an index several times faster, with the same results.

    Writes two files beside the vectors: int8 codes of them, and columns of the values that filters read. Run it
    again after adding pictures: only the new rows are coded.
    """
    with interruptible("the index is as it was"), rows_progress("coding") as progress:
        done = optimize_index(index, progress)
    if as_json:
        say_json(
            {
                "index": str(index),
                "rows": done.rows,
                "coded": done.coded,
                "bytes": done.file_bytes,
                "column_bytes": done.column_bytes,
            }
        )
        return
    say(
        f"{shown_path(str(index))}: {counted(done.rows, 'row has', 'rows have')} int8 codes, "
        f"{done.coded:,} of them made now ({done.file_bytes / 1e6:,.1f} MB); "
        f"columns for filters ({done.column_bytes / 1e6:,.1f} MB)"
    )


@takes_index
def info(index: Path, allow_missing: AllowMissingOption = False, as_json: JsonOption = False) -> None:
    """Show what an index holds: rows, tombstones, failures, size, model, age."""
    with Index.open(index, allow_missing=allow_missing) as opened:
        manifest, found, missing = opened.manifest, opened.info(), opened.missing
        parts = _parts(opened) if isinstance(opened, PartedIndex) else None
        note_missing(opened)
    if as_json:
        of_parts = {} if parts is None else {"parts": parts, "missing": missing}
        say_json({"index": str(index)} | asdict(manifest) | asdict(found) | of_parts)
        return
    failures = ", ".join(f"{count:,} {reason}" for reason, count in found.failures.items())
    lines = [
        ("index", shown_path(str(index))),
        ("rows", f"{found.rows:,}"),
        ("tombstones", f"{found.tombstones:,}" + (";  clipdex compact  drops them" if found.tombstones else "")),
        ("with exif", f"{found.with_exif:,}"),
        ("with features", _features(found)),
        ("failures", f"{sum(found.failures.values()):,}" + (f": {failures}" if failures else "")),
        ("model", f"{printable(manifest.model)}, fingerprint {manifest.fingerprint[:12]}"),
        ("vectors", f"{manifest.embedding_dim} × {manifest.dtype}"),
        ("on disk", f"{found.bytes_on_disk / 1e6:,.1f} MB"),
        ("first commit", _when(found.first_commit)),
        ("last commit", _when(found.last_commit)),
    ]
    if manifest.decode != "exact":
        lines.insert(7, ("decoded", "fast: large JPEGs at a reduced size"))
    if manifest.icc != "off":
        lines.insert(7, ("colours", "converted by profile to sRGB"))
    if manifest.below_floor:
        lines.insert(6, ("", f"below the floor of its export: {printable(manifest.below_floor)}"))
    if parts is not None:
        there = f", {len(missing):,} of them missing" if missing else ""
        lines.insert(1, ("parts", f"{len(parts) + len(missing):,}{there}"))
        lines += [
            (each["name"], f"{counted(each['rows'], 'row')}, {each['bytes_on_disk'] / 1e6:,.1f} MB")
            for each in parts
        ]
    for name, value in lines:
        say(f"{name:<14} {value}")


def _parts(opened: PartedIndex) -> list[dict[str, Any]]:
    return [{"name": part.directory.name} | asdict(part.info()) for _, part in opened.pieces()]


def _features(found: IndexInfo) -> str:
    size = f", {found.feature_bytes / 1e6:,.1f} MB" if found.with_features else ""
    near = f"; neighbours, {found.neighbour_bytes / 1e6:,.1f} MB" if found.neighbour_bytes else ""
    return f"{found.with_features:,}{size}{near}"


def _when(seconds: int | None) -> str:
    return "none yet" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
