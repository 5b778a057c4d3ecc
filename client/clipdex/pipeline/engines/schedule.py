"""The loop that has parts made by an engine: what to start when, what to try again, and when to give up.

A part is the unit of work, and what it has committed is kept, so trying again is starting its run again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from clipdex.base.counting import counted
from clipdex.base.errors import PartFailed, PartLost
from clipdex.pipeline.engines.overall import Overall
from clipdex.pipeline.engines.part_job import PartOutcome
from clipdex.pipeline.report import Progress, RunReport

__all__ = ["Effort", "Scheduler", "make_parts"]

_LOG = logging.getLogger("clipdex.pipeline")

H = TypeVar("H")

POLL_S = 0.25
# What is tried again, waits; for a server that does not answer, twice as long each time, up to the longest.
PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# A process that lost its node or its command ends within seconds, and gives up its lock then.
LOCK_PATIENCE_S = 90.0


class Scheduler(Protocol[H]):
    """An engine that runs parts somewhere. A handle is a part that was started."""

    def start(self, number: int, attempt: int) -> H:
        """Have a part made as soon as there is room. attempt: 0 for the first."""
        ...

    def wait(self, running: Sequence[H], seconds: float) -> Sequence[H]:
        """Wait until one has ended, or for so long -> those that have."""
        ...

    def outcome(self, handle: H) -> PartOutcome:
        """Return how one has ended.

        Raises:
            PartLost: its process or node is gone.
            PartFailed: the engine cannot run it at all.
        """
        ...

    def news(self) -> Mapping[int, Progress]:
        """Return what parts have last said of their progress."""
        ...

    def stop(self, running: Sequence[H]) -> None:
        """End those that run, so that they commit what is complete; return when they have ended."""
        ...


@dataclass(frozen=True)
class Effort:
    """How much to do at a time, and how often. at_once: parts. retries: of each part, after the first try."""

    at_once: int
    retries: int = 3


@dataclass
class _Waiting:
    number: int
    attempt: int = 0  # of the starts; those that found the part locked count too
    failures: int = 0
    not_before: float = 0.0
    locked_since: float | None = None


def make_parts(
    scheduler: Scheduler[H], numbers: Iterable[int], directory: Path, effort: Effort, overall: Overall
) -> dict[int, RunReport]:
    """Have parts made -> their reports, by number.

    A part whose process or node is gone, or whose server does not answer, is tried again. After one that fails
    for good, no other is started; those at work are finished.

    Raises:
        PartFailed: one failed for good; the message names it, and says why.
    """
    waiting = deque(_Waiting(number) for number in numbers)
    running: dict[H, _Waiting] = {}
    reports: dict[int, RunReport] = {}
    failed: dict[int, str] = {}
    total = len(waiting)
    try:
        while running or (waiting and not failed):
            for part in _due(waiting, effort.at_once - len(running)) if not failed else ():
                running[scheduler.start(part.number, part.attempt)] = part
                part.attempt += 1
            if not running:
                time.sleep(POLL_S)
            for handle in scheduler.wait(list(running), POLL_S) if running else ():
                part = running.pop(handle)
                try:
                    outcome = scheduler.outcome(handle)
                except PartLost as exc:
                    outcome = PartOutcome("lost", "", why=str(exc))
                except PartFailed as exc:
                    outcome = PartOutcome("failed", "", why=str(exc))
                if outcome.report is not None:
                    reports[part.number] = outcome.report
                    overall.finish(part.number, outcome.report)
                elif (why := _given_up(part, outcome, effort.retries)) is not None:
                    failed[part.number] = why
                else:
                    waiting.append(part)
            overall.hear(scheduler.news())
    except BaseException:
        scheduler.stop(list(running))
        raise
    if failed:
        raise PartFailed(_sentence(failed, len(reports), total, directory))
    return reports


def _due(waiting: deque[_Waiting], most: int) -> list[_Waiting]:
    now = time.monotonic()
    due = [part for part in waiting if part.not_before <= now][: max(0, most)]
    for part in due:
        waiting.remove(part)
    return due


def _given_up(part: _Waiting, outcome: PartOutcome, retries: int) -> str | None:
    """Decide on a part that was not made: None to try it again, later, or why not."""
    now = time.monotonic()
    where = f" on the node {outcome.node}" if outcome.node else ""
    if outcome.ended == "locked":
        part.locked_since = part.locked_since or now
        part.not_before = now + PAUSE_S
        return f"{where}: {outcome.why}" if now - part.locked_since > LOCK_PATIENCE_S else None
    part.locked_since = None
    part.failures += 1
    if outcome.ended == "failed":
        return f"{where}: {outcome.why}"
    if part.failures > retries:
        return f" {counted(part.failures, 'time')}, last{where}: {outcome.why}"
    doubled = 0 if outcome.ended == "lost" else min(part.failures - 1, 16)  # a server needs time, not a node
    part.not_before = now + min(LONGEST_PAUSE_S, PAUSE_S * 2**doubled)
    _LOG.warning("part %d is tried again%s: %s", part.number, where, outcome.why)
    return None


def _sentence(failed: Mapping[int, str], made: int, total: int, directory: Path) -> str:
    number, why = next(iter(failed.items()))
    others = [f"part {each}" for each in list(failed)[1:]]
    more = f"; so did {', '.join(others[:5])}{' and others' if len(others) > 5 else ''}" if others else ""
    return (
        f"part {number} of {directory} failed{why}{more}; {counted(made, 'part')} of {total} "
        f"{'is' if made == 1 else 'are'} up to date, and the same command goes on from what is committed"
    )
