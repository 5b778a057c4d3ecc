"""Queries, the meanings of captions, and their matching with scenes: one at a time, or all against all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdex_export.demo.scenes import (
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Ground,
    Group,
    Pair,
    Scene,
    Single,
    Thing,
)

MANY = 0  # a plural without a number: "stars"


@dataclass(frozen=True)
class Wanted:
    """A wanted thing, or several with the same attributes. None leaves an attribute open.

    `count` None is the singular: "a star" also matches three stars. MANY means at least two; a number means
    exactly that many. Only singles have a size and a place.
    """

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    count: int | None = None

    def is_thing(self, thing: Thing) -> bool:
        """Return whether `thing` has the wanted shape and colour, if given."""
        return self.shape in (None, thing.shape) and self.colour in (None, thing.colour)


@dataclass(frozen=True)
class Query:
    """The meaning of a caption: up to two things, their relation, and the ground behind them.

    `relation` holds between the first thing and the second; None with two things means in any order.
    `striped` requires stripes of any colours; `ground` names all colours of the ground.
    """

    things: tuple[Wanted, ...] = ()
    relation: str | None = None
    ground: Ground | None = None
    striped: bool = False

    @property
    def attributes(self) -> int:
        """Number of attributes that are named."""
        named = sum(
            value is not None
            for wanted in self.things
            for value in (wanted.shape, wanted.colour, wanted.size, wanted.place, wanted.count)
        )
        return named + (self.relation is not None) + (self.ground is not None) + self.striped


def _shows(scene: Scene, wanted: Wanted) -> bool:
    unplaced = wanted.size is None and wanted.place is None
    if isinstance(scene, Single):
        placed = wanted.size in (None, scene.size) and wanted.place in (None, scene.place)
        return wanted.count is None and placed and wanted.is_thing(scene.thing)
    if isinstance(scene, Group):
        return wanted.count in (None, MANY, scene.count) and unplaced and wanted.is_thing(scene.thing)
    fits = (wanted.is_thing(scene.first), wanted.is_thing(scene.second))
    enough = any(fits) if wanted.count is None else all(fits) and wanted.count in (MANY, 2)
    return enough and unplaced


def matches(scene: Scene, query: Query) -> bool:
    """Return whether the scene has everything that the query names."""
    if query.ground not in (None, scene.ground) or (query.striped and not scene.ground.striped):
        return False
    if len(query.things) < 2:
        return all(_shows(scene, wanted) for wanted in query.things)
    if not isinstance(scene, Pair) or query.relation not in (None, scene.relation):
        return False
    one, other = query.things
    in_order = one.is_thing(scene.first) and other.is_thing(scene.second)
    swapped = other.is_thing(scene.first) and one.is_thing(scene.second)
    return in_order or (query.relation is None and swapped)


def full_query(scene: Scene) -> Query:
    """Make the query that names all of a scene, so that only scenes of the same meaning match it."""
    if isinstance(scene, Single):
        thing = Wanted(scene.thing.shape, scene.thing.colour, scene.size, scene.place)
        return Query((thing,), ground=scene.ground)
    if isinstance(scene, Group):
        return Query((Wanted(scene.thing.shape, scene.thing.colour, count=scene.count),), ground=scene.ground)
    things = tuple(Wanted(thing.shape, thing.colour) for thing in (scene.first, scene.second))
    return Query(things, scene.relation, scene.ground)


def _bend_thing(thing: Thing, wanted: Wanted) -> Thing:
    return Thing(wanted.shape or thing.shape, wanted.colour or thing.colour)


def bend(scene: Scene, query: Query) -> Scene:
    """Change a scene's attributes to those that the query names, as far as its kind has them.

    It may still not match: a single stays one thing even if the query names two.
    """
    ground = query.ground or scene.ground
    one, other = (*query.things, Wanted(), Wanted())[:2]
    if isinstance(scene, Single):
        size, place = one.size or scene.size, one.place or scene.place
        return Single(_bend_thing(scene.thing, one), size, place, ground)
    if isinstance(scene, Group):
        return Group(_bend_thing(scene.thing, one), one.count or scene.count, ground)
    first, second = _bend_thing(scene.first, one), _bend_thing(scene.second, other)
    return Pair(first, second, query.relation or scene.relation, ground)


# All against all --------------------------------------------------------------------------------------

_ABSENT = -1  # in a scene: it has no such attribute
_OPEN = -2  # in a query: not named
_SINGLE, _PAIR, _GROUP = 0, 1, 2
_COLOUR_NAMES = tuple(COLOURS)

# Columns of the two tables.
SCENE_ATTRIBUTES = (
    "kind", "shape", "colour", "shape2", "colour2", "size", "place", "count", "relation", "ground", "stripe"
)  # fmt: skip
_QUERY_COLUMNS = (
    "things", "shape", "colour", "shape2", "colour2", "size", "place", "count", "relation", "ground", "stripe",
    "striped",
)  # fmt: skip

Codes = NDArray[np.int16]


def _ground_codes(ground: Ground) -> tuple[int, int]:
    first = _COLOUR_NAMES.index(ground.colours[0])
    return first, _COLOUR_NAMES.index(ground.colours[1]) if ground.striped else _ABSENT


def scene_codes(scenes: Sequence[Scene]) -> Codes:
    """Attributes as numbers, -1 where a scene has none such: int16 (N, 11), columns as SCENE_ATTRIBUTES."""
    rows = []
    for scene in scenes:
        ground = _ground_codes(scene.ground)
        if isinstance(scene, Pair):
            one, other = scene.first, scene.second
            things = (*_thing_codes(one), *_thing_codes(other))
            rows.append((_PAIR, *things, -1, -1, -1, RELATIONS.index(scene.relation), *ground))
        elif isinstance(scene, Single):
            where = (SIZES.index(scene.size), PLACES.index(scene.place))
            rows.append((_SINGLE, *_thing_codes(scene.thing), -1, -1, *where, -1, -1, *ground))
        else:
            rows.append((_GROUP, *_thing_codes(scene.thing), -1, -1, -1, -1, scene.count, -1, *ground))
    return np.array(rows, dtype=np.int16).reshape(len(rows), len(SCENE_ATTRIBUTES))


def _thing_codes(thing: Thing) -> tuple[int, int]:
    return SHAPES.index(thing.shape), _COLOUR_NAMES.index(thing.colour)


def _query_codes(queries: Sequence[Query]) -> Codes:
    def code(names: tuple[str, ...], value: str | None) -> int:
        return _OPEN if value is None else names.index(value)

    rows = []
    for query in queries:
        one, other = (*query.things, Wanted(), Wanted())[:2]
        ground = (_OPEN, _OPEN) if query.ground is None else _ground_codes(query.ground)
        rows.append(
            (
                len(query.things),
                code(SHAPES, one.shape),
                code(_COLOUR_NAMES, one.colour),
                code(SHAPES, other.shape),
                code(_COLOUR_NAMES, other.colour),
                code(SIZES, one.size),
                code(PLACES, one.place),
                _OPEN if one.count is None else one.count,
                code(RELATIONS, query.relation),
                *ground,
                int(query.striped),
            )
        )
    return np.array(rows, dtype=np.int16).reshape(len(rows), len(_QUERY_COLUMNS))


def match_matrix(queries: Sequence[Query], scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Compute `matches` for every query and every scene at once: bool (Q, N)."""
    q = dict(zip(_QUERY_COLUMNS, _query_codes(queries).T[:, :, None], strict=True))  # int16 (Q, 1) each
    s = dict(zip(SCENE_ATTRIBUTES, scene_codes(scenes).T[:, None, :], strict=True))  # int16 (1, N) each

    def fits(wanted: Codes, found: Codes) -> NDArray[np.bool_]:
        result: NDArray[np.bool_] = (wanted == _OPEN) | (wanted == found)
        return result

    one_first = fits(q["shape"], s["shape"]) & fits(q["colour"], s["colour"])
    one_second = fits(q["shape"], s["shape2"]) & fits(q["colour"], s["colour2"])
    other_first = fits(q["shape2"], s["shape"]) & fits(q["colour2"], s["colour"])
    other_second = fits(q["shape2"], s["shape2"]) & fits(q["colour2"], s["colour2"])
    pair = s["kind"] == _PAIR
    singular = q["count"] == _OPEN
    many = q["count"] == MANY

    in_pair = np.where(singular, one_first | one_second, one_first & one_second & (many | (q["count"] == 2)))
    in_group = one_first & (singular | many | (q["count"] == s["count"]))
    in_single = one_first & singular
    placed = fits(q["size"], s["size"]) & fits(q["place"], s["place"])
    shown = np.where(pair, in_pair, np.where(s["kind"] == _GROUP, in_group, in_single)) & placed

    in_order = one_first & other_second
    swapped = other_first & one_second & (q["relation"] == _OPEN)
    both = pair & fits(q["relation"], s["relation"]) & (in_order | swapped)

    things = np.where(q["things"] == 2, both, shown | (q["things"] == 0))
    ground = fits(q["ground"], s["ground"]) & fits(q["stripe"], s["stripe"])
    stripes = (q["striped"] == 0) | (s["stripe"] != _ABSENT)
    result: NDArray[np.bool_] = things & ground & stripes
    return result
