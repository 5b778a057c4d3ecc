"""The progress of parts that are made at the same time, as that of one run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from clipdex.pipeline.report import Phase, Progress, RunReport

__all__ = ["Overall"]


class Overall:
    """Adds up what parts say of their progress, and tells it. total: returns the pictures of all, once known."""

    def __init__(
        self, parts: int, tell: Callable[[Progress], None] | None, total: Callable[[], int | None]
    ) -> None:
        self._parts, self._tell, self._total = parts, tell, total
        self._latest: dict[int, Progress] = {}
        self._ended: set[int] = set()
        self._began: float | None = None

    def hear(self, news: Mapping[int, Progress]) -> None:
        """Take what parts have said, and tell the sum."""
        for number, progress in news.items():
            if number not in self._ended:
                self._latest[number] = progress
        if self._began is None and any(p.stage != "scanning" for p in self._latest.values()):
            self._began = time.monotonic()
        if self._tell is not None and self._latest:
            self._tell(self._sum())

    def finish(self, number: int, report: RunReport) -> None:
        """Take a part's report, after which nothing else is heard of it."""
        self._ended.add(number)
        r = report
        self._latest[number] = Progress(
            r.indexed, r.unchanged, r.failed, r.discovered, r.images_per_s, r.stage_seconds, 0, "committing"
        )
        if self._began is None:
            self._began = time.monotonic() - r.seconds

    def busy_s(self) -> float:
        """Return the seconds since the first part has begun to embed."""
        return 0.0 if self._began is None else max(1e-9, time.monotonic() - self._began)

    def _sum(self) -> Progress:
        heard = self._latest.values()
        totals = [p.total for p in heard]
        known = sum(total for total in totals if total is not None)
        total = known if len(totals) == self._parts and None not in totals else self._total()
        stages: Counter[str] = Counter()
        for p in heard:
            stages.update(p.stage_seconds)
        indexed, busy = sum(p.indexed for p in heard), self.busy_s()
        return Progress(
            indexed,
            sum(p.unchanged for p in heard),
            sum(p.failed for p in heard),
            total,
            indexed / busy if busy else 0.0,
            dict(stages),
            sum(p.waiting for p in heard),
            self._stage(),
        )

    def _stage(self) -> Phase:
        stages = {p.stage for number, p in self._latest.items() if number not in self._ended}
        if "embedding" in stages or (not stages and len(self._ended) < self._parts):
            return "embedding"
        return "scanning" if "scanning" in stages else "committing"
