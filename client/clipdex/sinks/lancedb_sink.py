"""A table of LanceDB, in a folder of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import SinkError
from clipdex.base.extras import needs
from clipdex.sinks.conditions import Condition, Scalar
from clipdex.sinks.sink import Field, Found, Point, Points, translated
from clipdex.sinks.sql_filter import quoted_text, sql_of

with needs("lancedb", "lancedb", "lancedb", "LanceDB"):
    import lancedb
    import pyarrow as pa
    from lancedb.index import Bitmap, BTree, HnswSq, LabelList

__all__ = ["LanceSink"]

_SUFFIX = "__clipdex"  # of the table that has the description
_EXACT_BELOW = 50_000  # rows: fewer are scanned, which takes milliseconds and misses nothing
_REFINED = 10  # candidates per hit that are compared exactly


class LanceSink:
    """A table, and beside it one of a single row that has the description."""

    most_points = 8_192  # each upsert is a version of the table
    most_bytes = 64 << 20
    number_bytes = 4
    most_payload = 32 << 20

    def __init__(self, folder: Path, table: str) -> None:
        """folder: of the database."""
        self.place = f"the table {table} of LanceDB in {folder}"
        self._name = table
        self._described = table + _SUFFIX
        self._open: Any = None
        self._schema: Any = None
        with translated(self.place):
            self._database = lancedb.connect(str(folder))

    def description(self) -> str | None:
        """See `Sink`."""
        with translated(self.place):
            if not self._has(self._described):
                if self._has(self._name):
                    raise SinkError(f"{self.place} was not made by clipdex: choose another table")
                return None
            rows = self._database.open_table(self._described).to_arrow().to_pylist()
        return rows[0]["text"] if rows else None

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`."""
        kinds = {
            "int": pa.int64(), "real": pa.float64(), "text": pa.string(), "bool": pa.bool_(),
            "texts": pa.list_(pa.string()),
        }  # fmt: skip
        self._schema = pa.schema(
            [
                ("point_id", pa.string()),
                ("vector", pa.list_(pa.float32(), dim)),
                *((field.column, kinds[field.kind]) for field in fields),
                ("metadata", pa.string()),
                ("digest", pa.string()),
            ]
        )
        with translated(self.place):
            if not self._has(self._described):
                self._database.create_table(self._described, schema=pa.schema([("text", pa.string())]))
            if not self._has(self._name):
                self._database.create_table(self._name, schema=self._schema)

    def describe(self, text: str) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._database.create_table(self._described, pa.table({"text": [text]}), mode="overwrite")

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        with translated(self.place):
            schema = self._schema or self._table.schema
            columns = [
                pa.array(points.ids, pa.string()),
                pa.FixedSizeListArray.from_arrays(
                    pa.array(np.ascontiguousarray(points.vectors).reshape(-1)), points.vectors.shape[1]
                ),
                *(
                    pa.array([payload.get(field.name) for payload in points.payloads], field.type)
                    for field in list(schema)[2:]
                ),
            ]
            rows = pa.Table.from_arrays(columns, schema=schema)
            # A merge reads the whole table; finding out which ids are there reads one column of it.
            there = np.isin(points.ids, self._there(points.ids))
            if there.any():
                merge = self._table.merge_insert("point_id").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(rows.filter(pa.array(there)))
            if not there.all():
                self._table.add(rows.filter(pa.array(~there)))

    def _there(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that are there."""
        found = self._table.search().where(_is_one_of(ids)).select(["point_id"]).limit(len(ids))
        return list(found.to_arrow()["point_id"].to_pylist())

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._table.delete(_is_one_of(ids))

    def flush(self) -> None:
        """See `Sink`: every version is on disk already."""

    def optimize(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            known = {index.columns[0] for index in self._table.list_indices()}
            for field in self._table.schema:
                if field.name not in (*known, "vector", "metadata", "digest"):
                    kind = LabelList if pa.types.is_list(field.type) else BTree
                    self._table.create_index(
                        field.name, config=Bitmap() if pa.types.is_boolean(field.type) else kind()
                    )
            if "vector" not in known and self._table.count_rows() >= _EXACT_BELOW:
                self._table.create_index("vector", config=HnswSq(distance_type="cosine"))
            # Joins small files, and brings the indexes up to date.
            self._table.optimize(cleanup_older_than=timedelta(minutes=10))

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            return int(self._table.count_rows())

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`."""
        with translated(self.place):
            found = self._table.search().select(["point_id", "digest"]).limit(max(1, self.count())).to_arrow()
        for each in found.to_batches():
            yield from zip(each["point_id"].to_pylist(), each["digest"].to_pylist(), strict=True)

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        if not ids:
            return {}
        with translated(self.place):
            found = self._table.search().where(_is_one_of(ids)).limit(len(ids)).to_arrow().to_pylist()
        return {each["point_id"]: Point(np.asarray(each["vector"], np.float32), _payload(each)) for each in found}

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        with translated(self.place):
            asked = self._table.search(vector, vector_column_name="vector").distance_type("cosine").limit(top_k)
            asked = asked.refine_factor(_REFINED)
            if condition is not None:
                asked = asked.where(sql_of(condition, _literal, _has), prefilter=True)
            found = asked.to_arrow().to_pylist()
        return [Found(each["point_id"], 1.0 - float(each["_distance"]), _payload(each)) for each in found]

    def drop(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            for name in (self._name, self._described):
                if self._has(name):
                    self._database.drop_table(name)
        self._open = None

    def close(self) -> None:
        """See `Sink`."""
        self._open = None

    @property
    def _table(self) -> Any:
        if self._open is None:
            self._open = self._database.open_table(self._name)
        return self._open

    def _has(self, name: str) -> bool:
        after = None
        while True:
            page = self._database.list_tables(page_token=after)
            if name in page.tables:
                return True
            after = page.page_token
            if not after:
                return False


def _is_one_of(ids: Sequence[str]) -> str:
    return f"point_id IN ({', '.join(map(quoted_text, ids))})"


def _has(column: str, literal: str) -> str:
    return f"array_has({column}, {literal})"


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted_text(value) if isinstance(value, str) else repr(value)


def _payload(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if value is not None and name not in ("point_id", "vector", "_distance")
    }
