"""Progress, timing and report of an indexing run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from clipdex.base.counting import counted
from clipdex.base.errors import ClipdexError
from clipdex.pipeline.departures import Stranded
from clipdex.sources.census import PassedOver

__all__ = ["STAGES", "Phase", "Progress", "RunReport", "StageTimes", "Tally"]


Phase = Literal["scanning", "embedding", "committing"]


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    total: the number of pictures in the source, None until they are counted.
    images_per_s, stage_seconds: as in the report, so far.
    waiting: pictures that are decoded, and whose vectors are awaited.
    stage: "scanning" until the first file is read, then "embedding", at the end "committing".
    """

    indexed: int
    unchanged: int
    failed: int
    total: int | None
    images_per_s: float
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    waiting: int = 0
    stage: Phase = "embedding"

    @property
    def done(self) -> int:
        """The number of files that need no more work."""
        return self.indexed + self.unchanged + self.failed


@dataclass(frozen=True)
class RunReport:
    """The result of a run. discovered = indexed + unchanged + failed.

    indexed: new and changed files, committed. recognised: those of them that have the content of another
        row (moved or copied files) and were not embedded again. changed: those of them that replaced a row.
    unchanged: files that were already in the index with the same content, including `unseen`.
    unseen: files that could not be checked, as on a disk that is not mounted; their rows stay.
    failed: files that are in the ledger, whether from this run or an earlier one.
    removed: rows whose file is gone. left_out: rows removed because their file, although it exists, is now left
        out of its folder (`Exclusion`).
    rows: live rows in the index now.
    seconds: duration of the whole run. images_per_s: indexed pictures per second, from the first file decoded to
        the last commit.
    stage_seconds: busy seconds by stage; see `STAGES`.
    passed_over: what was skipped in the folders. stranded: rows whose file is gone, but whose content was found
        elsewhere.
    transfer: how pixels went to the server: "shared memory", "wire", or "in process" if there is no server.
    """

    discovered: int
    indexed: int
    recognised: int
    unchanged: int
    failed: int
    removed: int
    rows: int
    seconds: float
    images_per_s: float
    stage_seconds: Mapping[str, float]
    transfer: str
    unseen: int = 0
    left_out: int = 0
    changed: int = 0
    passed_over: PassedOver = field(default_factory=PassedOver)
    stranded: Stranded = field(default_factory=Stranded)


@dataclass
class Tally:
    """Counts of the files so far, by result."""

    found: int = 0  # files from the source, failures included; counted in the decoder's thread
    indexed: int = 0
    recognised: int = 0
    changed: int = 0
    touched: int = 0
    same: int = 0  # counted in the decoder's thread
    unseen: int = 0
    failed_now: int = 0
    failed_before: int = 0  # counted in the decoder's thread

    @property
    def failed(self) -> int:
        """The number of files in the ledger."""
        return self.failed_now + self.failed_before

    @property
    def unchanged(self) -> int:
        """The number of files whose row stays."""
        return self.same + self.touched + self.unseen

    def check(self) -> None:
        """Raise ClipdexError unless every file from the source is accounted for."""
        accounted = self.indexed + self.unchanged + self.failed
        if self.found != accounted:
            raise ClipdexError(
                f"{counted(self.found, 'file')} came from the source, but {accounted:,} are accounted for: "
                "this is a bug in clipdex, please report it; what was indexed is committed"
            )


_T = TypeVar("_T")

_END = object()

# scan: listing files and looking them up in the index, in the thread that feeds the decoders.
# decode, resize: the work of all workers together; decode includes reading the file.
# wait_decode, wait_embed: the joining thread is idle until pixels, or vectors, arrive.
# place, submit, append, commit: the joining thread's own work.
STAGES = ("scan", "decode", "resize", "wait_decode", "place", "submit", "wait_embed", "append", "commit")


class StageTimes:
    """Busy seconds by stage. Each stage belongs to one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def each(self, stage: str, items: Iterator[_T]) -> Iterator[_T]:
        """Yield the items, adding the time to wait for each to a stage."""
        while True:
            began = time.perf_counter()
            item = next(items, _END)
            self.seconds[stage] += time.perf_counter() - began
            if item is _END:
                return
            yield item  # type: ignore[misc]  # a call of `cast` for each picture would be felt
