"""`clipdex failures` and `forget`: what an index keeps of files that failed, and of files that are gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.counting import counted
from clipdex.cli.common import JsonOption, interruptible, shown_path, typed_delimiter
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.printing import note, printable, say, say_json
from clipdex.cli.progress import index_progress
from clipdex.index import Failure, Index, IndexWriter
from clipdex.index.manifest import MANIFEST
from clipdex.pipeline.departures import (
    Forgotten,
    forget_pictures,
)
from clipdex.pipeline.run import index_pictures
from clipdex.sources import ledger_source

__all__ = ["failure_line", "failures", "forget", "refuse_second_writer"]


@connects
def failures(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
    retry: Annotated[bool, typer.Option("--retry", help="Try them all again; needs the server.")] = False,
    as_json: JsonOption = False,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --retry, of a table that could not be read: its column, as for clipdex index.",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(metavar="CHAR", help="Likewise, what separates the cells of a CSV.", show_default=False),
    ] = None,
    *,
    connection: Connection,
) -> None:
    """List the files that could not be indexed, and why.

    Each line is a path, a reason (docs/failures.md explains them), whether another try may help, and details.
    """
    with Index.open(index) as opened:
        ledger, name = opened.failures(), opened.manifest.model
    if retry and ledger:
        refuse_second_writer(index)
        source = ledger_source(
            ledger,
            f"the ledger of {index}",
            column=column,
            delimiter=typed_delimiter(delimiter),
            on_unopened=lambda why: note(f"not tried: {why}"),
        )
        with (
            interruptible("the same command goes on from there"),
            connection.open(model=name) as client,
            index_progress() as progress,
        ):
            report = index_pictures(client, source, index, retry_failures=True, progress=progress)
        with Index.open(index) as opened:
            ledger = opened.failures()
        if not as_json:
            say(f"{report.discovered:,} tried again: {report.indexed:,} indexed, {report.failed:,} failed")
    if as_json:
        say_json([_as_dict(failure) for failure in ledger])
        return
    for failure in ledger:
        say(failure_line(failure))
    if not ledger and not retry:
        say(f"no failures in {shown_path(str(index))}")


def refuse_second_writer(index: Path) -> None:
    """Before the server is asked and the source listed, which takes long, or fails first. Raises IndexLocked."""
    if (index / MANIFEST).is_file():
        IndexWriter(index).close()


def failure_line(failure: Failure) -> str:
    """PATH: reason (another try may help): details."""
    hope = " (another try may help)" if failure.may_pass else ""
    return f"{shown_path(os.fsdecode(failure.path))}: {failure.reason}{hope}: {printable(failure.detail)}"


def _as_dict(failure: Failure) -> dict[str, object]:
    return {
        "path": os.fsdecode(failure.path),
        "reason": failure.reason,
        "detail": failure.detail,
        "retry_may_help": failure.may_pass,
        "size": failure.size,
        "mtime_ns": failure.mtime_ns,
    }


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
        note(f"... and in {counted(len(folders) - _SHOWN, 'more folder')}")
    say(_sentence(found, index, dry_run))


def _sentence(found: Forgotten, index: Path, dry_run: bool) -> str:
    pictures, failures = counted(found.rows, "picture"), counted(found.failures, "failure")
    if dry_run:
        return f"{pictures} and {failures} would be forgotten; nothing was done to {shown_path(str(index))}"
    return f"{pictures} and {failures} forgotten; {shown_path(str(index))} has no row of them any more"
