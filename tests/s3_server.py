"""A small server that speaks as much S3 as clipdex needs: lists in pages, If-Match, ranges, PUT, deleting."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import pytest

from clipdex.sources import object_store

BUCKET = "pictures"


@contextmanager
def serving_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Serve a bucket for a test: by the environment, without settings of this machine's, and with one retry."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setitem(object_store.RETRIES, "max_retries", 1)
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


class S3Server:
    """One bucket, `BUCKET`, on a free port of 127.0.0.1. Use it in a `with`.

    latency_s: seconds before each answer. asked: the number of requests by kind. at_once, heads_at_once: the most
    GETs, HEADs together. refuse: given (kind, key), returns the (status, code) of an error, or None. page: objects
    of a listing's page. spans: (key, start, end) of each GET of a range; unmatched: the
    number of these without If-Match.
    """

    def __init__(self, *, latency_s: float = 0.0, page: int = 1000) -> None:
        self.objects: dict[str, tuple[bytes, datetime, str]] = {}
        self.spans: list[tuple[str, int, int]] = []  # of GETs with a range
        self.unmatched = 0
        self.latency_s = latency_s
        self.page = page
        self.asked: Counter[str] = Counter()
        self.at_once = self._now = 0
        self.heads_at_once = self._heads = 0
        self.refuse: Callable[[str, str], tuple[int, str] | None] = lambda kind, key: None
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._answer(self)

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a client."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def put(self, key: str, data: bytes, when: datetime | None = None) -> None:
        """Store an object, with the ETag that S3 would give it."""
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        self.objects[key] = (data, when or datetime.now(timezone.utc), tag)

    def _answer(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers.get("Content-Length", 0)))
        url = urlsplit(asked.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        kind = "DELETE" if asked.command == "POST" else asked.command if key else "LIST"
        with self._lock:
            self.asked[kind] += 1
            self._now += kind == "GET"
            self.at_once = max(self.at_once, self._now)
            self._heads += kind == "HEAD"
            self.heads_at_once = max(self.heads_at_once, self._heads)
        time.sleep(self.latency_s)
        with self._lock:  # before the answer: the client may ask again at once
            self._now -= kind == "GET"
            self._heads -= kind == "HEAD"
        if (refused := self.refuse(kind, key)) is not None:
            _send_error(asked, *refused)
        elif bucket != BUCKET:
            _send_error(asked, 404, "NoSuchBucket")
        elif asked.command == "POST":  # of many together, which is how obstore deletes
            gone = [unescape(each) for each in re.findall(r"<Key>(.*?)</Key>", body.decode())]
            for each in gone:
                self.objects.pop(each, None)
            deleted = "".join(f"<Deleted><Key>{escape(each)}</Key></Deleted>" for each in gone)
            _send(asked, 200, f"<DeleteResult>{deleted}</DeleteResult>")
        elif kind == "LIST":
            self._list(asked, parse_qs(url.query))
        elif asked.command == "PUT":
            self._put(asked, key, body)
        else:
            self._object(asked, key)

    def _object(self, asked: BaseHTTPRequestHandler, key: str) -> None:
        found = self.objects.get(key)
        if found is None:
            _send_error(asked, 404, "NoSuchKey")
            return
        data, when, tag = found
        if asked.headers.get("If-Match", tag) != tag:
            _send_error(asked, 412, "PreconditionFailed")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("Range", ""))
        asked.send_response(206 if wanted else 200)
        if wanted:
            start, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            asked.send_header("Content-Range", f"bytes {start}-{last}/{len(data)}")
            data = data[start : last + 1]
            self.spans.append((key, start, last + 1))
            self.unmatched += "If-Match" not in asked.headers
        asked.send_header("Content-Length", str(len(data)))
        asked.send_header("ETag", tag)
        asked.send_header("Last-Modified", format_datetime(when.replace(microsecond=0), usegmt=True))
        asked.end_headers()
        if asked.command == "GET":
            asked.wfile.write(data)

    def _put(self, asked: BaseHTTPRequestHandler, key: str, data: bytes) -> None:
        if asked.headers.get("If-None-Match") == "*" and key in self.objects:
            _send_error(asked, 412, "PreconditionFailed")
            return
        self.put(key, data)
        asked.send_response(200)
        asked.send_header("Content-Length", "0")
        asked.send_header("ETag", self.objects[key][2])
        asked.end_headers()

    def _list(self, asked: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        more = len(keys) > self.page
        keys = keys[: self.page]
        lines = []
        for key in keys:
            data, when, tag = self.objects[key]
            stamp = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            lines.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified>"
                f"<ETag>{escape(tag)}</ETag><Size>{len(data)}</Size></Contents>"
            )
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        _send(
            asked,
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(lines)}"
            "</ListBucketResult>",
        )

    def __enter__(self) -> S3Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _send_error(asked: BaseHTTPRequestHandler, status: int, code: str) -> None:
    _send(asked, status, f"<Error><Code>{code}</Code><Message>as asked</Message></Error>")


def _send(asked: BaseHTTPRequestHandler, status: int, text: str) -> None:
    data = text.encode()
    asked.send_response(status)
    asked.send_header("Content-Type", "application/xml")
    asked.send_header("Content-Length", str(len(data)))
    asked.end_headers()
    if asked.command != "HEAD":
        asked.wfile.write(data)
