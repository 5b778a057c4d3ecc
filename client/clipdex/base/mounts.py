"""The file systems that are mounted, where Linux tells of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["mounted", "mounted_below"]

_TABLE = Path("/proc/self/mountinfo")


def mounted() -> list[tuple[str, str]]:
    """List (mount point, kind of file system), in the order in which they were mounted; empty if unknown."""
    try:
        lines = _TABLE.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) >= 5 and after:
            found.append((re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]), after.split()[0]))
    return found


def mounted_below(folder: str | os.PathLike[str]) -> frozenset[str]:
    """Return the mount points below a folder, as paths from it."""
    top = os.path.join(os.path.realpath(folder), "")
    return frozenset(place[len(top) :] for place, _ in mounted() if place.startswith(top))
