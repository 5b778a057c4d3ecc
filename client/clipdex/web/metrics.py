"""Metrics of an application in Prometheus' format, and the middleware that measures its requests.

Every label has few values: routes are named by their templates, never by what a client asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["NOTES", "Measuring", "Metrics", "note"]

NOTES = "clipdex_notes"  # in a request's state: what its route has to tell
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_SEARCHES = frozenset(("/v1/search", "/v1/similar"))
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = held = CollectorRegistry()
        route = ("route", "method")
        self.requests = Counter("clipdex_http_requests", "Requests answered.", (*route, "status"), registry=held)
        self.seconds = Histogram(
            "clipdex_http_request_seconds",
            "Time until a request was answered.",
            route,
            buckets=_SECONDS,
            registry=held,
        )
        self.in_flight = Gauge("clipdex_http_requests_in_flight", "Requests being answered.", registry=held)
        self.searches = Counter("clipdex_searches", "Searches answered with hits.", registry=held)
        self.added = Counter("clipdex_items_added", "Items added or replaced.", registry=held)
        self.decode_failures = Counter(
            "clipdex_decode_failures", "Pictures that cannot be decoded.", registry=held
        )
        self.pictures = Gauge("clipdex_index_pictures", "Pictures of an index.", ("index",), registry=held)
        self.ready = Gauge("clipdex_index_ready", "Whether an index can be read.", ("index",), registry=held)
        self.server_ready = Gauge(
            "clipdex_server_ready", "Whether the inference server has its model ready.", registry=held
        )

    def text(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))


def note(state: Any, **counts: int) -> None:
    """Count what a request did: items `added`, `decode_failures`. state: the request's."""
    notes: dict[str, int] | None = getattr(state, NOTES, None)
    if notes is not None:
        for name, count in counts.items():
            notes[name] = notes.get(name, 0) + count


class Measuring:
    """Measures the duration and status of each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics, started, status = self._metrics, time.perf_counter(), 500
        notes: dict[str, int] = {}
        scope.setdefault("state", {})[NOTES] = notes

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.in_flight.inc()
        try:
            await self._app(scope, receive, answer)
        finally:
            metrics.in_flight.dec()
            route, method = _route_of(scope), scope["method"]
            method = method if method in _METHODS else "other"
            metrics.requests.labels(route, method, str(status)).inc()
            metrics.seconds.labels(route, method).observe(time.perf_counter() - started)
            if route in _SEARCHES and status == 200:
                metrics.searches.inc()
            metrics.added.inc(notes.get("added", 0))
            metrics.decode_failures.inc(notes.get("decode_failures", 0))


def _route_of(scope: Mapping[str, Any]) -> str:
    """Return the template of the route that a request went to; none if it went to none."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else "none"
