"""Run every check over the snapshots, and word the findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from clipdex.apps.doctor import check_model, check_server, check_speed, check_vectors
from clipdex.apps.doctor.check_server import fleet
from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Snapshot

__all__ = ["CHECKS", "WORDINGS", "examine", "healthy", "severity_of", "words_of"]

CHECKS: tuple[Callable[[Snapshot], Iterator[Finding]], ...] = (
    *check_model.CHECKS,
    *check_vectors.CHECKS,
    *check_speed.CHECKS,
    *check_server.CHECKS,
)

WORDINGS: Mapping[str, Words] = MappingProxyType(
    {**check_model.WORDINGS, **check_vectors.WORDINGS, **check_speed.WORDINGS, **check_server.WORDINGS}
)

_ORDER = list(Severity)


def examine(snapshots: Sequence[Snapshot]) -> list[Finding]:
    """Return all findings, the most severe first."""
    found = [finding for snapshot in snapshots for check in CHECKS for finding in check(snapshot)]
    found += fleet(snapshots)
    return sorted(found, key=lambda finding: _ORDER.index(severity_of(finding)))


def healthy(findings: Sequence[Finding]) -> bool:
    """Return whether nothing is wrong or slow."""
    return all(severity_of(finding) is Severity.NOTE for finding in findings)


def severity_of(finding: Finding) -> Severity:
    """Return a finding's severity."""
    return WORDINGS[finding.code].severity


def words_of(finding: Finding) -> Words:
    """Return a finding's wording, with the facts filled in."""
    words, facts = WORDINGS[finding.code], dict(finding.facts)
    return Words(words.severity, *(text.format(**facts) for text in (words.what, words.why, words.todo)))
