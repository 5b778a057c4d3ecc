"""Runs every check over what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from clipdex.apps.doctor import check_model, check_server, check_speed, check_vectors
from clipdex.apps.doctor.check_fleet import fleet
from clipdex.apps.doctor.finding import Finding, Severity
from clipdex.apps.doctor.snapshot import Snapshot
from clipdex.apps.doctor.wording import severity_of

__all__ = ["CHECKS", "examine", "healthy"]

CHECKS: tuple[Callable[[Snapshot], Iterator[Finding]], ...] = (
    *check_model.CHECKS,
    *check_vectors.CHECKS,
    *check_speed.CHECKS,
    *check_server.CHECKS,
)

_ORDER = list(Severity)


def examine(snapshots: Sequence[Snapshot]) -> list[Finding]:
    """All findings, what is wrong first."""
    found = [finding for snapshot in snapshots for check in CHECKS for finding in check(snapshot)]
    found += fleet(snapshots)
    return sorted(found, key=lambda finding: _ORDER.index(severity_of(finding)))


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong, and nothing slow."""
    return all(severity_of(finding) is Severity.NOTE for finding in findings)
