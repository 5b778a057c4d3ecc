"""Diagnosis of a deployment: what makes it slow or wrong, in plain words.

    collect  →  Snapshot  →  checks  →  Finding  →  wording

Only `collect.collect` talks to the server; everything else works on its snapshot.
"""

from __future__ import annotations

from clipdex.apps.doctor.examine import examine, healthy, words_of
from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Snapshot

__all__ = ["Finding", "Severity", "Snapshot", "Words", "examine", "healthy", "words_of"]
