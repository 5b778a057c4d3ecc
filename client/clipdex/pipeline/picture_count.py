"""The number of pictures that a run will meet, counted while it is under way: a progress bar's total."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from clipdex.base.records import Failure
from clipdex.sources.source import Source

__all__ = ["PictureCount"]


class PictureCount:
    """Counts the pictures of a source in a thread, during a block that is given what returns their number."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._over = threading.Event()
        self._found: int | None = None
        self._thread = threading.Thread(target=self._count, name="clipdex-count", daemon=True)

    def __enter__(self) -> Callable[[], int | None]:
        self._thread.start()
        return lambda: self._found

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        with suppress(Exception):  # the run meets it too, and reports it
            failures: list[Failure] = []
            count = 0
            for _ in self._source.files(failures.append):
                if self._over.is_set():
                    return
                count += 1
            self._found = count + len(failures)
