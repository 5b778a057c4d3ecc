"""The files of the page: scripts, style and icon, read once, and addressed by what is in them."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Asset", "assets", "folder"]

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """One file. gzipped: the same, compressed. etag: as the header has it."""

    data: bytes
    gzipped: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Read the files -> by name."""
    found = {}
    for file in sorted(files("clipdex.web.page").joinpath("static").iterdir(), key=lambda each: each.name):
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            data = file.read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:16]
            found[file.name] = Asset(data, gzip.compress(data, mtime=0), _TYPES[suffix], f'"{digest}"')
    return found


@cache
def folder() -> str:
    """Return the path below which the files are served; another version's has another name.

    So a browser may keep them for ever, and modules that import each other by relative names are of one version.
    """
    digest = hashlib.sha256("".join(each.etag for each in assets().values()).encode()).hexdigest()[:12]
    return f"/static/{digest}"
