"""Locations of pictures: paths of this machine, members of other files, and URLs, which are not downloaded.

A picture inside another file has the path `FILE!/MEMBER`, as `/data/0.tar!/cat.jpg`, in bytes. A folder may be
named `x.tar!`, so such a path can also be an ordinary one: callers check whether a file exists at the whole path,
or at the container's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from clipdex.base.object_paths import STORES, is_object, object_beside, split_object

__all__ = [
    "LONGEST_PATH",
    "TABLE_SUFFIXES",
    "TAR_SUFFIXES",
    "URL_BEGINS",
    "Elsewhere",
    "containers",
    "located",
    "member_path",
]

LONGEST_PATH = 4096  # bytes; Linux opens no longer path

TAR_SUFFIXES = (b".tar",)
TABLE_SUFFIXES = (b".csv", b".tsv", b".parquet")

URL_BEGINS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash, as a Path collapses two

_URL = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]+)://")
_FILE = re.compile(rb"file:(?://(?:localhost)?)?(?=/)(?!//)", re.IGNORECASE)
_DATA = re.compile(rb"data:[\w.+-]+/[\w.+-]+[;,]", re.IGNORECASE)
_CONTAINER_ENDS = re.compile(rb"\.(?:tar|csv|tsv|parquet)(?=!/)", re.IGNORECASE)


@dataclass(frozen=True)
class Elsewhere:
    """A location that is not a path of this machine. why: the reason, for the ledger."""

    why: str


def located(text: bytes, folder: bytes) -> bytes | Elsewhere:
    """Resolve a location to an absolute path, or to the URL of an object in a bucket.

    A relative path starts at `folder`, which may be in a bucket, `~/` is the user's home, and `file:///` begins a
    path with %NN escapes.
    """
    if found := _FILE.match(text):
        return os.path.abspath(unquote_to_bytes(text[found.end() :]))
    if found := _URL.match(text):
        scheme = found[1].decode("ascii").lower()
        if scheme == "file":
            return Elsewhere(
                "is a file: URL of another machine, or without a path; expected file:///PATH or a plain path"
            )
        if scheme in STORES:
            url = f"{scheme}://".encode() + text[found.end() :]
            _, bucket, key = split_object(url)
            if not bucket or not key:
                place = "datasets/OWNER/NAME" if scheme == "hf" else "BUCKET"
                return Elsewhere(f"names no object; expected {scheme}://{place}/KEY")
            return url
        return Elsewhere(
            f"is a URL ({scheme}), and clipdex downloads nothing; download the pictures first, as img2dataset "
            "does, and index the files"
        )
    if _DATA.match(text):
        return Elsewhere("is a data: URL, which contains the picture; save it to a file and give its path")
    if len(text) > LONGEST_PATH:
        return Elsewhere(f"has {len(text):,} bytes, which is too long for a path")
    if text.startswith(b"~/"):
        text = os.path.expanduser(text)
    if is_object(folder) and not text.startswith(b"/"):
        return object_beside(folder, text)
    return os.path.abspath(os.path.join(folder, text))


def member_path(container: bytes, member: bytes) -> bytes:
    """Return the identity of a member."""
    return container + b"!/" + member


def containers(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each way to read a path as (container, member), the shortest container first; none for most paths."""
    for found in _CONTAINER_ENDS.finditer(path):
        yield path[: found.end()], path[found.end() + 2 :]
