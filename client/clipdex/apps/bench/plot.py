"""Plot of throughput against latency. Needs the extra `plot`."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdex.apps.bench.measure_server import Point
from clipdex.base.errors import InvalidArgument
from clipdex.base.extras import needs
from clipdex.base.printable import printable
from clipdex.base.replacing import replacing

__all__ = ["SUFFIXES", "check_plot", "figure_of", "plot_points"]

SUFFIXES = (".svg", ".png", ".pdf")

_PARTS = {"image": ("pictures", "o"), "text": ("texts", "s")}
_LINES = {"wire": "-", "shared": "--"}
_SOFT = "#444444"

_LEAST_LOG = 5  # largest latency to smallest; below this, an axis with even steps has more labels
_MOST_125 = 2e4
_NAMED_COLOURS = 10  # in matplotlib's cycle


def check_plot(file: Path) -> None:
    """Check, before an hour of measuring, that a plot can be drawn to this file.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidArgument: the name has another suffix.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{file}: the name of a plot must end in one of {', '.join(SUFFIXES)}")
    _figure_class()


def plot_points(file: Path, points: Sequence[Point], title: str, made_on: str) -> None:
    """Plot a line for each part, way of transfer and batch size, with its concurrencies marked.

    title: what was measured: the model and its server. made_on: the machine and the date, for the last line.

    Raises:
        MissingExtra, InvalidArgument: as `check_plot`.
        ClipdexError: the file cannot be written.
    """
    check_plot(file)
    from matplotlib import style

    # The user's own style may have a dark ground, or LaTeX; the reader of the plot need not have it.
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box
        figure = figure_of(points, title, made_on)
        with replacing(file, "the plot") as opened:
            figure.savefig(opened, format=file.suffix.lower()[1:], dpi=200)


def figure_of(points: Sequence[Point], title: str, made_on: str) -> Any:
    """Draw the plot, a matplotlib Figure, one pair of axes for each part."""
    parts = list(dict.fromkeys(point.part for point in points))
    figure = _figure_class()(figsize=(9, 1.2 + 4 * len(parts)), layout="constrained", facecolor="white")
    figure.suptitle(_lines(title, 90), fontsize=12, parse_math=False)
    figure.supxlabel(_lines(made_on, 120), fontsize=8, color=_SOFT, parse_math=False)
    for axes, part in zip(figure.subplots(len(parts), squeeze=False)[:, 0], parts, strict=True):
        _draw(axes, [point for point in points if point.part == part])
    return figure


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
            markersize=5,
            color=_colour(batches.index(batch), len(batches)),
            label=f"{batch}, {transfer}",
        )
        for point in line:
            at = (point.latency.p50_ms, point.rows_per_s)
            axes.annotate(str(point.concurrency), at, xytext=(4, 4), textcoords="offset points", fontsize=8)
    _number(axes, [point.latency.p50_ms for point in points])
    axes.set_ylim(0, 1.08 * max(point.rows_per_s for point in points))
    axes.set_facecolor("white")
    axes.set_xlabel("median latency of a request, ms (number at a point: requests in flight)")
    axes.set_ylabel(f"throughput, {what} per second")
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the lines, where it covers none.
    axes.legend(
        title=f"{what} per request, transfer",
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        fontsize=9,
        frameon=False,
    )


def _number(axes: Any, latencies: Sequence[float]) -> None:
    """Label both axes with plain numbers; a logarithmic one at 1, 2, 5, 10, …, or each power of ten if many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    span = max(latencies) / min(latencies)
    if span >= _LEAST_LOG:
        axes.set_xscale("log")
        subs = (1.0, 2.0, 5.0) if span < _MOST_125 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=99))
        axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.15g}"))


def _colour(i: int, count: int) -> Any:
    """Return the i-th of `count` distinct colours that are legible on white."""
    if count <= _NAMED_COLOURS:
        return f"C{i}"
    import matplotlib

    return matplotlib.colormaps["viridis"](0.9 * i / (count - 1))


def _lines(text: str, width: int) -> str:
    return textwrap.fill(printable(text), width)


def _figure_class() -> Any:
    with needs("matplotlib", "matplotlib", "plot", "a plot"):
        from matplotlib.figure import Figure  # without pyplot: no window, no state
    return Figure
