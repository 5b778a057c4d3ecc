"""The result of a check, and the form of its wording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Finding", "Severity", "Words"]


class Severity(Enum):
    """Severity of a finding.

    wrong: results are wrong, requests fail, or others may use the server. slow: it could do more. note: neither.
    """

    WRONG = "wrong"
    SLOW = "slow"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One finding. code: its wording. where: a model or address. facts: values for the wording's placeholders."""

    code: str
    where: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The wording of a finding, with its facts in {braces}.

    what: the problem. why: why it matters. todo: what to do; "" for nothing.
    """

    severity: Severity
    what: str
    why: str
    todo: str
