"""Which files that failed before a run tries again."""

from __future__ import annotations

from clipdex.base.records import KnownFile
from clipdex.model.formats.decoders import extra_is_there

__all__ = ["is_due"]


def is_due(known: KnownFile, retry_failures: bool) -> bool:
    """Whether a file that failed, and has not changed since, is to be tried again.

    retry_failures: all are. What lacked an optional package is in any case, once the package is there.
    """
    return known.row is None and (retry_failures or (known.reason == "missing_extra" and extra_is_there()))
