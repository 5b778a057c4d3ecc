"""Addresses of collections: their forms, what they open, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from clipdex.base.errors import InvalidArgument, MissingExtra, SinkError
from clipdex.sinks.urls import FORMS, open_sink

pytestmark = pytest.mark.thin

# Sink modules, their classes, and the clients that are called for them.
_SINKS = {
    "qdrant_sink": "QdrantSink",
    "qdrant_edge_sink": "QdrantEdgeSink",
    "milvus_sink": "MilvusSink",
    "lancedb_sink": "LanceSink",
    "pgvector_sink": "PgvectorSink",
    "weaviate_sink": "WeaviateSink",
    "pinecone_sink": "PineconeSink",
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """No client and no adapter: what each was made with."""
    seen: dict[str, Any] = {}

    def noted(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> str:
            seen[name] = kwargs if kwargs else args
            return name

        return call

    for module, name in _SINKS.items():
        made = ModuleType(module)
        setattr(made, name, noted(name))
        monkeypatch.setitem(sys.modules, f"clipdex.sinks.{module}", made)
    for module, name in {
        "qdrant_client": "QdrantClient", "pymilvus": "MilvusClient", "psycopg": "connect",
        "weaviate": "connect_to_custom",
    }.items():  # fmt: skip
        made = ModuleType(module)
        setattr(made, name, noted(name))
        monkeypatch.setitem(sys.modules, module, made)
    made = ModuleType("pinecone")
    made.Pinecone = lambda api_key: SimpleNamespace(index=noted("index"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pinecone", made)
    for name in ("QDRANT_API_KEY", "MILVUS_TOKEN", "PGHOST", "PINECONE_API_KEY", "WEAVIATE_API_KEY",
                 "WEAVIATE_GRPC_HOST", "WEAVIATE_GRPC_PORT"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return seen


def test_an_address_of_qdrant_names_host_port_and_collection(opened, monkeypatch):
    open_sink("qdrant://db1/photos")
    assert opened["QdrantSink"] == ("QdrantClient", "photos", "the collection photos of Qdrant at db1:6333")
    given = opened["QdrantClient"]
    assert (given["host"], given["port"], given["https"], given["api_key"]) == ("db1", 6333, False, None)
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    open_sink("qdrant+https://[::1]:99/photos")
    given = opened["QdrantClient"]
    assert (given["host"], given["port"], given["https"], given["api_key"]) == ("::1", 99, True, "secret")


def test_an_address_of_milvus_names_host_port_and_collection(opened, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
    open_sink("milvus+https://db1:20000/photos")
    assert opened["MilvusClient"] == {"uri": "https://db1:20000", "token": "root:Milvus", "timeout": 60}
    assert opened["MilvusSink"][1:] == ("photos", "the collection photos of Milvus at db1:20000")
    open_sink("milvus://db1/photos")
    assert opened["MilvusClient"]["uri"] == "http://db1:19530"


def test_an_address_of_postgresql_names_user_host_and_table(opened):
    open_sink("pgvector://me%40x@db1/house/photos")
    assert opened["connect"] == {
        "host": "db1", "port": 5432, "user": "me@x", "dbname": "house", "connect_timeout": 10,
    }  # fmt: skip
    assert opened["PgvectorSink"][1:] == ("photos", "the table photos of PostgreSQL at db1:5432")
    open_sink("pgvector:///house/photos")
    assert opened["connect"] == {"port": 5432, "dbname": "house", "connect_timeout": 10}


def test_an_address_of_weaviate_names_host_port_and_collection(opened, monkeypatch):
    open_sink("weaviate://db1/photos")
    given = opened["connect_to_custom"]
    assert (given["http_host"], given["http_port"], given["http_secure"]) == ("db1", 8080, False)
    assert (given["grpc_host"], given["grpc_port"], given["grpc_secure"]) == ("db1", 50051, False)
    assert given["auth_credentials"] is None and given["skip_init_checks"]
    monkeypatch.setenv("WEAVIATE_API_KEY", "secret")
    monkeypatch.setenv("WEAVIATE_GRPC_HOST", "grpc-db1")
    open_sink("weaviate+https://db1/photos")
    given = opened["connect_to_custom"]
    assert (given["http_port"], given["grpc_host"], given["grpc_port"]) == (443, "grpc-db1", 443)
    assert given["auth_credentials"] == "secret"
    assert opened["WeaviateSink"][1:] == ("photos", "the collection photos of Weaviate at db1:443")
    monkeypatch.setenv("WEAVIATE_GRPC_PORT", "x")
    with pytest.raises(InvalidArgument, match="WEAVIATE_GRPC_PORT is 'x'; expected a number"):
        open_sink("weaviate://db1/photos")


def test_an_address_of_pinecone_names_an_index_or_its_host_and_needs_a_key(opened, monkeypatch):
    with pytest.raises(InvalidArgument, match="needs a key, which PINECONE_API_KEY gives"):
        open_sink("pinecone://photos/one")
    monkeypatch.setenv("PINECONE_API_KEY", "key")
    with pytest.raises(InvalidArgument, match="needs an index; expected pinecone://INDEX/NAMESPACE"):
        open_sink("pinecone:///one")
    open_sink("pinecone://my-photos/one")
    assert opened["index"] == {"name": "my-photos"}
    assert opened["PineconeSink"][1:] == ("one", "the namespace one of the Pinecone index my-photos")
    open_sink("pinecone://photos-1.svc.pinecone.io/one")
    assert opened["index"] == {"host": "https://photos-1.svc.pinecone.io"}


def test_two_slashes_and_a_third_name_a_path_of_this_machine(opened):
    open_sink("qdrant:///data/my%20shard")
    assert opened["QdrantEdgeSink"] == (Path("/data/my shard"),)
    open_sink("lancedb:///data/lance/photos")
    assert opened["LanceSink"] == (Path("/data/lance"), "photos")
    open_sink("milvus:///data/lite.db/photos")
    assert opened["MilvusClient"] == ("/data/lite.db",)
    assert opened["MilvusSink"][1:] == ("photos", "the collection photos of Milvus Lite in /data/lite.db")


@pytest.mark.parametrize(
    "url",
    [
        "photos", "http://db1/photos", "qdrant", "qdrant+http://db1/photos", "qdrant+tls://db1/photos",
        "qdrant://db1/photos?x=1", "qdrant://db1/photos#x", "qdrant://[::1/photos", "://db1/photos", "",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_forms(opened, url):
    with pytest.raises(InvalidArgument, match="is no address of a collection") as refused:
        open_sink(url)
    assert all(form in str(refused.value) for form in FORMS) and not opened


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("qdrant://db1", "qdrant://HOST/COLLECTION"),
        ("qdrant://db1/a/b", "qdrant://HOST/COLLECTION"),
        ("qdrant://", "qdrant:///FOLDER"),
        ("milvus://db1/a/b", "milvus://HOST/COLLECTION"),
        ("milvus:///data/lite/photos", "milvus:///FILE.db/COLLECTION"),
        ("milvus://", "milvus:///FILE.db/COLLECTION"),
        ("milvus:///lite.db", "milvus:///FILE.db/COLLECTION"),
        ("lancedb://db1/photos", "lancedb:///FOLDER/TABLE"),
        ("lancedb:///photos", "lancedb:///FOLDER/TABLE"),
        ("pgvector://db1/photos", "pgvector://USER@HOST/DATABASE/TABLE"),
        ("pgvector://db1/a/b/c", "pgvector://USER@HOST/DATABASE/TABLE"),
    ],
)
def test_an_address_with_a_part_too_few_or_too_many_is_refused_with_its_form(opened, url, form):
    with pytest.raises(InvalidArgument) as refused:
        open_sink(url)
    assert f"expected {form}" in str(refused.value) and not opened


@pytest.mark.parametrize(
    "url",
    [
        "qdrant://db1/1a", "milvus://db1/my-photos", "pgvector://db1/house/a;b", "lancedb:///data/..",
        "qdrant://db1/" + "a" * 51, "milvus:///lite.db/a%22", "weaviate://db1/a-b", "pinecone://photos/a-b",
    ],
)  # fmt: skip
def test_a_name_that_not_every_database_takes_is_refused(opened, url):
    with pytest.raises(InvalidArgument, match="cannot be the name of a collection; expected a letter"):
        open_sink(url)


@pytest.mark.parametrize("url", ["qdrant://db1:70000/a", "milvus://db1:x/a", "pgvector://db1:-1/h/a",
                                 "qdrant://db1:0/a"])  # fmt: skip
def test_a_port_that_is_none_is_refused(opened, url):
    with pytest.raises(InvalidArgument, match="the port is not a number from 1 to 65535"):
        open_sink(url)


def test_a_password_is_refused_and_not_shown(opened):
    with pytest.raises(InvalidArgument, match="give it in the environment") as refused:
        open_sink("pgvector://me:se%2Fcret@db1/house/photos")
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("qdrant://db1/a", "qdrant_client", "qdrant"),
        ("qdrant:///a", "qdrant_edge", "qdrant"),
        ("milvus://db1/a", "pymilvus", "milvus"),
        ("lancedb:///a/b", "lancedb", "lancedb"),
        ("pgvector://db1/h/a", "psycopg", "pgvector"),
        ("weaviate://db1/a", "weaviate", "weaviate"),
        ("pinecone://i/a", "pinecone", "pinecone"),
    ],
)
def test_a_client_that_is_not_installed_is_said_with_its_extra(monkeypatch, url, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    for name in _SINKS:
        monkeypatch.delitem(sys.modules, f"clipdex.sinks.{name}", raising=False)
    with pytest.raises(MissingExtra, match=rf"needs .*\[{extra}\]"):
        open_sink(url)


def test_a_server_that_does_not_answer_is_one_sentence(opened, monkeypatch):
    def refuse(**_: Any) -> None:
        raise OSError("Connection\n refused")

    monkeypatch.setattr(sys.modules["psycopg"], "connect", refuse)
    with pytest.raises(SinkError) as failed:
        open_sink("pgvector://db1/house/photos")
    assert str(failed.value) == "the table photos of PostgreSQL at db1:5432 cannot be reached: Connection refused"
