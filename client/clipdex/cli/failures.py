"""`clipdex failures`: the files that could not be indexed, and another try at them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, shown_path, typed_delimiter
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.printing import note, printable, say, say_json
from clipdex.cli.progress import index_progress
from clipdex.index import Failure, Index, IndexWriter
from clipdex.index.manifest import MANIFEST
from clipdex.pipeline.run import index_pictures
from clipdex.sources import ledger_source

__all__ = ["failure_line", "failures", "refuse_second_writer"]


@connects
def failures(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
    retry: Annotated[bool, typer.Option("--retry", help="Try them all again; needs the server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
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
