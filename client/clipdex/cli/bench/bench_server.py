"""`clipdex bench server`: measure throughput and latency over concurrency and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.bench.load import Window
from clipdex.apps.bench.machine import gpus_of, this_machine
from clipdex.apps.bench.measure_server import Part, Point, ServerSettings, Transfer, measure_server
from clipdex.apps.bench.plot import check_plot, plot_points
from clipdex.apps.bench.report_file import check_writable, server_report, write_report
from clipdex.cli.bench.bench_output import SaveOption, SecondsOption, numbers, server_lines
from clipdex.cli.common import JsonOption, interruptible
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import note, say_block, say_json
from clipdex.cli.progress import rows_progress
from clipdex.cli.tables import table
from clipdex.client.client import Client
from clipdex.wire import RetryPolicy, SharedMemory

__all__ = ["point_row", "server"]

_HEAD = (
    "part",
    "transfer",
    "batch",
    "in flight",
    "rows/s",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "requests",
    "executed",
    "queue ms",
    "compute ms",
)


class How(str, Enum):
    """Ways to send inputs to the server."""

    wire = "wire"
    shared = "shared"
    both = "both"


@connects
def server(
    *,
    connection: Connection,
    image: Annotated[bool, typer.Option("--image", help="Measure the image part.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Measure the text part.")] = False,
    concurrency: Annotated[str, typer.Option(metavar="N,…", help="Requests to keep in flight.")] = "1,2,4",
    batch: Annotated[
        str | None,
        typer.Option(metavar="N,…", help="Rows per request (default 1, 8 and the maximum).", show_default=False),
    ] = None,
    transfer: Annotated[
        How, typer.Option(help="Send inputs over the wire, in memory shared with a local server, or both ways.")
    ] = How.wire,
    seconds: SecondsOption = 5.0,
    requests: Annotated[int, typer.Option(min=1, help="Minimum number of answers per point.")] = 10,
    warmup: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time under load before each measurement.")
    ] = 1.0,
    save: SaveOption = None,
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Plot throughput against latency: .svg, .png or .pdf.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Measure a server's throughput and latency, together with its own counters.

    Keeps N requests in flight and measures once the load is steady, for each part, way of transfer, batch size
    and N in turn. Measures the image part if neither --image nor --text is given.
    """
    window = Window(seconds, requests, warmup, most_seconds=max(120.0, 4 * seconds))
    if plot is not None:
        check_plot(plot)
    for file in filter(None, (save, plot)):
        check_writable(file)
    points: list[Point] = []
    # A failed request ends the measurement: a retry would distort it unnoticed.
    with connection.open(timeout_s=120.0, retry=RetryPolicy(max_attempts=1)) as client:
        parts = _parts(image, text)
        settings = ServerSettings(
            parts,
            _transfers(client, transfer),
            numbers(batch, "--batch") if batch else _batches(client, parts),
            numbers(concurrency, "--concurrency"),
            window,
        )
        machine, gpus = this_machine(), gpus_of(client.address, client.card.name, connection.credentials)
        try:
            with interruptible("the table has what was measured so far"), rows_progress("points") as progress:
                for point in measure_server(client, settings):
                    points.append(point)
                    if progress is not None:
                        progress(len(points), settings.points)
        finally:
            if points:
                options = {
                    "seconds": seconds,
                    "requests": requests,
                    "warmup_seconds": warmup,
                    "points": settings.points,
                }
                report = server_report(machine, client, gpus, points, options)
                if as_json:
                    say_json(report)
                else:
                    say_block(server_lines(client, gpus, machine))
                    say_block(table(_HEAD, [point_row(point) for point in points]))
                if save is not None:
                    write_report(save, report)
                if plot is not None:
                    plot_points(plot, points, *server_lines(client, gpus, machine).splitlines())
                    note(f"plot: {plot}")


def point_row(point: Point) -> Sequence[str]:
    """Return a row of the table, with - for what the server does not count."""
    latency, served = point.latency, point.served
    return (
        point.part,
        point.transfer,
        str(point.batch),
        str(point.concurrency),
        f"{point.rows_per_s:.1f}",
        *(f"{ms:.1f}" for ms in (latency.p50_ms, latency.p90_ms, latency.p99_ms)),
        str(point.requests),
        *(
            ("-", "-", "-")
            if served is None
            else (f"{served.mean_batch:.1f}", f"{served.queue_ms:.1f}", f"{served.compute_ms:.1f}")
        ),
    )


def _parts(image: bool, text: bool) -> list[Part]:
    """Return the parts to measure: image if none was chosen."""
    parts: list[Part] = ["image"] if image or not text else []
    return [*parts, "text"] if text else parts


def _batches(client: Client, parts: Sequence[Part]) -> list[int]:
    """Return 1, 8 and the largest batch that every measured part accepts."""
    limits = {"image": client.max_batch_size, "text": client.max_texts}
    most = min(limits[part] for part in parts)
    return sorted({1, min(8, most), most})


def _transfers(client: Client, how: How) -> list[Transfer]:
    if how is How.wire:
        return ["wire"]
    if how is How.shared:
        return ["shared"]
    with SharedMemory(4096, named=True) as memory:
        if client.share(memory):
            client.unshare(memory)
            return ["wire", "shared"]
    note(f"{client.address} accepts no shared memory from here; measuring over the wire only")
    return ["wire"]
