"""Reports of measurements as JSON, to keep and compare. docs/bench.md describes every field."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipdex.apps.bench.machine import Machine
from clipdex.apps.bench.measure_feed import Ceiling, Decoding
from clipdex.apps.bench.measure_index import IndexRun
from clipdex.apps.bench.measure_search import SearchPoint
from clipdex.apps.bench.measure_server import Point
from clipdex.base.errors import ClipdexError
from clipdex.base.replacing import require_replaceable
from clipdex.client.client import Client

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "check_writable",
    "feed_report",
    "index_report",
    "search_report",
    "server_report",
    "write_report",
]

FORMAT = "clipdex-bench"
FORMAT_VERSION = 1

# A report, as json.dumps accepts it.
Report = dict[str, Any]


def server_report(
    machine: Machine, client: Client, gpus: int | None, points: Sequence[Point], settings: Mapping[str, Any]
) -> Report:
    """Make the report of `clipdex bench server`. gpus: as `gpus_of` returns them."""
    return _report("server", machine, settings) | {
        "server": _server(client, gpus),
        "points": [asdict(point) for point in points],
    }


def index_report(
    machine: Machine, client: Client, gpus: int | None, run: IndexRun, settings: Mapping[str, Any]
) -> Report:
    """Make the report of `clipdex bench index`. gpus: as `gpus_of` returns them."""
    data = asdict(run)
    data["bound"]["images_per_s"] = run.bound.images_per_s
    return _report("index", machine, settings) | {
        "server": _server(client, gpus),
        "run": data | {"share_of_bound": run.share_of_bound},
    }


def search_report(
    machine: Machine, index: Mapping[str, Any], points: Sequence[SearchPoint], settings: Mapping[str, Any]
) -> Report:
    """Make the report of `clipdex bench search`. index: its rows, dim and dtype."""
    return _report("search", machine, settings) | {
        "index": dict(index),
        "points": [
            asdict(point) | {"times_read": point.times_read, "read_bytes_per_s": point.read_bytes_per_s}
            for point in points
        ],
    }


def feed_report(
    machine: Machine,
    ceilings: Sequence[Ceiling],
    decodings: Sequence[Decoding],
    settings: Mapping[str, Any],
    pictures_per_s: float,
) -> Report:
    """Make the report of `clipdex bench feed`. pictures_per_s: those that `cores_needed` are for."""
    return _report("feed", machine, settings) | {
        "ceilings": [asdict(each) for each in ceilings],
        "decoding": [
            asdict(each) | {"for_pictures_per_s": pictures_per_s, "cores_needed": each.cores_for(pictures_per_s)}
            for each in decodings
        ],
    }


def check_writable(file: Path) -> None:
    """Check, before an hour of measuring, that the file can be written.

    Raises:
        ClipdexError: it cannot.
    """
    require_replaceable(file, "cannot be written")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as exc:
        raise ClipdexError(f"{file}: cannot be written: {exc.strerror}") from exc


def write_report(file: Path, report: Report) -> None:
    """Write a report, replacing an existing file.

    Raises:
        ClipdexError: the file cannot be written.
    """
    require_replaceable(file, "cannot be written")
    try:
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError as exc:
        raise ClipdexError(f"{file}: cannot be written: {exc.strerror}") from exc


def _report(kind: str, machine: Machine, settings: Mapping[str, Any]) -> Report:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "machine": asdict(machine),
        "settings": dict(settings),
    }


def _server(client: Client, gpus: int | None) -> dict[str, Any]:
    return {
        "address": client.address,
        "name": client.server.name,
        "version": client.server.version,
        "model": client.card.name,
        "precision": client.card.precision,
        "fingerprint": client.card.fingerprint,
        "max_batch_size": client.max_batch_size,
        "in_flight": client.in_flight,
        "gpus": gpus,
    }
