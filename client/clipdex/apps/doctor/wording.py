"""The words for every finding: what it is, why it matters, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from clipdex.apps.doctor import words_model, words_server, words_speed, words_vectors
from clipdex.apps.doctor.finding import Finding, Severity, Words

__all__ = ["WORDINGS", "severity_of", "words_of"]

WORDINGS: Mapping[str, Words] = MappingProxyType(
    {**words_model.WORDINGS, **words_vectors.WORDINGS, **words_speed.WORDINGS, **words_server.WORDINGS}
)


def severity_of(finding: Finding) -> Severity:
    """How bad it is."""
    return WORDINGS[finding.code].severity


def words_of(finding: Finding) -> Words:
    """The words, with the facts filled in."""
    words, facts = WORDINGS[finding.code], dict(finding.facts)
    return Words(words.severity, *(text.format(**facts) for text in (words.what, words.why, words.todo)))
