"""Reads an indexed picture inside another file, for display."""

from __future__ import annotations

import os
from pathlib import Path

from clipdex.base.errors import ClipdexError
from clipdex.base.limits import Limits
from clipdex.sources.member_paths import TAR_SUFFIXES, containers
from clipdex.sources.tar_shards import tar_member

__all__ = ["member_bytes"]


def member_bytes(path: str) -> bytes | None:
    """Read the picture that an index knows as `FILE!/MEMBER`; None if the path is not such a one, or it is gone.

    A call may list the tar, or read a row group of the table: fast enough for a page of thumbnails.
    """
    raw = os.fsencode(path)
    if os.path.lexists(raw):
        return None
    for container, member in containers(raw):
        if not os.path.isfile(container):
            continue
        try:
            if container.lower().endswith(TAR_SUFFIXES):
                return tar_member(container, member, Limits().max_file_bytes)
            if Path(os.fsdecode(container)).suffix.lower() == ".parquet":
                from clipdex.sources.parquet_table import parquet_cell  # pyarrow is an extra

                column, _, row = member.rpartition(b"/")
                return parquet_cell(container, os.fsdecode(column), int(row)) if row.isdigit() else None
        except (OSError, ClipdexError):
            return None
    return None
