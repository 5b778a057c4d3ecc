"""What a check has found. Its words are in `wording`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Finding", "Severity", "Words"]


class Severity(Enum):
    """wrong: results are wrong, requests fail, or others may use it. slow: it could do more. note: neither."""

    WRONG = "wrong"
    SLOW = "slow"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """code: of the wording. where: the model or address. facts: what the wording has blanks for."""

    code: str
    where: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """what: with the finding's facts in {braces}. why: why it matters. todo: what to do; "" for nothing."""

    severity: Severity
    what: str
    why: str
    todo: str
