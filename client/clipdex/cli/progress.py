"""Progress bars: the stage, pictures done, images/s, time left, failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar

from clipdex.cli.printing import bar_console, detail, is_quiet, note
from clipdex.pipeline.report import Progress

__all__ = ["bytes_progress", "index_progress", "rows_progress", "shown_rate"]

_LINE_EVERY_S = 10.0


@contextmanager
def index_progress() -> Iterator[Callable[[Progress], None] | None]:
    """Show a bar on a terminal; print a line every ten seconds if standard error is a file or a pipe."""
    if is_quiet():
        yield None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    bar = Bar(
        TextColumn("{task.description}"),
        _SmoothBar(),
        TextColumn("{task.fields[done]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
        console=bar_console(),
        transient=True,
    )
    with bar:
        task = bar.add_task("scanning", total=None, done="", rate="", failed="", last=None, at=0.0)

        def report(p: Progress) -> None:
            # A decoded picture is half done, so that the bar moves with each, and not with each batch.
            bar.update(
                task,
                description=f"{p.stage:<10}",
                completed=p.done + p.waiting / 2,
                total=p.total,
                done=_done(p),
                rate=shown_rate(p.images_per_s) if p.indexed else "",
                failed=f"{p.failed:,} failed" if p.failed else "",
                last=p,
                at=time.monotonic(),
            )

        yield report


class _SmoothBar(BarColumn):
    """A bar that keeps moving at the rate of the run while a batch is under way, up to that batch's end."""

    def render(self, task: Task) -> ProgressBar:
        """Return the bar."""
        drawn = super().render(task)
        last = task.fields["last"]
        if last is not None:
            drawn.completed += min(last.waiting, last.images_per_s * (time.monotonic() - task.fields["at"])) / 2
        return drawn


@contextmanager
def rows_progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar over rows on a terminal; nothing elsewhere."""
    if is_quiet() or not sys.stderr.isatty():
        yield None
        return
    with _counting_bar(TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as report:
        yield report


@contextmanager
def bytes_progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar over bytes on a terminal; print a line every ten seconds elsewhere."""
    if is_quiet():
        yield None
        return
    if not sys.stderr.isatty():
        yield _byte_lines(what)
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _counting_bar(*columns) as report:
        yield report


@contextmanager
def _counting_bar(*columns: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
    with Bar(*columns, console=bar_console(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _byte_lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            note(f"{what}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")

    return report


def shown_rate(images_per_s: float) -> str:
    """Return a rate as every command prints it; slow ones with a decimal."""
    return f"{images_per_s:.{0 if images_per_s >= 10 else 1}f} images/s"


def _lines() -> Callable[[Progress], None]:
    last, stage = time.monotonic(), ""

    def report(p: Progress) -> None:
        nonlocal last, stage
        if p.stage != stage:
            stage = p.stage
            detail(f"{stage} ...")
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            note(f"{p.stage}: {_done(p)} done, {shown_rate(p.images_per_s)}, {p.failed:,} failed")

    return report


def _done(p: Progress) -> str:
    return f"{p.done:,}" if p.total is None else f"{p.done:,} of {p.total:,}"
