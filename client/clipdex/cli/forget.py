"""`clipdex forget`: take pictures out of an index, whose files were moved, deleted or are not wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.printing import note, say
from clipdex.pipeline.departures import (
    Forgotten,
    forget_pictures,
)

__all__ = ["forget"]

_SHOWN = 10


def forget(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH", help="Files and folders, there or not: all at or below them.", show_default=False
        ),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only those whose file is gone; without PATH, of the whole index.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="With --missing, also where a whole folder is gone, as if a disk were away."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be forgotten, and do nothing.")
    ] = False,
) -> None:
    """Take pictures, and failures, out of an index. No file is touched.

    What still lies in a folder that is indexed comes back with the next run over it. clipdex compact frees
    the space.
    """
    with interruptible("the index is as it was"):
        found = forget_pictures(index, paths or (), missing=missing, whole_folders=yes, dry_run=dry_run)
    folders = sorted(found.folders.items(), key=lambda one: (-one[1], one[0]))
    for folder, rows in folders[:_SHOWN]:
        note(f"{rows:,} in {shown_path(folder)}")
    if len(folders) > _SHOWN:
        note(f"... and in {len(folders) - _SHOWN:,} more folders")
    say(_sentence(found, index, dry_run))


def _sentence(found: Forgotten, index: Path, dry_run: bool) -> str:
    pictures = "1 picture" if found.rows == 1 else f"{found.rows:,} pictures"
    failures = "1 failure" if found.failures == 1 else f"{found.failures:,} failures"
    if dry_run:
        return f"{pictures} and {failures} would be forgotten; nothing was done to {shown_path(str(index))}"
    return f"{pictures} and {failures} forgotten; {shown_path(str(index))} has no row of them any more"
