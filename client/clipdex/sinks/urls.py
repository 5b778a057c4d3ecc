"""Addresses of collections, and opening what they name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from clipdex.base.errors import InvalidArgument, SinkError
from clipdex.base.extras import needs
from clipdex.sinks.sink import Sink

__all__ = ["FORMS", "names_collection", "open_sink"]

FORMS = (
    "milvus://HOST/COLLECTION",
    "milvus:///FILE.db/COLLECTION",
    "qdrant://HOST/COLLECTION",
    "qdrant:///FOLDER",
    "lancedb:///FOLDER/TABLE",
    "pgvector://USER@HOST/DATABASE/TABLE",
)
_T = TypeVar("_T")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,49}")


@dataclass(frozen=True)
class _Address:
    """A parsed address. host: empty for what lies on this machine. path: its parts, unquoted."""

    text: str
    scheme: str
    secure: bool
    parts: SplitResult
    path: tuple[str, ...]

    @property
    def host(self) -> str:
        return self.parts.hostname or ""

    def port(self, default: int) -> int:
        try:
            port = self.parts.port
        except ValueError:
            port = 0
        if port == 0:
            raise InvalidArgument(f"{self.text}: the port is not a number from 1 to 65535")
        return default if port is None else port

    def name(self, text: str) -> str:
        """Check the name of a collection or table."""
        if not _NAME.fullmatch(text):
            raise InvalidArgument(
                f"{self.text}: {text!r} cannot be the name of a collection; expected a letter, then letters, "
                "digits and underscores, 50 characters at most"
            )
        return text

    def place(self) -> Path:
        """Return the path of a local one, absolute."""
        return Path("/", *self.path) if self.text.split(":", 1)[1].startswith("/") else Path(*self.path).absolute()

    def two(self, form: str) -> tuple[str, str]:
        """Return the two parts of the path, or the host and the only one."""
        if len(self.path) != 2:
            raise InvalidArgument(f"{self.text} is no address of a collection; expected {form}")
        return self.path[0], self.name(self.path[1])

    def one(self, form: str) -> str:
        """Return the only part of the path."""
        if len(self.path) != 1:
            raise InvalidArgument(f"{self.text} is no address of a collection; expected {form}")
        return self.name(self.path[0])


def open_sink(url: str) -> Sink:
    """Open the collection at an address, one of `FORMS`; it need not exist yet.

    Keys and passwords come from the environment, as docs/vector-databases.md lists.

    Raises:
        InvalidArgument: the address has none of these forms.
        MissingExtra: the client's package is not installed.
        SinkError: nothing answers there.
    """
    address = _parsed(url)
    return _OPENERS[address.scheme](address)


def names_collection(text: str) -> bool:
    """Return whether a text has the form of an address of a collection, not of a path."""
    scheme, _, rest = text.partition("://")
    return bool(rest) and scheme.partition("+")[0] in _OPENERS


def _parsed(url: str) -> _Address:
    forms = ", ".join(FORMS)
    try:
        parts = urlsplit(url)
        parts.hostname  # noqa: B018 - it raises for a broken IPv6 address
    except ValueError as exc:
        raise InvalidArgument(f"{url} is no address of a collection: {exc}; expected one of {forms}") from exc
    scheme, _, how = parts.scheme.partition("+")
    if scheme not in _OPENERS or how not in ("", "https") or parts.query or parts.fragment:
        raise InvalidArgument(f"{url} is no address of a collection; expected one of {forms}")
    if parts.password:
        raise InvalidArgument(
            f"{url.replace(parts.password, '…')} has a password, which other users can see in the list of "
            "processes: give it in the environment"
        )
    path = tuple(unquote(part) for part in parts.path.split("/") if part)
    return _Address(url, scheme, how == "https", parts, path)


def _qdrant(address: _Address) -> Sink:
    if not address.host:
        from clipdex.sinks.qdrant_edge_sink import QdrantEdgeSink

        if not address.path:
            raise InvalidArgument(f"{address.text} names no folder; expected qdrant:///FOLDER")
        return QdrantEdgeSink(address.place())
    collection = address.one("qdrant://HOST/COLLECTION")
    from clipdex.sinks.qdrant_sink import QdrantSink

    with needs("qdrant_client", "qdrant-client", "qdrant", "Qdrant"):
        from qdrant_client import QdrantClient
    port = address.port(6333)
    place = f"the collection {collection} of Qdrant at {address.host}:{port}"
    client = _connected(
        place,
        lambda: QdrantClient(
            host=address.host,
            port=port,
            https=address.secure,
            api_key=os.environ.get("QDRANT_API_KEY"),
            timeout=60,
            check_compatibility=False,
        ),
    )
    return QdrantSink(client, collection, place)


def _milvus(address: _Address) -> Sink:
    with needs("pymilvus", "pymilvus", "milvus", "Milvus"):
        from pymilvus import MilvusClient
    from clipdex.sinks.milvus_sink import MilvusSink

    if not address.host:
        file = address.place().parent
        if file.suffix != ".db":
            raise InvalidArgument(f"{address.text} is no address; expected milvus:///FILE.db/COLLECTION")
        collection = address.name(address.path[-1])
        place = f"the collection {collection} of Milvus Lite in {file}"
        return MilvusSink(_connected(place, lambda: MilvusClient(str(file))), collection, place)
    collection = address.one("milvus://HOST/COLLECTION")
    port = address.port(19530)
    place = f"the collection {collection} of Milvus at {address.host}:{port}"
    uri = f"{'https' if address.secure else 'http'}://{address.host}:{port}"
    token = os.environ.get("MILVUS_TOKEN", "")
    return MilvusSink(_connected(place, lambda: MilvusClient(uri=uri, token=token, timeout=60)), collection, place)


def _lancedb(address: _Address) -> Sink:
    from clipdex.sinks.lancedb_sink import LanceSink

    if address.host or len(address.path) < 2:
        raise InvalidArgument(f"{address.text} is no address; expected lancedb:///FOLDER/TABLE")
    return LanceSink(address.place().parent, address.name(address.path[-1]))


def _pgvector(address: _Address) -> Sink:
    database, table = address.two("pgvector://USER@HOST/DATABASE/TABLE")
    from clipdex.sinks.pgvector_sink import PgvectorSink

    with needs("psycopg", "psycopg", "pgvector", "PostgreSQL"):
        import psycopg
    user = unquote(address.parts.username) if address.parts.username else None
    port = address.port(5432)
    where = f"{address.host}:{port}" if address.host else os.environ.get("PGHOST", "this machine")
    place = f"the table {table} of PostgreSQL at {where}"
    asked = {"host": address.host or None, "port": port, "user": user, "dbname": database, "connect_timeout": 10}
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return PgvectorSink(_connected(place, lambda: psycopg.connect(**given)), table, place)


def _weaviate(address: _Address) -> Sink:
    collection = address.one("weaviate://HOST/COLLECTION")
    if not address.host:
        raise InvalidArgument(f"{address.text} names no host; expected weaviate://HOST/COLLECTION")
    port = address.port(443 if address.secure else 8080)
    from clipdex.sinks.weaviate_sink import WeaviateSink

    with needs("weaviate", "weaviate-client", "weaviate", "Weaviate"):
        import weaviate
    said = os.environ.get("WEAVIATE_GRPC_PORT", "443" if address.secure else "50051")
    if not said.isdecimal():
        raise InvalidArgument(f"WEAVIATE_GRPC_PORT is {said!r:.40}; expected a number")
    place = f"the collection {collection} of Weaviate at {address.host}:{port}"

    def connect() -> Any:
        return weaviate.connect_to_custom(
            http_host=address.host,
            http_port=port,
            http_secure=address.secure,
            grpc_host=os.environ.get("WEAVIATE_GRPC_HOST", address.host),
            grpc_port=int(said),
            grpc_secure=address.secure,
            auth_credentials=os.environ.get("WEAVIATE_API_KEY") or None,
            skip_init_checks=True,  # which would ask PyPI for the client's newest version
        )

    return WeaviateSink(_connected(place, connect), collection, place)


def _pinecone(address: _Address) -> Sink:
    """An index by name, which the service resolves, or by its own host."""
    namespace = address.one("pinecone://INDEX/NAMESPACE")
    from clipdex.sinks.pinecone_sink import PineconeSink

    with needs("pinecone", "pinecone", "pinecone", "Pinecone"):
        from pinecone import Pinecone
    key = os.environ.get("PINECONE_API_KEY")
    if not key or not address.host:
        lacking = "an index" if key else "a key, which PINECONE_API_KEY gives"
        raise InvalidArgument(f"{address.text}: Pinecone needs {lacking}; expected pinecone://INDEX/NAMESPACE")
    place = f"the namespace {namespace} of the Pinecone index {address.host}"
    named = {"host": f"https://{address.parts.netloc}"} if "." in address.host else {"name": address.host}
    return PineconeSink(_connected(place, lambda: Pinecone(api_key=key).index(**named)), namespace, place)


_OPENERS: dict[str, Callable[[_Address], Sink]] = {
    "qdrant": _qdrant,
    "milvus": _milvus,
    "lancedb": _lancedb,
    "pgvector": _pgvector,
    "weaviate": _weaviate,
    "pinecone": _pinecone,
}


def _connected(place: str, connect: Callable[[], _T]) -> _T:
    try:
        return connect()
    except Exception as exc:
        raise SinkError(f"{place} cannot be reached: {' '.join(str(exc).split()):.300}") from exc
