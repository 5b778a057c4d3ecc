"""A model hub on 127.0.0.1: serves directories as repositories, in the calls that the hub's client makes.

Files from 1 kB on are kept as the hub keeps large ones: outside of git, with their sha256, and served in ranges.
It can cut connections, flip bytes, and count what it was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000  # bytes


class SmallHub(ThreadingHTTPServer):
    """repositories: "owner/name" -> its directory.

    cut_after: the next GET of each of these files is cut after so many bytes. stall_after: it stops there and
    waits, having set `stalled`, until the hub ends. damaged: files of which every GET has its first byte flipped.
    token: what requests have to bear. elsewhere: large files are on another host, to which requests are sent, and
    which takes no token. stated: what the list of a repository's files says of each large one, in place of the
    truth. asked: (file, the range asked for) of each GET; tokens: what requests bore; lists: how often the files
    were listed.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.cut_after: dict[str, int] = {}
        self.stall_after: dict[str, int] = {}
        self.stalled = Event()
        self.ended = Event()
        self.damaged: set[str] = set()
        self.token: str | None = None
        self.elsewhere = False
        self.stated: dict[str, dict[str, object]] = {}
        self.lists = 0
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: set[str | None] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a process that uses this hub, with a cache of its own."""
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **more,
        }


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[SmallHub]:
    with SmallHub(repositories) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.ended.set()
            hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def log_message(self, *args: object) -> None:
        pass

    def _respond(self) -> None:
        token = self.headers.get("authorization")
        self.server.tokens.add(token)
        there = self.path.startswith("/elsewhere/")
        if there and token is not None:
            return self._send(400, b"", {})
        self.path = self.path.removeprefix("/elsewhere")
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, what, _, *file = [*(parts[2:] if api else parts), "", "", "", ""]
        directory = self.server.repositories.get(f"{owner}/{name}")
        if directory is None or (self.server.token and not there and token != f"Bearer {self.server.token}"):
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        if api and what != "tree":
            siblings = [{"rfilename": str(path.relative_to(directory))} for path in paths]
            return self._send_json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings})
        if api:
            self.server.lists += 1
            stated = self.server.stated.get(f"{owner}/{name}", {})
            return self._send_json([_entry(path, directory, stated) for path in paths])
        wanted = "/".join(part for part in file if part)
        if not (directory / wanted).is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        data = (directory / wanted).read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_checksum(data)}"', "Accept-Ranges": "bytes"}
        if self.server.elsewhere and not there and len(data) >= LARGE:
            address = f"http://localhost:{self.server.server_port}/elsewhere{self.path}"
            linked = {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(data)), "Location": address}
            return self._send(302, b"", headers | linked)
        if self.command == "HEAD":
            return self._send(200, data, headers)
        span = self.headers.get("range")
        self.server.asked.append((wanted, span))
        if wanted in self.server.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        status = 200
        if span is not None:
            begin = int(re.fullmatch(r"bytes=(\d+)-", span)[1])  # type: ignore[index]
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            data, status = data[begin:], 206
        cut = self.server.cut_after.pop(wanted, None)
        stall = self.server.stall_after.pop(wanted, None)
        self._send(status, data, headers, cut if stall is None else stall, stall is not None)

    def _send_json(self, value: object) -> None:
        self._send(
            200, json.dumps(value).replace("Infinity", "1e400").encode(), {"Content-Type": "application/json"}
        )

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None, stall: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data if cut is None else data[:cut])
        if stall:
            self.server.stalled.set()
            self.server.ended.wait(60)
        if cut is not None:
            self.close_connection = True


def _entry(path: Path, directory: Path, stated: dict[str, object]) -> dict[str, object]:
    data = path.read_bytes()
    entry: dict[str, object] = {"type": "file", "path": str(path.relative_to(directory)), "size": len(data)}
    entry["oid"] = _git_sha1(data)
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": _checksum(data), "size": len(data), "pointerSize": 130} | stated
    return entry


def _checksum(data: bytes) -> str:
    """What the hub calls the ETag: the sha256 of large files, git's sha1 of small ones."""
    return hashlib.sha256(data).hexdigest() if len(data) >= LARGE else _git_sha1(data)


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
