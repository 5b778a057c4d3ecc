"""`clipdex watch`: keep an index up to date with a folder until Ctrl-C."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.watch import RESCAN_S, STILL_S, SYNC_DEADLINE_S, Synced, Watch
from clipdex.cli.common import interruptible, named_path, shown_path
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.index_options import ENVIRONMENT, required_index
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import note, say, say_json_line
from clipdex.cli.progress import index_progress
from clipdex.cli.run_options import RunOptions, takes_run_options
from clipdex.pipeline.report import RunReport
from clipdex.sources import Source

__all__ = ["watch"]


@connects
@takes_run_options
def watch(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of pictures, including subfolders.", parser=named_path),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--index",
            "-i",
            "--out",
            "-o",
            envvar=ENVIRONMENT,
            metavar="X.clipdex",
            help="Index to create or update.",
            show_default=False,
        ),
    ] = None,
    rescan_s: Annotated[
        float,
        typer.Option(
            "--rescan-s",
            min=0,
            metavar="SECONDS",
            help="Scan the whole folder this often, for changes that the system did not report; 0 for never.",
        ),
    ] = RESCAN_S,
    still_s: Annotated[
        float,
        typer.Option(
            "--still-s", min=0, metavar="SECONDS", help="Read a file once it has not changed for this long."
        ),
    ] = STILL_S,
    polling: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="List the folder this often instead of relying on the system's reports, which do not include "
            "changes by other computers in a network folder.",
            show_default=False,
        ),
    ] = None,
    *,
    options: RunOptions,
    connection: Connection,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each sync.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Keep an index up to date with a folder until Ctrl-C.

    Indexes the folder as clipdex index does, and then each picture that is added, changed, moved or removed, as
    soon as its file is complete; prints a line for each sync. Waits while the folder is gone or empty, the server
    is away, or another process writes to the index. Other processes may write to it between syncs.
    """
    out = required_index(out)

    def sync(source: Source) -> RunReport:
        with index_progress() as progress:
            return options.run(client, source, out, progress=progress, batch_deadline_s=SYNC_DEADLINE_S)

    with (
        interruptible(f"what was committed is in {out}; run the same command again to go on"),
        Watch(
            folder,
            out,
            sync,
            exclusion=options.exclusion,
            tar=options.tar,
            rescan_s=rescan_s,
            still_s=still_s,
            polling_s=polling,
        ) as watching,
        connection.open(shared_memory=options.shared_memory) as client,
    ):
        note_demo_model(client.card.fingerprint)
        for each in watching.events():
            if not isinstance(each, Synced):
                note(f"clipdex: {each.why}")
            elif as_json:
                at = {"index": str(out), "cause": each.cause, "at": time.time()}
                say_json_line(at | asdict(each.report))
            else:
                say(_sentence(each, out), flush=True)


def _sentence(synced: Synced, out: Path) -> str:
    r = synced.report
    same = f" ({r.recognised:,} recognised by content)" if r.recognised else ""
    return (
        f"{time.strftime('%Y-%m-%d %H:%M:%S')} {r.indexed - r.changed:,} added, {r.changed:,} changed{same}, "
        f"{r.removed + r.left_out:,} removed, {r.failed:,} failed, in {r.seconds:.1f} s; "
        f"{shown_path(str(out))} holds {r.rows:,}"
    )
