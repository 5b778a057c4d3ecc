"""`clipdex optimize`: give an index its int8 side file, for faster searches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.printing import say
from clipdex.cli.progress import rows_progress
from clipdex.index import optimize_index

__all__ = ["optimize"]


def optimize(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
) -> None:
    """Make searches of an index several times as fast, with the same answers.

    Writes int8 codes of the rows beside them. Run it again after adding pictures: it codes only what is new.
    """
    with interruptible("the index is as it was"), rows_progress("coding") as progress:
        done = optimize_index(index, progress)
    say(
        f"{shown_path(str(index))}: {done.rows:,} rows have int8 codes, {done.coded:,} of them made now "
        f"({done.file_bytes / 1e6:,.1f} MB)"
    )
