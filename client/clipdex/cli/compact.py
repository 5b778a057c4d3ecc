"""`clipdex compact`: rewrite an index without its tombstones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, shown_path
from clipdex.cli.printing import say
from clipdex.cli.progress import rows_progress
from clipdex.index import compact_index

__all__ = ["compact"]


def compact(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
    drop_damaged: Annotated[
        bool,
        typer.Option("--drop-damaged", help="Leave damaged rows out as well; the ledger then names their files."),
    ] = False,
) -> None:
    """Rewrite an index without the rows of files that are gone or were replaced.

    The new index takes the old one's place in one step; until then it needs room for both. It refuses where a row
    that it would copy is damaged: index those files again first, or drop them.
    """
    with interruptible("the index is as it was"), rows_progress("copying") as progress:
        dropped = compact_index(index, progress, drop_damaged=drop_damaged)
    kind = "tombstones or damaged rows" if drop_damaged else "tombstones"
    what = f"{dropped:,} {kind} dropped" if dropped else f"no {kind}"
    say(f"{shown_path(str(index))}: {what}")
