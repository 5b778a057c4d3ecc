"""Plot of throughput against latency. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdex.apps.bench.measure_server import Point
from clipdex.base.errors import ClipdexError, InvalidArgument
from clipdex.base.extras import needs

__all__ = ["SUFFIXES", "check_plot", "plot_points"]

SUFFIXES = (".svg", ".png", ".pdf")

_PARTS = {"image": ("pictures", "o"), "text": ("texts", "s")}
_LINES = {"wire": "-", "shared": "--"}


def check_plot(file: Path) -> None:
    """Check, before an hour of measuring, that a plot can be drawn to this file.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidArgument: the name has another suffix.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{file}: the name of a plot must end in one of {', '.join(SUFFIXES)}")
    _figure_class()


def plot_points(file: Path, points: Sequence[Point], title: str) -> None:
    """Plot a line for each part, way of transfer and batch size, with its concurrencies marked.

    Raises:
        MissingExtra, InvalidArgument: as `check_plot`.
        ClipdexError: the file cannot be written.
    """
    check_plot(file)
    parts = list(dict.fromkeys(point.part for point in points))
    figure = _figure_class()(figsize=(8, 1 + 4 * len(parts)), layout="constrained")
    figure.suptitle(title)
    for axes, part in zip(figure.subplots(len(parts), squeeze=False)[:, 0], parts, strict=True):
        _draw(axes, [point for point in points if point.part == part])
    try:
        figure.savefig(file)
    except OSError as exc:
        raise ClipdexError(f"{file}: cannot be written: {exc.strerror}") from exc


def _draw(axes: Any, points: Sequence[Point]) -> None:
    what, marker = _PARTS[points[0].part]
    batches = sorted({point.batch for point in points})
    for transfer, batch in dict.fromkeys((point.transfer, point.batch) for point in points):
        line = [point for point in points if (point.transfer, point.batch) == (transfer, batch)]
        line.sort(key=lambda point: point.concurrency)
        axes.plot(
            [point.latency.p50_ms for point in line],
            [point.rows_per_s for point in line],
            _LINES[transfer],
            marker=marker,
            color=f"C{batches.index(batch) % 10}",
            label=f"batch {batch}, {transfer}",
        )
        for point in line:
            at = (point.latency.p50_ms, point.rows_per_s)
            axes.annotate(str(point.concurrency), at, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("median latency of a request, ms (numbers: requests in flight)")
    axes.set_ylabel(f"{what} per second")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)


def _figure_class() -> Any:
    with needs("matplotlib", "matplotlib", "plot", "a plot"):
        from matplotlib.figure import Figure  # without pyplot: no window, no state
    return Figure
