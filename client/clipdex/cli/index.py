"""`clipdex index`: bring an index up to date with a folder."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import SERVER_DEFAULT, ModelOption, ServerOption, interruptible, note, shown_path
from clipdex.cli.progress import index_progress
from clipdex.client import connect
from clipdex.index import Index
from clipdex.pipeline import RunReport, index_pictures

__all__ = ["index", "run_sentence"]

_FAILURES_SHOWN = 5


class Dtype(str, Enum):
    """The dtypes of an index."""

    float16 = "float16"
    float32 = "float32"


def index(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of pictures, with its subfolders.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="X.clipdex", help="The index, made or updated.")],
    server: ServerOption = SERVER_DEFAULT,
    model: ModelOption = None,
    dtype: Annotated[Dtype, typer.Option(help="Of a new index; float16 halves the space.")] = Dtype.float16,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; one a core if not given.", show_default=False)
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try files again that failed before.")] = False,
) -> None:
    """Embed the pictures of a folder into an index.

    Stop it and start it again: it goes on where it was, and later it embeds only what is new or changed.
    A file that cannot be read is noted in the index and does not end the run.
    """
    with (
        interruptible(f"what was committed is in {out}; the same command goes on from there"),
        connect(server, model=model) as client,
        index_progress() as progress,
    ):
        report = index_pictures(
            client,
            directory,
            out,
            dtype=dtype.value,
            workers=workers,
            retry_failures=retry,
            progress=progress,
        )
    _show_failures(out, directory, report.failed)
    print(run_sentence(report, out))


def run_sentence(report: RunReport, out: Path) -> str:
    """The run's last line. discovered = indexed + unchanged + failed."""
    speed = f" ({report.images_per_s:.0f} images/s)" if report.indexed else ""
    same = f" ({report.recognised:,} of them recognised by content)" if report.recognised else ""
    gone = f"; {report.removed:,} vanished" if report.removed else ""
    return (
        f"{report.discovered:,} pictures found: {report.indexed:,} indexed{same}, {report.unchanged:,} unchanged, "
        f"{report.failed:,} failed{gone}, in {report.seconds:.1f} s{speed}; "
        f"{shown_path(str(out))} holds {report.rows:,}"
    )


def _show_failures(out: Path, directory: Path, failed: int) -> None:
    if not failed:
        return
    root = os.path.join(os.path.abspath(os.fsencode(directory)), b"")
    with Index.open(out) as opened:
        ledger = [failure for failure in opened.failures() if failure.path.startswith(root)]
    for failure in ledger[:_FAILURES_SHOWN]:
        note(f"failed: {shown_path(os.fsdecode(failure.path))}: {failure.reason}: {failure.detail}")
    if len(ledger) > _FAILURES_SHOWN:
        note(f"... and {len(ledger) - _FAILURES_SHOWN:,} more, in the table `failures` of {out}/rows.sqlite")
