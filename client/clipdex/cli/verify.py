"""`clipdex verify`: compare an index with its checksums."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.errors import IndexFault, IndexNotFound
from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.printing import note, printable, say
from clipdex.cli.progress import rows_progress
from clipdex.index import Damage, Index, verify_index

__all__ = ["verify"]

_PATHS_SHOWN = 10
_UNKNOWN = 3  # the exit status where nothing can be said of the index


def verify(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
) -> None:
    """Read a whole index and say what in it is damaged.

    Exit status 0 if all is as it was written; 1 if not, or if there is no index; 3 if that cannot be found out:
    the system refuses to read it, as on a full disk. What is sound can still be searched. `clipdex index`, over
    the same files, embeds again what is damaged; `clipdex compact` then leaves the damage behind.
    """
    try:
        with interruptible("nothing was changed"), rows_progress("checking") as progress:
            report = verify_index(index, progress)
    except IndexNotFound:
        raise
    except IndexFault as exc:
        note(f"clipdex: {exc}")
        raise typer.Exit(_UNKNOWN) from exc
    for damage in report.damages:
        note(f"damaged: {damage.what}")
        _show_pictures(index, damage)
    where = shown_path(str(index))
    read = f"{report.rows:,} rows in {report.extents:,} commits, {report.bytes_read / 1e6:,.1f} MB of vectors"
    if report.damages:
        if any(damage.rows is not None for damage in report.damages):
            note("clipdex index  over the same files embeds those again;  clipdex compact  then drops the damage")
        say(f"{where}: {len(report.damages):,} damaged ({read})")
        raise typer.Exit(1)
    say(f"{where}: sound ({read})")


def _show_pictures(index: Path, damage: Damage) -> None:
    """Which files to index again."""
    if damage.rows is None:
        return
    first, end = damage.rows
    try:
        with Index.open(index) as opened:
            for row in range(first, min(end, first + _PATHS_SHOWN)):
                note(f"  row {row}: {printable(os.fsdecode(opened.picture(row).path))}")
    except IndexFault:
        return  # too damaged to name them
    if end - first > _PATHS_SHOWN:
        note(f"  ... to row {end - 1}")
