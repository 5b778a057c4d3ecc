"""A table of PostgreSQL with the extension pgvector."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import SinkError
from clipdex.base.extras import needs
from clipdex.sinks.conditions import Condition, Scalar
from clipdex.sinks.sink import Field, Found, Point, Points, translated
from clipdex.sinks.sql_filter import sql_of

with needs("psycopg", "psycopg", "pgvector", "PostgreSQL"):
    import psycopg
    from psycopg import sql
with needs("pgvector", "pgvector", "pgvector", "PostgreSQL"):
    from pgvector.psycopg import register_vector

__all__ = ["PgvectorSink"]

_SUFFIX = "__clipdex"  # of the table that has the description
_KINDS = {"int": "bigint", "real": "double precision", "text": "text", "texts": "text[]", "bool": "boolean"}
_EFFORT = 400  # hnsw.ef_search: candidates of a query
_LARGEST_EFFORT = 1000  # that PostgreSQL takes
_SPARE = 4  # times as many as are wanted are ranked: the graph gives them in order only nearly
_SCANNED = 200_000  # points that a filtered query may look at
_NODE_BYTES = 1_200  # of a point in the graph, beside its vector


class PgvectorSink:
    """A table, and beside it one of a single row that has the description."""

    most_points = 4_096
    most_bytes = 64 << 20
    number_bytes = 4
    most_payload = 32 << 20

    def __init__(self, connection: psycopg.Connection[Any], table: str, place: str) -> None:
        """connection: an open one, which is closed with the sink. place: how to name the table."""
        self.place = place
        self._connection = connection
        self._table = sql.Identifier(table)
        self._name = table
        self._described = sql.Identifier(table + _SUFFIX)
        self._columns: list[str] = []
        connection.autocommit = True

    def description(self) -> str | None:
        """See `Sink`."""
        with translated(self.place):
            if not self._exists(self._name + _SUFFIX):
                if self._exists(self._name):
                    raise SinkError(f"{self.place} was not made by clipdex: choose another table")
                return None
            row = self._run("SELECT text FROM {described}").fetchone()
        return None if row is None else str(row[0])

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`."""
        columns = [(field.column, _KINDS[field.kind]) for field in fields]
        columns += [("metadata", "text"), ("digest", "text")]
        made = sql.SQL(", ").join(sql.SQL("{} " + kind).format(sql.Identifier(name)) for name, kind in columns)
        with translated(self.place):
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(self._connection)
            self._run("CREATE TABLE IF NOT EXISTS {described} (text text NOT NULL)")
            self._run(
                "CREATE TABLE IF NOT EXISTS {table} "
                "(point_id uuid PRIMARY KEY, vector vector({dim}) NOT NULL, {made})",
                dim=sql.Literal(dim),
                made=made,
            )
            for field in fields:
                self._run(
                    # Of most fields few pictures have a value, and every comparison asks for one.
                    "CREATE INDEX IF NOT EXISTS {name} ON {table} USING " + _method(field) + " ({column})"
                    " WHERE {column} IS NOT NULL",
                    name=sql.Identifier(f"{self._name}_{field.column}"[:63]),
                    column=sql.Identifier(field.column),
                )
        self._columns = [name for name, _ in columns]

    def describe(self, text: str) -> None:
        """See `Sink`."""
        with translated(self.place), self._connection.transaction():
            self._run("DELETE FROM {described}")
            self._run("INSERT INTO {described} VALUES (%s)", [text])

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        names = ["point_id", "vector", *self._columns]
        listed = sql.SQL(", ").join(map(sql.Identifier, names))
        new = sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in names[1:])
        with translated(self.place), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("CREATE TEMP TABLE pushed (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP").format(self._table)
            )
            kinds = self._kinds(cursor)
            with cursor.copy(sql.SQL("COPY pushed ({}) FROM STDIN (FORMAT BINARY)").format(listed)) as copy:
                copy.set_types([kinds[name] for name in names])
                for i in range(len(points)):
                    payload = points.payloads[i]
                    copy.write_row([uuid.UUID(points.ids[i]), points.vectors[i], *map(payload.get, self._columns)])
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {} ({}) SELECT {} FROM pushed ON CONFLICT (point_id) DO UPDATE SET {}"
                ).format(self._table, listed, listed, new)
            )

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._run("DELETE FROM {table} WHERE point_id = ANY(%s::uuid[])", [list(ids)])

    def flush(self) -> None:
        """See `Sink`: every transaction has been committed already."""

    def optimize(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            try:
                self._build_graph()
            except psycopg.errors.DiskFull:  # perhaps only /dev/shm, which is small in containers
                self._build_graph(alone=True)
            self._run("ANALYZE {table}")

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            row = self._run("SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`."""
        with translated(self.place):
            found = self._run("SELECT point_id::text, digest FROM {table}").fetchall()
        yield from found

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        with translated(self.place):
            self._prepare()
            cursor = self._run("SELECT * FROM {table} WHERE point_id = ANY(%s::uuid[])", [list(ids)])
            rows = self._rows(cursor)
        return {str(row["point_id"]): Point(_vector(row["vector"]), _payload(row)) for row in rows}

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        values: list[Any] = [vector]

        def value(each: Scalar) -> str:
            values.append(each)
            return "%s"

        where = "" if condition is None else "WHERE " + sql_of(condition, value, _has, ' COLLATE "C"')
        values += [vector, _SPARE * top_k, top_k]
        with translated(self.place), self._connection.transaction():
            self._prepare()
            self._run(f"SET LOCAL hnsw.ef_search = {min(_LARGEST_EFFORT, max(_EFFORT, _SPARE * top_k))}")
            # Without it a filter is applied to the graph's first answers alone, and most of the hits are missing;
            # in strict order what comes late is left out.
            self._run("SET LOCAL hnsw.iterative_scan = relaxed_order")
            self._run(f"SET LOCAL hnsw.max_scan_tuples = {_SCANNED}")
            self._run("SET LOCAL hnsw.scan_mem_multiplier = 16")
            # `where` is our own words; its values are bound.
            text = (
                "WITH near AS MATERIALIZED (SELECT *, vector <=> %s AS distance FROM {table} WHERE_"
                " ORDER BY vector <=> %s LIMIT %s)"
                " SELECT *, 1 - distance AS score FROM near ORDER BY distance LIMIT %s"
            )
            cursor = self._run(text.replace("WHERE_", where), values)
            rows = self._rows(cursor)
        return [Found(str(row["point_id"]), float(row["score"]), _payload(row)) for row in rows]

    def drop(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._run("DROP TABLE IF EXISTS {table}")
            self._run("DROP TABLE IF EXISTS {described}")

    def close(self) -> None:
        """See `Sink`."""
        self._connection.close()

    def _prepare(self) -> None:
        register_vector(self._connection)

    def _build_graph(self, *, alone: bool = False) -> None:
        """Build the graph, unless it is there. alone: without workers, which would share memory."""
        with self._connection.transaction():
            self._give_memory()
            if alone:
                self._run("SET LOCAL max_parallel_maintenance_workers = 0")
            self._run(
                "CREATE INDEX IF NOT EXISTS {name} ON {table} USING hnsw (vector vector_cosine_ops)",
                name=sql.Identifier(f"{self._name}_hnsw"[:63]),
            )

    def _give_memory(self) -> None:
        """Let the graph be built in memory: one that does not fit there takes three times as long, or more.

        The server's owner says with effective_cache_size how much memory it has; no more than half of it is taken,
        and never less than what is set.
        """
        self._run(
            "SELECT set_config('maintenance_work_mem', greatest(has, least(needs, caches / 2))::text, true) FROM ("
            " SELECT pg_size_bytes(current_setting('maintenance_work_mem')) / 1024 AS has,"
            " pg_size_bytes(current_setting('effective_cache_size')) / 1024 AS caches,"
            " (SELECT count(*) FROM {table})"
            " * (4 * (SELECT vector_dims(vector) FROM {table} LIMIT 1) + {node}) / 1024 AS needs"
            ") AS settings",
            node=sql.Literal(_NODE_BYTES),
        )

    def _exists(self, name: str) -> bool:
        row = self._run("SELECT to_regclass(quote_ident(%s))", [name]).fetchone()
        return row is not None and row[0] is not None

    def _kinds(self, cursor: Any) -> dict[str, int]:
        found = cursor.execute(
            "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'pushed'::regclass AND attnum > 0"
        )
        return dict(found.fetchall())

    def _rows(self, cursor: Any) -> list[dict[str, Any]]:
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _run(self, text: str, values: Sequence[Any] | None = None, **parts: sql.Composable) -> Any:
        """Run a statement. text: our own words, with names in braces, and %s for values."""
        statement = sql.SQL(text).format(table=self._table, described=self._described, **parts)
        return self._connection.execute(statement, values)


def _method(field: Field) -> str:
    return "gin" if field.kind == "texts" else "btree"


def _has(column: str, literal: str) -> str:
    return f"{column} @> ARRAY[{literal}]::text[]"


def _vector(value: Any) -> Vectors:
    return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, np.float32)


def _payload(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if value is not None and name not in ("point_id", "vector", "distance", "score")
    }
