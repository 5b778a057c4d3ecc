"""`clipdex bench index`: measure where an indexing run spends its time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer

from clipdex.apps.bench.machine import gpus_of, this_machine
from clipdex.apps.bench.measure_index import SIZE, FirstOf, IndexRun, RequestLog, draw_photos, measure_index
from clipdex.apps.bench.report_file import check_writable, index_report, write_report
from clipdex.base.counting import counted
from clipdex.cli.bench.bench_output import SaveOption, server_lines
from clipdex.cli.common import Decode, JsonOption, interruptible
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index import Use
from clipdex.cli.printing import note, say, say_block, say_json
from clipdex.cli.progress import index_progress
from clipdex.cli.tables import table
from clipdex.model.picture_rules import check_decode
from clipdex.sources import Source, open_source
from clipdex.wire.address import may_share_memory

__all__ = ["index", "limit_line"]

_DRAWN = 2000
_LIMITING = 0.5  # a stage that is idle for longer than it works limits nothing

_WHAT = {
    "scan": "listing files, looking them up",
    "decode": "reading and decoding, all workers together",
    "resize": "resizing and cropping, all workers together",
    "wait_decode": "joining thread: waiting for pixels",
    "wait_embed": "joining thread: waiting for vectors",
    "wire": "requests under way, neither queued nor computed",
    "queue": "requests in the server's queue",
    "compute": "requests in the model",
    "place": "joining thread: deciding what to do with each file",
    "submit": "joining thread: handing over requests",
    "append": "joining thread: appending rows to the index",
    "commit": "joining thread: committing rows",
}


class BoundKind(str, Enum):
    """Ways to combine decoding and encoding into the bound."""

    auto = "auto"
    sum = "sum"
    slower = "slower"


@connects
def index(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE", help="Folder, .tar or table of pictures (default drawn ones).", show_default=False
        ),
    ] = None,
    *,
    connection: Connection,
    pictures: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Number of pictures: the source's first (default all), or drawn ones (default {_DRAWN:,}).",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes (default one per core).", show_default=False)
    ] = None,
    decode: Annotated[
        Decode, typer.Option(help="Decode large JPEGs exactly, or faster at a reduced size (clipdex index).")
    ] = Decode.exact,
    shared_memory: Annotated[
        Use, typer.Option(help="Pass pixels to a server on this machine in shared memory, not over the wire.")
    ] = Use.auto,
    bound: Annotated[
        BoundKind,
        typer.Option(
            help="sum: decoding and encoding share this machine's cores; slower: they do not (another machine, a "
            "GPU); auto: sum for a server on this machine without GPUs."
        ),
    ] = BoundKind.auto,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Time to measure encoding alone.")] = 5.0,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an indexing run: each stage's busy time, the limiting stage, the share of the bound.

    Indexes the pictures into a temporary index, which is thrown away. Decoding alone and encoding alone are
    measured in the same call; the bound follows from them.
    """
    if save is not None:
        check_writable(save)
    log = RequestLog()
    with (
        interruptible("no measurement was completed"),
        _pictures(source, pictures) as found,
        connection.open(shared_memory=shared_memory.value, on_request=log) as client,
        index_progress() as progress,
    ):
        machine, gpus = this_machine(), gpus_of(client.address, client.card.name, connection.credentials)
        kind = _kind(bound, client.address, gpus)
        run = measure_index(
            client,
            found,
            kind=kind,
            workers=workers,
            encode_seconds=seconds,
            requests=log,
            decode=check_decode(decode.value),
            progress=progress,
        )
        settings = {
            "source": None if source is None else str(source),
            "pictures": pictures,
            "workers": workers,
            "decode": decode.value,
            "shared_memory": shared_memory.value,
            "bound": bound.value,
            "seconds": seconds,
        }
        report = index_report(machine, client, gpus, run, settings)
        if as_json:
            say_json(report)
        else:
            say_block(server_lines(client, gpus, machine))
            _show(run)
        if save is not None:
            write_report(save, report)


@contextmanager
def _pictures(source: Path | None, count: int | None) -> Iterator[Source]:
    """Yield the source, its first pictures, or a folder of drawn ones."""
    if source is not None:
        opened = open_source(source)
        yield opened if count is None else FirstOf(opened, count)
        return
    with tempfile.TemporaryDirectory(prefix="clipdex-bench-") as directory:
        note(f"drawing {counted(count or _DRAWN, 'picture')} of {SIZE[0]} × {SIZE[1]}")
        draw_photos(Path(directory), count or _DRAWN)
        yield open_source(Path(directory))


def _kind(bound: BoundKind, address: str, gpus: int | None) -> Literal["sum", "slower"]:
    if bound is BoundKind.auto:
        return "sum" if may_share_memory(address) and not gpus else "slower"
    return "sum" if bound is BoundKind.sum else "slower"


def _show(run: IndexRun) -> None:
    failed = f", {run.failed:,} failed" if run.failed else ""
    executed = f"; {run.mean_batch:.1f} rows in an executed batch" if run.mean_batch else ""
    say(
        f"{counted(run.pictures, 'picture')} in {run.seconds:.1f} s: {run.images_per_s:.1f} images/s, "
        f"{run.transfer}, {counted(run.workers, 'worker')}{failed}{executed}"
    )
    say()
    rows = [
        (stage, f"{seconds:.2f}", f"{seconds / run.seconds:.1%}", _WHAT.get(stage, ""))
        for stage, seconds in sorted(run.stage_seconds.items(), key=_order)
    ]
    say_block(table(("stage", "busy s", "of the run", ""), rows))
    b = run.bound
    how = "added up" if b.kind == "sum" else "the slower of the two"
    say()
    say(limit_line(run.limited_by, run.limited_share))
    say(
        f"bound: {b.images_per_s:.1f} images/s, from {b.decode_core_s * 1e3:.2f} ms of a core to decode "
        f"on {counted(b.cores, 'core')}, and {b.encode_s * 1e3:.2f} ms to encode, {how}"
    )
    say(f"share of the bound: {run.share_of_bound:.3f}")


def limit_line(stage: str, share: float) -> str:
    """Return what limited a run, if anything did, as a line."""
    if share < _LIMITING:
        return f"limited by no stage alone: the busiest, {stage}, worked for {share:.0%} of the run"
    return f"limited by {stage}: busy for {share:.0%} of the run"


def _order(item: tuple[str, float]) -> int:
    names = list(_WHAT)
    return names.index(item[0]) if item[0] in names else len(names)
