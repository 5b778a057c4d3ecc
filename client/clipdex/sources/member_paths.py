"""The identity of a picture inside another file: `FILE!/MEMBER`, as `/data/0.tar!/cat.jpg`, in bytes.

A folder may be named `x.tar!`, so such a path can also be an ordinary one: callers check whether a file exists at
the whole path, or at the container's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["TABLE_SUFFIXES", "TAR_SUFFIXES", "containers", "member_path"]

TAR_SUFFIXES = (b".tar",)
TABLE_SUFFIXES = (b".csv", b".tsv", b".parquet")

_CONTAINER_ENDS = re.compile(rb"\.(?:tar|csv|tsv|parquet)(?=!/)", re.IGNORECASE)


def member_path(container: bytes, member: bytes) -> bytes:
    """Return the identity of a member."""
    return container + b"!/" + member


def containers(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each way to read a path as (container, member), the shortest container first; none for most paths."""
    for found in _CONTAINER_ENDS.finditer(path):
        yield path[: found.end()], path[found.end() + 2 :]
