"""Which release of Triton a server is."""

from __future__ import annotations

import re

from clipdex.wire.inspect.findings import InspectedServer

__all__ = ["release_of"]


def release_of(server: InspectedServer) -> tuple[int, int] | None:
    """Triton's own version, such as (2, 57) for 25.04; None if it is none, or says no number."""
    number = re.match(r"(\d+)\.(\d+)", server.version)
    if server.name != "triton" or number is None:
        return None
    return int(number[1]), int(number[2])
