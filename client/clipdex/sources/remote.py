"""Opens what a URL names: a bucket of an object store, or a dataset of the hub, which is read like one."""

from __future__ import annotations

from clipdex.sources.hub_dataset import open_dataset
from clipdex.sources.object_store import Bucket, parts_of

__all__ = ["open_remote"]


def open_remote(url: str) -> Bucket:
    """Open the bucket of a URL. Nothing is sent yet.

    Raises:
        MissingExtra: obstore is not installed, and it is a bucket.
        SourceError: it names no bucket, or the settings of the environment are not valid.
    """
    scheme, name, _ = parts_of(url)
    return open_dataset(name) if scheme == "hf" else Bucket.open(url)
