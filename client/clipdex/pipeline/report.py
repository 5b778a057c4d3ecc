"""What a run says of itself: while it goes on, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clipdex.pipeline.departures import Stranded
from clipdex.sources.census import PassedOver

__all__ = ["Progress", "RunReport"]


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
