"""A stand-in for a Weaviate server: its published REST and gRPC schema, in memory, on 127.0.0.1.

The messages are those of the client's own package. Only what the adapter sends is answered. Filters have the
meaning that Weaviate documents; one on a property without a filterable index, or by null without that state, is
refused.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from weaviate.proto.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

__all__ = ["stub_weaviate"]

_F = base_pb2.Filters
_VALUES = ("value_text", "value_int", "value_boolean", "value_number")


class RefusedError(Exception):
    """A request that the service would refuse."""


class Collections:
    """What is there: of each collection its schema and its objects by id."""

    def __init__(self) -> None:
        self.schemas: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, dict[str, tuple[np.ndarray | None, dict[str, Any]]]] = {}

    def create(self, schema: dict[str, Any]) -> None:
        name = schema["class"]
        if name in self.schemas or not name[0].isupper():
            raise RefusedError(f"no collection {name} can be made")
        for each in schema.get("properties", []):
            if each["name"] in ("id", "vector", "_additional"):
                raise RefusedError(f"{each['name']} is a reserved property name")
            if each.get("indexRangeFilters") and each["dataType"] != ["number"]:
                raise RefusedError("only numbers have an index of ranges")
            if each.get("indexSearchable") and each["dataType"][0] not in ("text", "text[]"):
                raise RefusedError("only texts can be searchable")
        for vector in schema["vectorConfig"].values():
            assert vector["vectorizer"] == {"none": {}}
        self.schemas[name], self.objects[name] = schema, {}

    def keep(self, name: str, one: Any) -> None:
        said = MessageToDict(one.properties.non_ref_properties)
        for each in one.properties.text_array_properties:
            said[each.prop_name] = list(each.values)
        kinds = {each["name"]: each["dataType"][0] for each in self.schemas[name]["properties"]}
        for key, value in said.items():
            if not _is_of(value, kinds.get(key, "")):
                raise RefusedError(f"invalid value of property {key}")
        vector = np.frombuffer(one.vectors[0].vector_bytes, "<f4") if one.vectors else None
        self.objects[name][str(uuid.UUID(one.uuid))] = (vector, said)

    def chosen(self, name: str, filters: Any | None) -> dict[str, tuple[np.ndarray | None, dict[str, Any]]]:
        held = self.objects[name]
        if filters is None:
            return dict(held)
        schema = self.schemas[name]
        return {each: one for each, one in held.items() if _meets(schema, each, one[1], filters)}


def _is_of(value: Any, kind: str) -> bool:
    if kind == "text[]":
        return isinstance(value, list)
    return isinstance(value, {"number": float, "text": str, "boolean": bool}.get(kind, ()))


def _meets(schema: dict[str, Any], name: str, said: dict[str, Any], wanted: Any) -> bool:
    if wanted.operator in (_F.OPERATOR_AND, _F.OPERATOR_OR):
        parts = [_meets(schema, name, said, each) for each in wanted.filters]
        return all(parts) if wanted.operator == _F.OPERATOR_AND else any(parts)
    key = wanted.target.property
    if key == "_id":
        assert wanted.operator == _F.OPERATOR_CONTAINS_ANY
        return name in {str(uuid.UUID(each)) for each in wanted.value_text_array.values}
    (about,) = [each for each in schema["properties"] if each["name"] == key]
    if not about.get("indexFilterable"):
        raise RefusedError(f"{key} has no filterable index")
    held = said.get(key)
    if wanted.operator == _F.OPERATOR_IS_NULL:
        if not schema["invertedIndexConfig"].get("indexNullState"):
            raise RefusedError("the state of null is not indexed")
        return (held is None) is wanted.value_boolean
    if wanted.operator in (_F.OPERATOR_CONTAINS_ANY, _F.OPERATOR_CONTAINS_NONE):
        many = set(held if isinstance(held, list) else [held])
        some = bool(many & {*wanted.value_text_array.values, *wanted.value_boolean_array.values,
                            *wanted.value_number_array.values})  # fmt: skip
        return some is (wanted.operator == _F.OPERATOR_CONTAINS_ANY)
    (value,) = [getattr(wanted, each) for each in _VALUES if wanted.WhichOneof("test_value") == each]
    if not _is_of(value, about["dataType"][0]):
        raise RefusedError(f"{key} is compared with a value of another kind")
    if wanted.operator == _F.OPERATOR_EQUAL:
        return bool(held == value)
    if wanted.operator == _F.OPERATOR_NOT_EQUAL:
        return bool(held != value)  # null included: what the service does there is not said
    if held is None:
        return False
    return bool({
        _F.OPERATOR_LESS_THAN: held < value, _F.OPERATOR_LESS_THAN_EQUAL: held <= value,
        _F.OPERATOR_GREATER_THAN: held > value, _F.OPERATOR_GREATER_THAN_EQUAL: held >= value,
    }[wanted.operator])  # fmt: skip


class _Service(weaviate_pb2_grpc.WeaviateServicer):
    """The gRPC side."""

    def __init__(self, there: Collections) -> None:
        self._there = there

    def BatchObjects(self, request: Any, context: Any) -> Any:
        errors = []
        for i, one in enumerate(request.objects):
            try:
                self._there.keep(one.collection, one)
            except RefusedError as exc:
                errors.append(batch_pb2.BatchObjectsReply.BatchError(index=i, error=str(exc)))
        return batch_pb2.BatchObjectsReply(took=0.1, errors=errors)

    def BatchDelete(self, request: Any, context: Any) -> Any:
        gone = self._there.chosen(request.collection, request.filters)
        for each in gone:
            del self._there.objects[request.collection][each]
        return batch_delete_pb2.BatchDeleteReply(took=0.1, matches=len(gone), successful=len(gone))

    def Aggregate(self, request: Any, context: Any) -> Any:
        count = len(self._there.objects[request.collection])
        single = aggregate_pb2.AggregateReply.Single(objects_count=count)
        return aggregate_pb2.AggregateReply(took=0.1, single_result=single)

    def Search(self, request: Any, context: Any) -> Any:
        try:
            found = self._there.chosen(
                request.collection, request.filters if request.HasField("filters") else None
            )
        except RefusedError as exc:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
            raise
        scored: list[tuple[float, str]] = [(0.0, each) for each in sorted(found)]
        if request.HasField("near_vector"):
            near = request.near_vector
            asked = np.frombuffer(near.vectors[0].vector_bytes if near.vectors else near.vector_bytes, "<f4")
            assert list(near.targets.target_vectors) == list(
                self._there.schemas[request.collection]["vectorConfig"]
            )
            scored = sorted((1.0 - _cosine(found[each][0], asked), each) for each in found)
        elif request.after:
            scored = [one for one in scored if one[1] > request.after]
        results = []
        for distance, each in scored[: request.limit or 10]:
            vector, said = found[each]
            meta = search_get_pb2.MetadataResult(id=each, id_as_bytes=uuid.UUID(each).bytes)
            meta.distance, meta.distance_present = distance, request.metadata.distance
            wants = request.metadata.vector or request.metadata.vectors
            if wants and vector is not None:
                kind = base_pb2.Vectors.VECTOR_TYPE_SINGLE_FP32
                (named,) = self._there.schemas[request.collection]["vectorConfig"]
                meta.vectors.append(base_pb2.Vectors(name=named, vector_bytes=vector.tobytes(), type=kind))
            fields = {key: _as_value(value) for key, value in said.items()}
            props = search_get_pb2.PropertiesResult(
                target_collection=request.collection, non_ref_props=properties_pb2.Properties(fields=fields)
            )
            results.append(search_get_pb2.SearchResult(properties=props, metadata=meta))
        return search_get_pb2.SearchReply(took=0.1, results=results)


def _cosine(a: Any, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _as_value(value: Any) -> Any:
    if isinstance(value, list):
        texts = properties_pb2.TextValues(values=value)
        return properties_pb2.Value(list_value=properties_pb2.ListValue(text_values=texts))
    if isinstance(value, bool):
        return properties_pb2.Value(bool_value=value)
    return (
        properties_pb2.Value(text_value=value)
        if isinstance(value, str)
        else properties_pb2.Value(number_value=value)
    )


class _Health(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")  # status: SERVING


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    there: Collections

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("content-length") or 0))
        name = self.path.partition("/v1/schema/")[2]
        status = 200
        said: dict[str, Any] = {}
        try:
            if self.path == "/v1/meta":
                said = {"version": "1.34.0", "hostname": "stub", "modules": {}}
            elif self.path == "/v1/schema" and self.command == "POST":
                said = json.loads(text)
                self.there.create(said)
            elif name and self.command == "GET":
                if name not in self.there.schemas:
                    status = 404
                said = self.there.schemas.get(name, {})
            elif name and self.command == "DELETE":
                self.there.schemas.pop(name, None)
                self.there.objects.pop(name, None)
            else:
                status = 404
        except RefusedError as exc:
            status, said = 422, {"error": [{"message": str(exc)}]}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer


@contextmanager
def stub_weaviate() -> Iterator[tuple[int, int]]:
    """Run one -> its ports of HTTP and of gRPC."""
    there = Collections()
    handler = type("Handler", (_Handler,), {"there": there})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    thread = Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    rpc = grpc.server(ThreadPoolExecutor(2))
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(_Service(there), rpc)
    rpc.add_generic_rpc_handlers((_Health(),))
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    try:
        yield http.server_port, port
    finally:
        rpc.stop(None).wait()
        http.shutdown()
        thread.join()
        http.server_close()
