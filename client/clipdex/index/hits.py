"""The hits of a query, with near-duplicates grouped into one hit on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged
from clipdex.base.exif import Exif
from clipdex.base.item_paths import id_of_text, path_text
from clipdex.base.json_text import parsed_object
from clipdex.base.records import Picture
from clipdex.base.short_names import short_names
from clipdex.index.tiles import CLASS, Tile, tile_grid, tile_style
from clipdex.search.exact import Ranking
from clipdex.search.grouping import Group, Grouping, Traits, group_rows
from clipdex.sources.thumbnail import ThumbnailSize

__all__ = ["Hit", "Hits", "grouped_ranking", "hits_of", "metadata_of", "no_record", "traits", "unsound"]

# A notebook keeps its outputs in its file: 20 thumbnails of at most 24 KiB, and their names, are below 1 MB.
_SHOWN = 20
_SHOWN_SIZE = ThumbnailSize(side=180, most_bytes=24 << 10)


@dataclass(frozen=True)
class Hit:
    """One result of a search: the picture's row, its cosine with the query, its path, and its metadata, if any.

    Bytes of a path that are not UTF-8 are surrogates in `path`; `os.fsencode(path)` restores them. The path of an
    item that was added by id is `id:ID`.
    copies: this picture's near-duplicates if they are grouped, best first, each without copies of its own.
    picture: the index's record of it, read in the same snapshot; None for a hit that no search made.
    """

    row: int
    score: float
    path: str
    metadata: dict[str, Any] | None = field(default=None, compare=False)
    copies: tuple[Hit, ...] = field(default=(), compare=False)
    picture: Picture | None = field(default=None, repr=False, compare=False)

    @property
    def exif(self) -> Exif | None:
        """What its file says of it; None if that is nothing, or was not read."""
        return None if self.picture is None else self.picture.exif

    @property
    def id(self) -> str | None:
        """The id of an item that was added by id; None for a picture of a folder or another source."""
        return id_of_text(self.path)


class Hits(list[Hit]):
    """The hits of one query, best first: a list, which a notebook shows as pictures.

    A notebook shows the first 20, in less than 1 MB. A picture that cannot be read is replaced by the reason.
    """

    @overload
    def __getitem__(self, which: SupportsIndex, /) -> Hit: ...
    @overload
    def __getitem__(self, which: slice, /) -> Hits: ...
    def __getitem__(self, which: SupportsIndex | slice, /) -> Hit | Hits:
        found = super().__getitem__(which)
        return Hits(found) if isinstance(found, list) else found

    def _repr_html_(self) -> str:
        if not self:
            return f'<div class="{CLASS}">no hits</div>'
        shown = self[:_SHOWN]
        names = short_names(hit.path for hit in shown)
        tiles = [
            Tile(
                hit.path,
                f"{hit.score:.3f}",
                f"{names[hit.path]}, result {i}",
                others=[copy.path for copy in hit.copies],
            )
            for i, hit in enumerate(shown, 1)
        ]
        more = f"<p>and {len(self) - _SHOWN:,} more</p>" if len(self) > _SHOWN else ""
        # No links: browsers follow none to file: from a page that a server sent, such as a notebook.
        grid = tile_grid(tiles, names, _SHOWN_SIZE, links=False)
        return f"<style>{tile_style([len(tiles)])}</style>\n{grid}{more}"


def grouped_ranking(
    rank: Callable[[int], list[Ranking]],
    count: int,
    wanted: int,
    grouping: Grouping,
    traits_of: Callable[[Array], Traits],
) -> tuple[Ranking, list[Group]]:
    """Rank rows until there are `wanted` groups -> (ranking, groups of positions in it).

    It looks for one group more, so that rows of equal vectors, which are adjacent, are all seen.

    Args:
        rank: returns the given number of best rows for one query.
        count: number of rows that may be ranked.
    """
    depth = 4 * wanted + 32
    while True:
        (ranking,) = rank(depth)
        groups = group_rows(ranking.rows, wanted + 1, grouping, traits_of)
        if len(groups) > wanted or len(ranking.rows) < depth or depth >= count:
            return ranking, groups[:wanted]
        depth *= 4


def traits(pictures: Sequence[Picture], vectors: Array) -> Traits:
    """The properties by which rows are compared for grouping, from their pictures and vectors (n, D)."""
    unit = vectors.astype(np.float32)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.where(lengths > 0, lengths, 1)
    return Traits(
        [picture.content_hash for picture in pictures],
        [picture.phash for picture in pictures],
        np.array([(picture.width, picture.height) for picture in pictures], np.int64).reshape(-1, 2),
        unit,
    )


def hits_of(
    found: Sequence[tuple[Ranking, Sequence[Group]]], pictures: Mapping[int, Picture], directory: Path
) -> list[Hits]:
    """Make hits of groups of positions in rankings.

    Raises:
        IndexDamaged: a picture's metadata is not a JSON object.
    """

    def hit(ranking: Ranking, i: int, copies: tuple[Hit, ...] = ()) -> Hit:
        row = int(ranking.rows[i])
        return _hit(row, float(ranking.scores[i]), pictures[row], copies, directory)

    return [
        Hits(hit(ranking, group.first, tuple(hit(ranking, i) for i in group.copies)) for group in groups)
        for ranking, groups in found
    ]


def _hit(row: int, score: float, picture: Picture, copies: tuple[Hit, ...], directory: Path) -> Hit:
    return Hit(row, score, path_text(picture.path), metadata_of(row, picture, directory), copies, picture)


def metadata_of(row: int, picture: Picture, directory: Path) -> dict[str, Any] | None:
    """Read the metadata of a picture; None if it has none. Raises IndexDamaged if it is not a JSON object."""
    try:
        return None if picture.metadata is None else parsed_object(picture.metadata)
    except ValueError as exc:
        raise IndexDamaged(
            f"{directory}: the metadata of row {row} is not a JSON object; see  clipdex verify"
        ) from exc


def no_record(directory: Path, row: int) -> IndexDamaged:
    """Return the error for a live row without a record of its picture."""
    return IndexDamaged(f"{directory}: row {row} has no record of its picture; see  clipdex verify")


def unsound(directory: Path, row: int) -> IndexDamaged:
    """Return the error for a row that a search or a dump must not use."""
    return IndexDamaged(
        f"{directory}: row {row} is damaged: its vector is not finite or not of norm 1, so it has "
        "no cosine; see  clipdex verify,  and  clipdex index  over the same files embeds it again"
    )
