"""Opens a folder that holds no pictures itself, but tars or tables with pictures in them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from clipdex.base.counting import counted
from clipdex.base.errors import SourceError
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import TABLE_SUFFIXES, TAR_SUFFIXES
from clipdex.sources.object_store import FETCHES
from clipdex.sources.scan import SUFFIXES
from clipdex.sources.source import Source
from clipdex.sources.storage import tree_at
from clipdex.sources.tar_shards import TarShards

__all__ = ["shards_in"]

_LOG = logging.getLogger("clipdex.sources")


def shards_in(
    directory: str | Path,
    column: str | None = None,
    exclusion: Exclusion | None = None,
    fetches: int = FETCHES,
) -> Source | None:
    """Open a folder's tars or its Parquet tables, and log which; None if it has pictures, or none of these.

    The folder may be a prefix of a bucket.

    img2dataset writes a Parquet table of metadata beside each tar: then the tars are meant.

    Raises:
        SourceError: the folder has both, or tables that must be named; or no table has the column.
        MissingExtra: a Parquet file without pyarrow.
    """
    tars: set[bytes] = set()
    tables: list[bytes] = []
    wanted = (*SUFFIXES, *TAR_SUFFIXES, *TABLE_SUFFIXES)
    for found in tree_at(directory, wanted, exclusion=exclusion).files(lambda failure: None):
        stem, suffix = os.path.splitext(found.path)
        if suffix.lower() in TAR_SUFFIXES:
            tars.add(stem)
        elif suffix.lower() in TABLE_SUFFIXES:
            tables.append(found.path)
        else:
            return None
    tables = [table for table in tables if os.path.splitext(table)[0] not in tars]
    if not tars and not tables:
        return None
    kinds = Counter(os.path.splitext(table)[1].lower().decode() for table in tables)
    if tars and not tables:
        _LOG.warning("%s: holds no picture itself; using its %s", directory, _count(len(tars), ".tar"))
        return TarShards(below=directory, exclusion=exclusion, fetches=fetches)
    if not tars and set(kinds) == {".parquet"}:
        from clipdex.sources.table_folder import TableFolder  # pyarrow is an extra

        source = TableFolder(directory, column, exclusion, fetches=fetches)
        _LOG.warning("%s: holds no picture itself; using its %s", directory, _count(len(tables), ".parquet"))
        return source
    counts = [_count(len(tars), ".tar")] if tars else []
    counts += [_count(number, suffix) for suffix, number in sorted(kinds.items())]
    tar = "add --tar for the pictures in the tars, or " if tars else ""
    raise SourceError(
        f"{directory}: holds no picture, but {' and '.join(counts)}; {tar}name the tables to index, such as "
        f"{os.fsdecode(min(tables))}"
    )


def _count(number: int, suffix: str) -> str:
    return counted(number, f"{suffix} file")
