"""A progress bar for the download of a model: bytes, speed, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from clipdex.cli.printing import bar_console, is_quiet, note

__all__ = ["download_progress"]

_LINE_EVERY_S = 10.0


@contextmanager
def download_progress() -> Iterator[None]:
    """Show the progress of downloads within the block: a bar on a terminal, else a line every ten seconds."""
    from clipdex_export.downloads import Download, downloads_reported

    if is_quiet():
        yield
        return
    if not sys.stderr.isatty():
        with downloads_reported(_Lines()):
            yield
        return
    columns = (
        TextColumn("downloading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=bar_console(), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def report(progress: Download) -> None:
            bar.update(task, completed=progress.done, total=progress.total, visible=progress.done < progress.total)

        with downloads_reported(report):
            yield


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: object) -> None:
        from clipdex_export.downloads import Download, megabytes

        assert isinstance(progress, Download)
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            note(f"{megabytes(progress.done)} of {megabytes(progress.total)} downloaded")
