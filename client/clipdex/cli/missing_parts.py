"""The option --allow-missing, and the note that says what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from clipdex.base.counting import counted
from clipdex.cli.printing import note
from clipdex.index import Index

__all__ = ["AllowMissingOption", "note_missing"]

_NAMED = 5

AllowMissingOption = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="For an index of parts: use the parts that are there, and name the missing ones."
    ),
]


def note_missing(index: Index) -> None:
    """Say which parts of an index are not there."""
    if index.missing:
        names = ", ".join(index.missing[:_NAMED]) + (" ..." if len(index.missing) > _NAMED else "")
        missing = counted(len(index.missing), "part is", "parts are")
        note(f"clipdex: {missing} missing, and not in the answer: {names}")
