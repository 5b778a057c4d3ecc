"""A stand-in for Pinecone's data plane: its published REST schema, in memory, on 127.0.0.1.

It refuses what the service refuses: batches and metadata that are too large, values that metadata cannot have,
operators that filters do not have. Numbers come back as floating-point ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

__all__ = ["stub_pinecone"]

_PAGE = 7  # ids of a page, fewer than are asked for

Namespaces = dict[str, dict[str, dict[str, Any]]]


class NoNamespaceError(Exception):
    """A namespace that is not there: 404."""


class RefusedError(Exception):
    """A request that the service would answer with 400."""


def meets(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether metadata meets a filter."""
    found = []
    for name, said in wanted.items():
        if name in ("$and", "$or"):
            parts = [meets(metadata, part) for part in said]
            found.append(all(parts) if name == "$and" else any(parts))
        else:
            ((operator, value),) = said.items()
            found.append(_compares(metadata.get(name), operator, value))
    return all(found)


def _compares(held: Any, operator: str, value: Any) -> bool:
    many = held if isinstance(held, list) else [held]
    if operator == "$exists":
        return (held is not None) is value
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RefusedError(f"{operator} takes a number")
        if held is None or isinstance(held, (bool, str, list)):
            return False
        return bool(
            {"$gt": held > value, "$gte": held >= value, "$lt": held < value, "$lte": held <= value}[operator]
        )
    if operator in ("$in", "$nin"):
        if not isinstance(value, list):
            raise RefusedError(f"{operator} takes a list")
        return any(_same(each, one) for each in many for one in value) is (operator == "$in")
    if operator in ("$eq", "$ne"):
        return any(_same(each, value) for each in many) is (operator == "$eq")
    raise RefusedError(f"no operator {operator}")


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) is isinstance(b, bool) and a == b


def _checked(record: dict[str, Any], dim: int) -> dict[str, Any]:
    metadata = record.get("metadata", {})
    if len(record["values"]) != dim or not any(record["values"]):
        raise RefusedError(f"a vector that has not {dim} numbers, or only zeros")
    if len(json.dumps(metadata, ensure_ascii=False).encode()) > 40 << 10:
        raise RefusedError("metadata of more than 40 KB")
    for name, value in metadata.items():
        texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if name.startswith("$") or not (texts or isinstance(value, (str, int, float))):
            raise RefusedError(f"metadata {name} is of a kind that is not taken")
    kept = {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in metadata.items()
    }
    return {"id": record["id"], "values": record["values"], "metadata": kept}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    namespaces: Namespaces
    dim: int
    seen: list[tuple[str, int]]

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        text = self.rfile.read(length)
        parts = urlsplit(self.path)
        try:
            if self.headers.get("api-key") != "key":
                raise RefusedError("no key")
            self.seen.append((parts.path, length))
            if length > 2 << 20:
                raise RefusedError("a request of more than 2 MB")
            said = self._said(parts.path, json.loads(text) if text else {}, parse_qs(parts.query))
            status = 200
        except NoNamespaceError as exc:
            status, said = 404, {"code": 5, "message": str(exc), "details": []}
        except (RefusedError, KeyError) as exc:
            status, said = 400, {"code": 3, "message": str(exc), "details": []}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer

    def _said(self, path: str, body: dict[str, Any], query: dict[str, list[str]]) -> Any:
        name = body.get("namespace") or query.get("namespace", [""])[0]
        if path.startswith("/namespaces/"):
            if self.namespaces.pop(path.rpartition("/")[2], None) is None:
                raise NoNamespaceError("Namespace not found")
            return {}
        if path == "/describe_index_stats":
            return {
                "namespaces": {each: {"vectorCount": len(held)} for each, held in self.namespaces.items()},
                "dimension": self.dim,
                "metric": "cosine",
                "totalVectorCount": sum(map(len, self.namespaces.values())),
            }
        if path == "/vectors/upsert":
            if len(body["vectors"]) > 1_000:
                raise RefusedError("more than 1,000 records")
            made = [_checked(record, self.dim) for record in body["vectors"]]
            self.namespaces.setdefault(name, {}).update({record["id"]: record for record in made})
            return {"upsertedCount": len(made)}
        held = self.namespaces.get(name, {})
        if path == "/vectors/delete":
            if name not in self.namespaces:
                raise NoNamespaceError("Namespace not found")
            for each in body["ids"]:
                held.pop(each, None)
            return {}
        if path == "/vectors/fetch":
            return {"vectors": {each: held[each] for each in query["ids"] if each in held}, "namespace": name}
        if path == "/vectors/list":
            start = int(query.get("paginationToken", ["0"])[0])
            end = start + min(_PAGE, int(query["limit"][0]))
            more = {"pagination": {"next": str(end)}} if end < len(held) else {}
            return {"vectors": [{"id": each} for each in sorted(held)[start:end]], "namespace": name} | more
        if path == "/query":
            return {"matches": self._best(held, body), "namespace": name}
        raise RefusedError(f"no path {path}")

    def _best(self, held: dict[str, dict[str, Any]], body: dict[str, Any]) -> list[dict[str, Any]]:
        asked = np.asarray(body["vector"])
        found = []
        for record in held.values():
            if meets(record["metadata"], body.get("filter") or {}):
                values = np.asarray(record["values"])
                score = float(values @ asked / np.linalg.norm(values) / np.linalg.norm(asked))
                found.append({"id": record["id"], "score": score, "metadata": record["metadata"]})
        return sorted(found, key=lambda match: -match["score"])[: body["topK"]]


@contextmanager
def stub_pinecone(dim: int = 16) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Run one -> its address, and the (path, bytes) of every request. The key is `key`."""
    seen: list[tuple[str, int]] = []
    handler = type("Handler", (_Handler,), {"namespaces": {}, "dim": dim, "seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
