"""Progress bars: pictures done, images/s, time left, failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from clipdex.cli.printing import bar_console, note
from clipdex.pipeline.report import Progress

__all__ = ["index_progress", "rows_progress"]

_LINE_EVERY_S = 10.0


@contextmanager
def index_progress() -> Iterator[Callable[[Progress], None]]:
    """Show a bar on a terminal; print a line every ten seconds if standard error is a file or a pipe."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    bar = Bar(
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
        console=bar_console(),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, rate=0.0, failed=0)

        def report(p: Progress) -> None:
            bar.update(task, completed=p.done, total=p.total, rate=p.images_per_s, failed=p.failed)

        yield report


@contextmanager
def rows_progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar over rows on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=bar_console(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines() -> Callable[[Progress], None]:
    last = time.monotonic()

    def report(p: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            of = f" of {p.total:,}" if p.total is not None else ""
            note(f"{p.done:,}{of} done, {p.images_per_s:.0f} images/s, {p.failed:,} failed")

    return report
