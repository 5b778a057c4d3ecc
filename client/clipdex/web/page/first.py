"""The page as the server renders it, with the first results or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined

from clipdex.base.errors import ClipdexError, InvalidArgument
from clipdex.collection.item import StoredItem
from clipdex.search.mixture import Query
from clipdex.web.filters import require_allowed
from clipdex.web.page.asked import Asked
from clipdex.web.page.assets import folder
from clipdex.web.problems import Hidden, status_of
from clipdex.web.records import hit_out, stored_out, version_of
from clipdex.web.schemas.items import StoredOut
from clipdex.web.served import HeldCollection, Served

__all__ = ["rendered"]

_FIRST = 24  # pictures; scripts load the rest
_LESS = -0.5
_KEYS = (
    ("/", "Type a query"),
    ("Enter", "Search; results also come as you type"),
    ("Ctrl Enter", "Keep the text as a part of the query, and add another"),
    ("Shift Enter", "Leave out what the text describes"),
    ("← → ↑ ↓", "Move among the pictures"),
    ("+ −", "More or less like the focused picture; in the viewer, zoom"),
    ("c", "Unfold the copies of the focused picture"),
    ("f", "Open or close the filters"),
    ("Esc", "Close, or clear the query"),
    ("?", "Show these keys"),
)


async def rendered(served: Served, asked: Asked, request: Request) -> tuple[int, str]:
    """Render the page -> (HTTP status, HTML)."""
    root = request.scope.get("root_path", "")
    names = sorted(served.collections)
    status, trouble, held, pictures = 200, None, None, 0
    found: Sequence[StoredOut] = ()
    more: int | None = None
    try:
        held = served.named(asked.index or names[0])
        pictures = await held.collection.count()
        found, more = await _found(served, held, asked, request)
    except ClipdexError as error:
        hidden = Hidden(served.settings.indexes, show_paths=served.settings.show_paths)
        status, trouble = status_of(error), hidden.sentence(error)
    named = held.name if held is not None else names[0]
    text = (
        _templates()
        .get_template("page.html")
        .render(
            asked=asked,
            hits=[_shown(each, asked, root) for each in found],
            index=named,
            indexes=names,
            keys=_KEYS,
            matched=[name for name in names if await _can_match(served.collections[name])],
            more=None if more is None else asked.at(more).address(root),
            pictures=pictures,
            root=root,
            static=f"{root}{folder()}",
            status=_counted(found, more, pictures, asked),
            title=f"{asked.text[:80]} – clipdex" if asked.text else "clipdex",
            trouble=trouble,
        )
    )
    return status, text


async def _found(
    served: Served, held: HeldCollection, asked: Asked, request: Request
) -> tuple[Sequence[StoredOut], int | None]:
    """Search -> (a page of records, offset of the next page)."""
    if not asked.asks:
        after = asked.offset - 1
        stored: list[StoredItem] = await held.collection.after(after, _FIRST)
        more = stored[-1].row + 1 if len(stored) == _FIRST else None
        return [stored_out(held, request, each) for each in stored], more
    await asyncio.to_thread(require_allowed, asked.condition, served.settings)
    query = await _query(held, asked)
    if query.texts:
        held.require_model()
    hits = await held.collection.search(
        query,
        top_k=_FIRST + 1,  # whether there is a next page
        offset=asked.offset,
        min_score=asked.min_score,
        where=asked.condition,
        group=asked.group,
    )
    more = asked.offset + _FIRST if len(hits) > _FIRST else None
    return [hit_out(held, request, hit) for hit in hits[:_FIRST]], more


async def _can_match(held: HeldCollection) -> bool:
    try:
        return await held.collection.has_local_features()
    except ClipdexError:  # which the page says elsewhere
        return False


async def _query(held: HeldCollection, asked: Asked) -> Query:
    """Build the query from its parts.

    Raises:
        InvalidArgument: a picture of it is no longer where it was.
    """
    query = Query().plus(text=asked.text) if asked.text else Query()
    for part in asked.parts:
        if part.kind == "text":
            query = query.plus(text=part.value, weight=part.weight)
        elif part.kind == "id":
            query = query.plus(like=f"id:{part.value}", weight=part.weight)
        elif part.kind == "row":
            query = query.plus(like=await _row(held, part.value), weight=part.weight)
    return query


async def _row(held: HeldCollection, text: str) -> int:
    """Return the row of `ROW.VERSION`, if it still has the picture of that version.

    Raises:
        InvalidArgument: it is gone, or its row has another picture.
    """
    row, _, version = text.partition(".")
    known = row.isascii() and row.isdigit() and len(row) < 19
    stored = await held.collection.get(int(row)) if known else None
    if stored is None or (version and version_of(stored.content_hash) != version):
        raise InvalidArgument("a picture of this link is no longer in the index, or has moved to another row")
    return stored.row


def _shown(record: StoredOut, asked: Asked, root: str) -> dict[str, Any]:
    """Return what the template shows of a picture."""
    width, height = record.width, record.height
    return {
        "hit": record,
        "score": getattr(record, "score", None),
        "shape": f"{min(3, max(0.45, width / height)):.4g}" if width and height else "1",
        "like": asked.like(record.row, record.version, record.id, 1).address(root),
        "unlike": asked.like(record.row, record.version, record.id, _LESS).address(root),
    }


def _counted(found: Sequence[StoredOut], more: int | None, pictures: int, asked: Asked) -> str:
    if not asked.asks:
        return f"{pictures:,} picture{'' if pictures == 1 else 's'}"
    if more is None:
        return f"{len(found):,} result{'' if len(found) == 1 else 's'}"
    return f"{len(found):,} best results of {pictures:,} pictures"


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("clipdex.web.page"),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
