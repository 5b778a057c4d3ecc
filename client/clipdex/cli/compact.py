"""`clipdex compact`: rewrite an index without its tombstones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.progress import rows_progress
from clipdex.index import compact_index

__all__ = ["compact"]


def compact(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
) -> None:
    """Rewrite an index without the rows of files that are gone or were replaced.

    The new index takes the old one's place in one step; until then it needs room for both.
    """
    with interruptible("the index is as it was"), rows_progress("copying") as progress:
        dropped = compact_index(index, progress)
    what = f"{dropped:,} tombstones dropped" if dropped else "no tombstones"
    print(f"{shown_path(str(index))}: {what}")
