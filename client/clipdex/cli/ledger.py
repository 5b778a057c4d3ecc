"""`clipdex failures` and `forget`: list or retry failed files, and remove pictures from an index."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.counting import counted
from clipdex.base.item_paths import BEGINS, path_text
from clipdex.cli.common import JsonOption, interruptible, shown_path, typed_delimiter
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index_options import IndexAndPaths, takes_index, takes_index_and_paths
from clipdex.cli.printing import complain, note, printable, say, say_json
from clipdex.cli.progress import index_progress
from clipdex.index import Failure, Index, IndexWriter
from clipdex.index.manifest import MANIFEST
from clipdex.pipeline.departures import (
    Forgotten,
    forget_pictures,
)
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.sources import ledger_source

__all__ = ["failure_line", "failures", "forget", "refuse_second_writer"]


@takes_index
@connects
def failures(
    index: Path,
    retry: Annotated[bool, typer.Option("--retry", help="Retry them all; needs the server.")] = False,
    as_json: JsonOption = False,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --retry: column of a table that could not be read, as for clipdex index.",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(metavar="CHAR", help="With --retry: delimiter of such a CSV.", show_default=False),
    ] = None,
    *,
    connection: Connection,
) -> None:
    """List the files that could not be indexed, and why.

    Each line is a path, a reason (docs/failures.md explains them), whether a retry may help, and details.
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
            on_unopened=lambda why: complain(f"not retried: {why}"),
        )
        with (
            interruptible("run the same command again to resume"),
            connection.open(model=name) as client,
            index_progress() as progress,
        ):
            report = index_pictures(client, source, index, retry_failures=True, progress=progress)
        with Index.open(index) as opened:
            ledger = opened.failures()
        if not as_json:
            say(f"{report.discovered:,} retried: {report.indexed:,} indexed, {report.failed:,} failed")
    if as_json:
        say_json([_as_dict(failure) for failure in ledger])
        return
    for failure in ledger:
        say(failure_line(failure))
    if not ledger and not retry:
        say(f"no failures in {shown_path(str(index))}")


def refuse_second_writer(index: Path) -> None:
    """Raise IndexLocked if another process is writing, before the server and the source are asked."""
    if (index / MANIFEST).is_file():
        IndexWriter(index).close()


def failure_line(failure: Failure) -> str:
    """Return a failure as a line: `PATH: reason (a retry may help): details`."""
    hope = " (a retry may help)" if failure.may_pass else ""
    return f"{shown_path(path_text(failure.path))}: {failure.reason}{hope}: {printable(failure.detail)}"


def _as_dict(failure: Failure) -> dict[str, object]:
    return {
        "path": path_text(failure.path),
        "reason": failure.reason,
        "detail": failure.detail,
        "retry_may_help": failure.may_pass,
        "size": failure.size,
        "mtime_ns": failure.mtime_ns,
    }


_SHOWN = 10


@takes_index_and_paths
def forget(
    named: IndexAndPaths,
    missing: Annotated[
        bool,
        typer.Option(
            "--missing", help="Forget only pictures whose file is gone; without PATH, in the whole index."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="With --missing: even if a whole folder is gone, which may be a disk that is not mounted.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be forgotten, and do nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove pictures and failures from an index. No file is touched.

    A picture that is still in an indexed folder comes back with the next run over it. clipdex compact frees
    the space.
    """
    index, paths = named.index, named.paths
    with interruptible("the index is as it was"):
        found = forget_pictures(index, paths, missing=missing, whole_folders=yes, dry_run=dry_run)
    if as_json:
        say_json({"index": str(index), "dry_run": dry_run} | asdict(found))
        return
    folders = sorted(found.folders.items(), key=lambda one: (-one[1], one[0]))
    for folder, rows in folders[:_SHOWN]:
        note(f"{rows:,} {'added by id' if folder == BEGINS else f'in {shown_path(folder)}'}")
    if len(folders) > _SHOWN:
        note(f"... and in {counted(len(folders) - _SHOWN, 'more folder')}")
    say(_sentence(found, index, dry_run))


def _sentence(found: Forgotten, index: Path, dry_run: bool) -> str:
    pictures, failures = counted(found.rows, "picture"), counted(found.failures, "failure")
    if dry_run:
        return f"{pictures} and {failures} would be forgotten; nothing was done to {shown_path(str(index))}"
    return f"{pictures} and {failures} forgotten; {shown_path(str(index))} no longer holds them"
