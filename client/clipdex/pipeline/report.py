"""What a run counts, times and reports."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from clipdex.base.errors import ClipdexError
from clipdex.pipeline.departures import Stranded
from clipdex.sources.census import PassedOver

__all__ = ["STAGES", "Progress", "RunReport", "StageTimes", "Tally"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    total: the pictures in the folder, None until they are counted.
    stage_seconds: as in the report, so far.
    """

    indexed: int
    unchanged: int
    failed: int
    total: int | None
    images_per_s: float
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """The files that need no more work."""
        return self.indexed + self.unchanged + self.failed


@dataclass(frozen=True)
class RunReport:
    """What a run did. discovered = indexed + unchanged + failed.

    indexed: new and changed files, committed. recognised: those of them that have the content of another
        row (moved or copied files) and were not embedded again.
    unchanged: files that were in the index already, with the same content; and those not seen.
    unseen: of these, files that could not be looked at, as on a disk that is not mounted; their rows stay.
    failed: files that are in the ledger, whether this run put them there or an earlier one.
    removed: rows whose file is no longer there. left_out: rows that were removed because their file, which is
        there, is left out of its folder now (`Exclusion`).
    rows: live rows in the index now.
    seconds: the whole run. images_per_s: the indexed ones, from the first file decoded to the last commit.
    stage_seconds: see `stages.STAGES`.
    passed_over: what else the folders hold. stranded: rows whose file is gone, and copies of which were met.
    transfer: how pixels went to the server: "shared memory", "wire", or "in process" where there is none.
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
    passed_over: PassedOver = field(default_factory=PassedOver)
    stranded: Stranded = field(default_factory=Stranded)


@dataclass
class Tally:
    """What became of the files so far."""

    found: int = 0  # as they came from the source, failures too; counted in the decoder's thread
    indexed: int = 0
    recognised: int = 0
    touched: int = 0
    same: int = 0  # counted in the decoder's thread
    unseen: int = 0
    failed_now: int = 0
    failed_before: int = 0  # counted in the decoder's thread

    @property
    def failed(self) -> int:
        """Files in the ledger."""
        return self.failed_now + self.failed_before

    @property
    def unchanged(self) -> int:
        """Files whose row stays."""
        return self.same + self.touched + self.unseen

    def check(self) -> None:
        """Every file that came in must have come out, and a file that was dropped must not go unnoticed."""
        accounted = self.indexed + self.unchanged + self.failed
        if self.found != accounted:
            raise ClipdexError(
                f"{self.found:,} files came from the source, and {accounted:,} are accounted for: "
                "this is a fault of clipdex, please report it; what was indexed is committed"
            )


_T = TypeVar("_T")

# scan: listing files and asking the index what it knows of them, in the decoders' feeding thread.
# decode, resize: the workers' work, all together; decode includes reading the file.
# wait_decode, wait_embed: the joining thread has nothing to do until pixels, or vectors, arrive.
# place, submit, append, commit: the joining thread's own work.
STAGES = ("scan", "decode", "resize", "wait_decode", "place", "submit", "wait_embed", "append", "commit")


class StageTimes:
    """Seconds by stage. Each stage belongs to one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Count the block's time to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def each(self, stage: str, items: Iterator[_T]) -> Iterator[_T]:
        """Pass items on, counting the time until each comes to a stage."""
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds[stage] += time.perf_counter() - began
            yield item
