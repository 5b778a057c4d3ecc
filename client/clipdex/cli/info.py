"""`clipdex info`: what an index holds."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import shown_path
from clipdex.cli.printing import printable, say, say_json
from clipdex.index import Index

__all__ = ["info"]


def info(
    index: Annotated[Path, typer.Argument(metavar="X.clipdex", help="The index.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say what an index holds: rows, tombstones, failures, size, model, age."""
    with Index.open(index) as opened:
        manifest, found = opened.manifest, opened.info()
    if as_json:
        say_json(asdict(manifest) | asdict(found))
        return
    failures = ", ".join(f"{count:,} {reason}" for reason, count in found.failures.items())
    lines = [
        ("index", shown_path(str(index))),
        ("rows", f"{found.rows:,}"),
        ("tombstones", f"{found.tombstones:,}" + (";  clipdex compact  drops them" if found.tombstones else "")),
        ("failures", f"{sum(found.failures.values()):,}" + (f": {failures}" if failures else "")),
        ("model", f"{printable(manifest.model)}, fingerprint {manifest.fingerprint[:12]}"),
        ("vectors", f"{manifest.embedding_dim} × {manifest.dtype}"),
        ("on disk", f"{found.bytes_on_disk / 1e6:,.1f} MB"),
        ("first commit", _when(found.first_commit)),
        ("last commit", _when(found.last_commit)),
    ]
    if manifest.icc != "off":
        lines.insert(6, ("colours", "converted by profile to sRGB"))
    if manifest.below_floor:
        lines.insert(5, ("", f"below the floor of its export: {printable(manifest.below_floor)}"))
    for name, value in lines:
        say(f"{name:<13} {value}")


def _when(seconds: int | None) -> str:
    return "none yet" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
