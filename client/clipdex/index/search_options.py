"""What a search is asked, checked before anything is read."""

from __future__ import annotations

import numpy as np

from clipdex.base.arguments import is_count, is_number
from clipdex.base.arrays import Array, Vectors
from clipdex.base.errors import FingerprintMismatch, InvalidArgument
from clipdex.index.manifest import Manifest
from clipdex.search.grouping import Grouping

__all__ = ["check_options", "check_params", "checked_queries"]

# How far from 1 a query's norm may be. First: vectors of a model or of the index, accepted from a server and then
# rounded. Second: any other vectors; float16 and a few sums stay far below it.
_OWN_TOLERANCE, _NORM_TOLERANCE = 1.5e-2, 1e-3


def checked_queries(queries: Array, manifest: Manifest, directory: object) -> Vectors:
    """Queries of an index as float32 (Q, D). directory: the index's, or how to name it.

    Raises:
        InvalidArgument: their width is not the index's, or one is not of norm 1.
        FingerprintMismatch: another model made them.
    """
    made_by = getattr(queries, "fingerprint", None)
    if made_by is not None and made_by != manifest.fingerprint:
        raise FingerprintMismatch(
            f"{directory} holds vectors of {manifest.model} ({manifest.fingerprint[:12]}), but "
            f"the queries are from another model ({made_by[:12]}): embed them with the index's model"
        )
    try:
        wide = np.atleast_2d(np.asarray(queries))
    except ValueError as exc:
        raise InvalidArgument("the queries are lists of different lengths; expected an array (Q, D)") from exc
    if wide.ndim != 2 or wide.shape[1] != manifest.embedding_dim:
        raise InvalidArgument(
            f"{directory} has vectors of {manifest.embedding_dim} numbers; "
            f"the queries have shape {np.shape(queries)}"
        )
    if not np.issubdtype(wide.dtype, np.floating):
        raise InvalidArgument(
            f"the queries are {wide.dtype}; expected floats, as embed_texts and embed_images return"
        )
    if not np.isfinite(wide).all():
        raise InvalidArgument("a query contains NaN or infinity")
    lengths = np.linalg.norm(wide.astype(np.float64), axis=1)
    if (far := np.abs(lengths - 1) > (_OWN_TOLERANCE if made_by else _NORM_TOLERANCE)).any():
        first = int(np.flatnonzero(far)[0])
        raise InvalidArgument(
            f"query {first} has norm {lengths[first]:.4g}, so its scores would not be cosines; divide it by "
            "its norm (clipdex.mix does, for a weighted sum)"
        )
    return np.asarray(wide, dtype=np.float32)


def check_options(
    top_k: object,
    offset: object,
    min_score: float | None,
    grouping: object = None,
    ann: object = None,
) -> None:
    """Raise InvalidArgument for an option of `Index.search` that is out of range or of the wrong type."""
    if top_k is not None and not is_count(top_k, 1):
        raise InvalidArgument(f"top_k is {top_k!r}; expected a whole number of hits, 1 or more")
    if not is_count(offset, 0):
        raise InvalidArgument(f"offset is {offset!r}; expected a whole number, 0 or more")
    if min_score is not None and not (is_number(min_score) and -1 <= min_score <= 1):
        raise InvalidArgument(f"min_score is {min_score!r}; expected a cosine, -1 to 1")
    if not isinstance(grouping, (Grouping, type(None))):
        raise InvalidArgument(f"grouping is {grouping!r:.60}; expected clipdex.Grouping(...)")
    if ann is not None and not hasattr(ann, "rank"):
        raise InvalidArgument(f"ann is {ann!r:.60}; expected clipdex.ann.AnnIndex.open(index)")


def check_params(where: object, params: object) -> None:
    """Raise InvalidArgument for values of parameters without a condition that they belong to."""
    if params is not None and not isinstance(where, str):
        raise InvalidArgument("params was given, but `where` is not a condition in SQL; params are its values")
