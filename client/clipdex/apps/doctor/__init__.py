"""What makes a deployment slow or wrong, in plain words.

    collect  →  Snapshot  →  checks  →  Finding  →  wording

`collect.collect` looks at the server, and all others only at what it has seen.
"""

from __future__ import annotations

from clipdex.apps.doctor.examine import examine, healthy, words_of
from clipdex.apps.doctor.finding import Finding, Severity, Words
from clipdex.apps.doctor.snapshot import Snapshot

__all__ = ["Finding", "Severity", "Snapshot", "Words", "examine", "healthy", "words_of"]
