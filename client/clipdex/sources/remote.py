"""Opens what a URL names: a bucket of an object store, or what is read like one: a dataset, a web server."""

from __future__ import annotations

from clipdex.base.object_paths import WEB
from clipdex.sources.hub_dataset import open_dataset
from clipdex.sources.object_store import Bucket, parts_of
from clipdex.sources.web_server import open_web

__all__ = ["open_remote"]


def open_remote(url: str) -> Bucket:
    """Open the bucket of a URL. Nothing is sent yet.

    Raises:
        MissingExtra: obstore is not installed, and it is a bucket.
        SourceError: it names no bucket, or the settings of the environment are not valid.
    """
    scheme, name, _ = parts_of(url)
    if scheme in WEB:
        return open_web(f"{scheme}://{name}")
    return open_dataset(name) if scheme == "hf" else Bucket.open(url)
