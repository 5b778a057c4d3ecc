"""Paths of objects in a bucket: the URL `s3://BUCKET/KEY`, with the key as it is, not percent-encoded.

What is read like a bucket has the same form: a dataset of the Hugging Face hub, `hf://datasets/OWNER/NAME/KEY`,
and a web server, `https://HOST/KEY`.

A file's path in an index begins with a slash, so that neither can be mistaken for the other.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

__all__ = ["SCHEMES", "STORES", "WEB", "is_object", "object_beside", "object_meant", "split_object"]

STORES = ("s3", "gs", "az", "hf")
WEB = ("https", "http")
SCHEMES = (*STORES, *WEB)

_BEGINS = tuple(f"{scheme}://".encode() for scheme in SCHEMES)
_ENCODED = re.compile(r"(?:[^%\s]|%[0-9A-Fa-f]{2})*")
_URL = re.compile(f"({'|'.join(SCHEMES)}):(?:/+|$)", re.IGNORECASE)  # `pathlib` makes one slash of two


def is_object(path: bytes) -> bool:
    """Return whether a path of an index is that of an object in a bucket."""
    return path.startswith(_BEGINS)


def object_meant(given: str) -> str | None:
    """Return the URL of a bucket or object that a text means, as `pathlib` may have changed it; or None."""
    found = _URL.match(given)
    if found is None:
        return None
    scheme, rest = found[1].lower(), given[found.end() :]
    if scheme in WEB:
        host, slash, key = rest.partition("/")
        encoded = _ENCODED.fullmatch(key) is not None  # as a browser copies it
        rest = host.lower() + slash + (unquote(key, errors="surrogateescape") if encoded else key)
    return f"{scheme}://{rest}"


def object_beside(folder: bytes, relative: bytes) -> bytes:
    """Return the path of an object, given from a folder of a bucket, as `../b.png` from `s3://BUCKET/a`."""
    scheme, bucket, key = split_object(folder)
    joined = posixpath.normpath(posixpath.join(b"/", key, relative)).lstrip(b"/")
    return scheme + b"://" + bucket + b"/" + joined


def split_object(url: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a URL -> (scheme, bucket, key); the bucket is empty if the URL names none.

    Of the hub, the bucket is `datasets/OWNER/NAME`, or `datasets/OWNER/NAME@REVISION`.
    """
    scheme, _, rest = url.partition(b"://")
    if scheme != b"hf":
        bucket, _, key = rest.partition(b"/")
        return scheme, bucket, key
    kind, owner, name, key = (*rest.split(b"/", 3), b"", b"", b"")[:4]
    return scheme, b"/".join((kind, owner, name)) if kind == b"datasets" and owner and name else b"", key
