"""Removing an index that was created for nothing."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from clipdex.base.errors import IndexFault
from clipdex.index.create import unfinished_name
from clipdex.index.writer import IndexWriter

__all__ = ["discard_if_empty"]


def discard_if_empty(directory: Path) -> None:
    """Remove an index that never had a row or a failure, unless another process is writing to it.

    For whoever has just created it: a reader that opened it meanwhile keeps what it has open.
    """
    with suppress(IndexFault, OSError), IndexWriter(directory) as writer:
        if writer.committed_rows or writer.failed_paths():
            return
        # Under this name, it is swept if this process is killed now.
        aside = unfinished_name(directory)
        directory.rename(aside)
        writer.close()
        shutil.rmtree(aside, ignore_errors=True)
