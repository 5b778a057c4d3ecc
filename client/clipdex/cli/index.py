"""`clipdex index`: bring an index up to date with what holds the pictures."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import interruptible, note, shown_path, typed_delimiter
from clipdex.cli.connection import Connection, connects
from clipdex.cli.failures import failure_line, refuse_second_writer
from clipdex.cli.progress import index_progress
from clipdex.errors import InvalidArgument, SourceError
from clipdex.images import MAX_PIXELS
from clipdex.index import Index
from clipdex.pipeline import MAX_RING_BYTES, Limits, Plan, RunReport, index_pictures, plan_run
from clipdex.sources import PathList, Source, open_sources
from clipdex.sources.locations import URL_BEGINS
from clipdex.sources.opening import names_meant

__all__ = ["index", "run_sentence"]

_FAILURES_SHOWN = 5
_MIB = 1 << 20


class Use(str, Enum):
    """Whether to use something."""

    auto = "auto"
    always = "always"
    never = "never"


class Dtype(str, Enum):
    """The dtypes of an index."""

    float16 = "float16"
    float32 = "float32"


@connects
def index(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="X.clipdex", help="The index, made or updated.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders of pictures, with their subfolders; .tar files; tables: .csv, .tsv, .parquet.",
            show_default=False,
        ),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Instead of SOURCE: a file of paths, one a line or NUL-separated; - for standard input.",
            show_default=False,
        ),
    ] = None,
    tar: Annotated[
        bool, typer.Option("--tar", help="Look for .tar files in the folders, not for pictures.")
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a table: which column has the pictures or their paths, if not path, image and the like.",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR",
            help="Of a CSV: what separates its cells, tab or one character; known by its first line if not given.",
            show_default=False,
        ),
    ] = None,
    *,
    connection: Connection,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try files again that failed before.")] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of a new index; float16 halves the space.")] = Dtype.float16,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; one a core if not given.", show_default=False)
    ] = None,
    max_file_mib: Annotated[int, typer.Option(min=1, help="Larger files are not read.")] = 256,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are not decoded.")] = MAX_PIXELS,
    file_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="A file that takes longer to decode fails.")
    ] = 60.0,
    worker_memory_mib: Annotated[int, typer.Option(min=128, help="What a decoding process may take.")] = 1024,
    shared_memory: Annotated[
        Use, typer.Option(help="Let a server on this machine read pixels where they are, not from the wire.")
    ] = Use.auto,
    ring_mib: Annotated[
        int, typer.Option(min=1, help="Memory for decoded pictures, those in flight included.")
    ] = MAX_RING_BYTES // _MIB,
) -> None:
    """Embed the pictures of folders, tar files or tables into an index.

    Stop it and start it again: it goes on where it was. Later it embeds only what is new or changed, recognises
    files that were moved or copied, and forgets those that are gone. A file that cannot be read is noted in the
    index and does not end the run.
    """
    if not dry_run:
        refuse_second_writer(out)
    source = _source(sources or [], files_from, column, delimiter, tar, out)
    if dry_run:
        print(_plan_sentence(plan_run(source, out, retry_failures=retry), out))
        return
    limits = Limits(max_file_mib * _MIB, max_pixels, file_timeout, worker_memory_mib * _MIB)
    with (
        interruptible(f"what was committed is in {out}; the same command goes on from there"),
        connection.open(shared_memory=shared_memory.value) as client,
        index_progress() as progress,
    ):
        report = index_pictures(
            client,
            source,
            out,
            dtype=dtype.value,
            workers=workers,
            limits=limits,
            retry_failures=retry,
            max_ring_bytes=ring_mib * _MIB,
            progress=progress,
        )
    if report.failed:
        _show_failures(out)
    print(run_sentence(report, out))


def _source(
    paths: list[Path], files_from: str | None, column: str | None, delimiter: str | None, tar: bool, out: Path
) -> Source:
    if bool(paths) == (files_from is not None):
        raise InvalidArgument("give either what holds the pictures (a folder, .tar or table) or --files-from LIST")
    if files_from == "-":
        return PathList.parse(sys.stdin.buffer.read(), "standard input")
    if files_from is not None:
        return PathList.read(Path(files_from))
    paths = [name for path in paths for name in names_meant(path)]
    # A shard that is gone is news for an index that had it, and a slip of the pen for a new one.
    for path in paths:
        if URL_BEGINS.match(str(path)) and not os.path.lexists(path):
            raise SourceError(
                f"{path}: is a URL, and clipdex downloads nothing; download it first, pictures as "
                "img2dataset does, and give its path"
            )
        if not os.path.lexists(path) and not (path.name.endswith(".tar") and os.path.lexists(out)):
            raise SourceError(f"{path}: there is no such file or directory")
    return open_sources(paths, column=column, delimiter=typed_delimiter(delimiter), tar=tar)


def run_sentence(report: RunReport, out: Path) -> str:
    """The run's last line. discovered = indexed + unchanged + failed."""
    speed = f" ({report.images_per_s:.0f} images/s, {report.transfer})" if report.indexed else ""
    same = f" ({report.recognised:,} of them recognised by content)" if report.recognised else ""
    away = f" ({report.unseen:,} of them could not be looked at)" if report.unseen else ""
    gone = f"; {report.removed:,} vanished" if report.removed else ""
    return (
        f"{report.discovered:,} pictures found: {report.indexed:,} indexed{same}, "
        f"{report.unchanged:,} unchanged{away}, "
        f"{report.failed:,} failed{gone}, in {report.seconds:.1f} s{speed}; "
        f"{shown_path(str(out))} holds {report.rows:,}"
    )


def _plan_sentence(plan: Plan, out: Path) -> str:
    again = f", {plan.retried:,} to be tried again" if plan.retried else ""
    gone = f"; {plan.vanished:,} vanished" if plan.vanished else ""
    anew = f", {plan.damaged:,} damaged in the index" if plan.damaged else ""
    return (
        f"{plan.discovered:,} pictures found: {plan.new:,} new, {plan.changed:,} changed{anew}, "
        f"{plan.unchanged:,} unchanged, {plan.failed:,} failed before{again}{gone}; "
        f"nothing was done to {shown_path(str(out))}"
    )


def _show_failures(out: Path) -> None:
    with Index.open(out) as opened:
        ledger = opened.failures()
    for failure in ledger[:_FAILURES_SHOWN]:
        note(f"failed: {failure_line(failure)}")
    if len(ledger) > _FAILURES_SHOWN:
        note(f"... and {len(ledger) - _FAILURES_SHOWN:,} more:  clipdex failures {out}")
