"""The Parquet tables below a folder, as in a Hugging Face dataset on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clipdex.base.errors import SourceError
from clipdex.base.records import Failure
from clipdex.sources.census import PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import containers
from clipdex.sources.object_store import FETCHES
from clipdex.sources.parquet_table import ParquetTable
from clipdex.sources.scan import FoundFile
from clipdex.sources.storage import is_gone_from, root_of, tree_at

__all__ = ["PARQUET_SUFFIXES", "TableFolder"]

PARQUET_SUFFIXES = (b".parquet",)


class TableFolder:
    """A source of the rows of all Parquet tables below a folder, which is scanned at each run.

    A table that cannot be read, or has no column of pictures, gets a line in the ledger.
    """

    def __init__(
        self,
        directory: str | Path,
        column: str | None = None,
        exclusion: Exclusion | None = None,
        *,
        fetches: int = FETCHES,
    ) -> None:
        """directory: of this machine, or the URL of a bucket's prefix. column: as for `ParquetTable`, for each
        table. exclusion: what is left out of the folder. fetches: objects of a bucket to read at a time.

        Raises:
            SourceError: the folder cannot be read, or none of the tables has the column.
        """
        self._directory = directory
        self._column = column
        self._tree = tree_at(directory, PARQUET_SUFFIXES, exclusion=exclusion)
        self._root = root_of(directory)
        self._fetches = fetches
        self._tables: dict[bytes, ParquetTable] = {}  # of the last pass
        self._require_one()

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files table by table, in the order of the tables' paths."""
        for found in self._tree.files(on_failure):
            try:
                table = self._table(found.path)
            except SourceError as exc:
                detail = str(exc).removeprefix(f"{os.fsdecode(found.path)}: ")
                on_failure(Failure(found.path, "broken_container", detail, found.size, found.mtime_ns))
                continue
            self._tables[found.path] = table
            yield from table.files(on_failure)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return rows that their table no longer has, or whose table is gone.

        None, if there is no longer the folder that the last pass scanned, as for `Tree.vanished`.
        """
        if not self._tree.is_in_place():
            return []
        held: dict[bytes, list[bytes]] = {}
        others: list[bytes] = []
        for path in paths:
            table = next((each for each, _ in (*containers(path), (path, b"")) if self._is_ours(each)), None)
            if table is None:
                others.append(path)
            else:
                held.setdefault(table, []).append(path)
        gone = self._tree.sound_folders(others)
        for table, of_it in held.items():
            if is_gone_from(table):
                gone += of_it
            elif table in self._tables:
                gone += self._tables[table].vanished(of_it)
        return gone

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return rows of tables that exist, but are now left out of the folder."""
        held = {path: next((each for each, _ in containers(path) if self._is_ours(each)), b"") for path in paths}
        out = set(self._tree.left_out(set(held.values())))
        return [path for path, table in held.items() if table in out]

    def passed_over(self) -> PassedOver:
        """Return what was skipped in the folder."""
        return self._tree.passed_over

    def nothing_found(self) -> SourceError:
        """Return the error, which names the folder."""
        return SourceError(f"{self._directory}: no .parquet table in it has a row")

    def _is_ours(self, table: bytes) -> bool:
        return table.startswith(self._root) and table.lower().endswith(PARQUET_SUFFIXES)

    def _table(self, path: bytes) -> ParquetTable:
        return ParquetTable(os.fsdecode(path), self._column, fetches=self._fetches)

    def _require_one(self) -> None:
        refusal: SourceError | None = None
        for found in self._tree.files(lambda failure: None):
            try:
                self._table(found.path)
                return
            except SourceError as exc:
                refusal = refusal or exc
        if refusal is not None:
            raise refusal
