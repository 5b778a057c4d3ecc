"""Groups of duplicates in words, and as sections of a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence

from clipdex.apps.contact_sheet import Section
from clipdex.apps.duplicates.groups import Duplicate, DuplicateGroup
from clipdex.base.counting import counted
from clipdex.features.words import points_words, region_words
from clipdex.index import Hit

__all__ = ["group_section", "relation_words"]

_ALL = region_words([(0, 0), (1, 1)])


def relation_words(other: Duplicate) -> str:
    """Say how a duplicate is like its keeper. Example: `near 0.981, cosine 0.9712`."""
    if other.placement is not None:
        where = other.placement
        points = points_words(where.points, where.mirrored)
        own, there = region_words(where.of_duplicate), region_words(where.of_keeper)
        return (
            f"{points}; {'all' if own == _ALL else own} is {'all' if there == _ALL else there} of the one to keep"
        )
    if other.relation == "exact":
        return "same bytes"
    if other.relation == "semantic":
        return f"semantic, cosine {other.cosine:.4f}"
    return f"near {other.similarity:.3f}, cosine {other.cosine:.4f}"


def group_section(group: DuplicateGroup, heading: str) -> Section:
    """Return the section of a contact sheet that shows a group, with the keeper first and marked."""
    pictures = (group.keeper, *group.others)
    sizes = [f"{one.width:,} × {one.height:,}" for one in pictures]
    return Section(
        heading,
        [Hit(one.row, one.similarity, one.path) for one in pictures],
        counted(len(group.others), "duplicate"),
        labels=[
            size if one is group.keeper else f"{size}, {relation_words(one)}"
            for size, one in zip(sizes, pictures, strict=True)
        ],
        keeper=True,
        regions=_regions(group),
    )


def _regions(group: DuplicateGroup) -> Sequence[Sequence[Sequence[Sequence[float]]]]:
    """Return the regions to draw on each picture; none if there are no such duplicates."""
    placed = [other.placement for other in group.others]
    if not any(placed):
        return []
    of_keeper = [each.of_keeper for each in placed if each is not None]
    return [of_keeper, *([] if each is None else [each.of_duplicate] for each in placed)]
