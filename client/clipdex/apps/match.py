"""Matching by local features: within what a text describes, and as the check of a search's first hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.apps.results import Answer
from clipdex.base.arrays import Array
from clipdex.base.errors import ImageError, IndexFault, InvalidArgument
from clipdex.base.item_paths import path_text
from clipdex.client.client import Client
from clipdex.features.matching import WITHIN, Verified, best_rows, described, mirrored, verify_rows
from clipdex.features.store import FeatureStore
from clipdex.index.hits import Hit, Hits
from clipdex.index.reader import Index
from clipdex.index.side.feature_file import FEATURES_FILE
from clipdex.looks.compare import similarities
from clipdex.looks.frequencies import Looks
from clipdex.looks.local_features import LocalFeatures, Recipe, extract
from clipdex.looks.signature import perceptual_signature
from clipdex.model.images import open_image
from clipdex.search import Query
from clipdex.search.selection import flags_of
from clipdex.sources.thumbnail import read_picture

__all__ = ["CHECKED", "WITHIN", "ask_verified", "rows_within"]

CHECKED = 100  # of CLIP's hits, and of the signature's

_ROWS_AT_ONCE = 65_536

_Rows = npt.NDArray[np.int64]


def rows_within(
    index: Index,
    text: str,
    connect: Callable[[], AbstractContextManager[Client]],
    *,
    count: int = WITHIN,
    where: str | Sequence[int] | Array | None = None,
) -> _Rows:
    """Find the rows of the `count` pictures that best match a text, ascending. Raises as `ask`."""
    with connect() as client:
        index.require(client.card)
        return best_rows(index, client.embed_texts([text]), count, where)


def ask_verified(
    index: Index,
    query: Query,
    connect: Callable[[], AbstractContextManager[Client]],
    *,
    top_k: int,
    min_inliers: int,
    where: str | Sequence[int] | Array | None = None,
) -> tuple[Answer, list[str]]:
    """Rank the pictures of an index for a picture, those first that share a region with it.

    The first hundred by CLIP and the first hundred by the signature are checked by their local features: those of
    the index's side file, or made now. `Answer.verified` has the geometry of those that agree. -> the answer, and
    why pictures could not be checked, a sentence each.

    Raises:
        InvalidArgument: the query is not one picture.
        MissingExtra: OpenCV is not installed.
        Others: as `ask`.
    """
    if len(query.parts) != 1 or len(query.images) != 1 or query.parts[0].weight != 1:
        raise InvalidArgument("a verified search has one picture as its query, and nothing else")
    image = open_image(query.images[0])
    with connect() as client:
        index.require(client.card)
        vector = query.embed(client, index)
    allowed = index.allowed(where, None)
    (hits,) = index.search(vector, max(CHECKED, top_k), where=allowed)
    seen = {hit.row for hit in hits}
    others = [row for row in _alike(index, image, allowed) if row not in seen]
    if others:
        (more,) = index.search(vector, len(others), where=np.array(others, np.int64))
        hits = Hits([*hits, *more])
    checked = [hit.row for hit in hits[:CHECKED]] + others
    with ExitStack() as stack:
        features = _Features(index, stack)
        asked = described(image, features.recipe)
        found = verify_rows(asked, checked, features, min_inliers=min_inliers)
        if not found and features.recipe.kind == "sift":
            found = verify_rows(mirrored(asked), checked, features, min_inliers=min_inliers, flipped=True)
    by_row: dict[int, Verified] = {each.row: each for each in found}
    held = {hit.row: hit for hit in hits}
    ranked: list[Hit] = [held[row] for row in by_row] + [hit for hit in hits if hit.row not in by_row]
    shown = Hits(ranked[:top_k])
    kept = {hit.row: by_row[hit.row] for hit in shown if hit.row in by_row}
    return Answer(str(query), shown, missing=tuple(index.missing), verified=kept), features.failed


class _Features:
    """The features of rows: of the side file, or made of the picture now."""

    def __init__(self, index: Index, stack: ExitStack) -> None:
        self._index = index
        self.failed: list[str] = []
        self._store: FeatureStore | None = None
        self.recipe = Recipe()
        try:
            self._store = FeatureStore.open(index)
        except IndexFault as exc:
            if any((part.directory / FEATURES_FILE).exists() for _, part in index.pieces()):
                self.failed.append(str(exc))
        else:
            stack.callback(self._store.close)
            self.recipe = self._store.recipe

    def of(self, row: int) -> LocalFeatures | None:
        found = None if self._store is None else self._store.of(row)
        if found is not None:
            return found
        path = path_text(self._index.picture(row).path)
        try:
            image = open_image(read_picture(path))
            return extract(image, kind=self.recipe.kind, most=self.recipe.most, side=self.recipe.side)
        except ImageError as exc:
            self.failed.append(f"{path}: {exc}")
        except MemoryError:
            self.failed.append(f"{path}: there is not enough memory to make its features")
        return None


def _alike(index: Index, image: Image.Image, allowed: Array | None) -> list[int]:
    """Find the rows with the most similar signatures, best first."""
    own = perceptual_signature(image)
    flags = flags_of(len(index.vectors), allowed)
    best: list[tuple[float, int]] = []
    for start in range(0, len(index.vectors), _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, len(index.vectors))
        size_of = {row: (width, height) for row, _, width, height in index.contents(start, end)}
        some = [
            (row, signature) for row, signature in index.signatures(start, end) if row in size_of and flags[row]
        ]
        if not some:
            continue
        table = b"".join(signature for _, signature in some) + own
        sizes = np.array([*(size_of[row] for row, _ in some), image.size], np.int64)
        count = len(some)
        alike = similarities(Looks.of(table, sizes), np.arange(count), np.full(count, count), 2.0)
        order = np.argsort(-alike, kind="stable")[:CHECKED]
        best += [(float(alike[at]), some[at][0]) for at in order if alike[at] > 0]
    best.sort(key=lambda item: (-item[0], item[1]))
    return [row for _, row in best[:CHECKED]]
