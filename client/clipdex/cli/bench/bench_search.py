"""`clipdex bench search`: measure queries per second, against a bare read of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.bench.machine import this_machine
from clipdex.apps.bench.measure_search import SearchPoint, drawn_index, measure_search, scanned
from clipdex.apps.bench.report_file import check_writable, search_report, write_report
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.bench.bench_output import SaveOption, SecondsOption, machine_line, numbers
from clipdex.cli.common import JsonOption, interruptible, is_typed, shown_path
from clipdex.cli.index_options import may_take_index
from clipdex.cli.printing import note, say, say_block, say_json
from clipdex.cli.tables import table
from clipdex.index import Index

__all__ = ["search"]

_HEAD = ("queries", "queries/s", "p50 ms", "p90 ms", "p99 ms", "calls", "bare read ms", "p50 / read")


@may_take_index
def search(
    ctx: typer.Context,
    index: Path | None = None,
    *,
    rows: Annotated[int, typer.Option(min=1, help="Number of drawn vectors, if there is no index.")] = 100_000,
    dim: Annotated[int, typer.Option(min=1, help="Dimension of drawn vectors.")] = 512,
    int8: Annotated[
        bool, typer.Option("--int8", help="Give drawn vectors int8 codes (clipdex optimize).")
    ] = False,
    queries: Annotated[str, typer.Option(metavar="N,…", help="Queries per call.")] = "1,64",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Results per query.")] = 10,
    seconds: SecondsOption = 3.0,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure exact search: queries per second and latency, against a bare read of what it scans.

    The queries are random vectors; no server is needed. Without an index, vectors are drawn into a temporary one
    on disk.
    """
    counts = numbers(queries, "--queries")
    drawn = [f"--{name}" for name in ("rows", "dim", "int8") if is_typed(ctx, name)]
    if drawn and (is_typed(ctx, "index") or is_typed(ctx, "place")):
        raise InvalidArgument(f"{' and '.join(drawn)} describe drawn vectors, but an index is given")
    if drawn:
        index = None  # which only the environment names
    if save is not None:
        check_writable(save)
    points: list[SearchPoint] = []
    machine = this_machine()
    with interruptible("no measurement was completed"), _index(index, rows, dim, int8) as opened:
        for point in measure_search(opened, counts, top_k=top_k, seconds=seconds):
            points.append(point)
        manifest, held = opened.manifest, len(opened)
        what = {
            "rows": held,
            "embedding_dim": manifest.embedding_dim,
            "dtype": manifest.dtype,
            "int8": len(scanned(opened)) > 1,
        }
    settings = {"index": None if index is None else str(index), "top_k": top_k, "seconds": seconds}
    report = search_report(machine, what, points, settings)
    if save is not None:
        write_report(save, report)
    if as_json:
        say_json(report)
        return
    name = "drawn vectors" if index is None else shown_path(str(index))
    kind = f"{what['dtype']}{' with int8 codes' if what['int8'] else ''}"
    say(f"{name}: {counted(held, 'row')} × {what['embedding_dim']}, {kind}; best {points[0].top_k} each")
    say(machine_line(machine))
    say()
    say_block(table(_HEAD, [_row(point) for point in points]))
    bare = points[0]
    say()
    say(
        f"bare read: {bare.bytes_read / 1e6:,.1f} MB at {bare.read_bytes_per_s / 1e9:.1f} GB/s "
        f"on {counted(machine.cores, 'core')}"
    )


@contextmanager
def _index(path: Path | None, rows: int, dim: int, int8: bool) -> Iterator[Index]:
    if path is not None:
        with Index.open(path) as opened:
            yield opened
        return
    note(f"drawing {counted(rows, 'vector')} of {counted(dim, 'dimension')}")
    with drawn_index(rows, dim, int8=int8) as opened:
        yield opened


def _row(point: SearchPoint) -> tuple[str, ...]:
    latency = point.latency
    return (
        str(point.queries),
        f"{point.queries_per_s:,.1f}",
        *(f"{ms:.2f}" for ms in (latency.p50_ms, latency.p90_ms, latency.p99_ms)),
        str(point.calls),
        f"{point.read_ms:.2f}",
        f"{point.times_read:.1f}",
    )
