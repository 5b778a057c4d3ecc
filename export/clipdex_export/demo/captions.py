"""Captions of scenes: full ones, or short ones with one to three attributes, as people type them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from clipdex_export.demo.queries import MANY, Query, Wanted, full_query
from clipdex_export.demo.scenes import Ground, Pair, Scene, Single, Thing

# The plain name comes first: it is chosen as often as all the others together.
_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "moon"),
    "arrow": ("arrow",),
    "diamond": ("diamond", "rhombus"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "middle": ("in the middle", "in the centre", "in the center"),
    "top": ("at the top", "near the top", "at the upper edge"),
    "bottom": ("at the bottom", "near the bottom", "at the lower edge"),
    "left": ("on the left", "on the left side", "at the left edge"),
    "right": ("on the right", "on the right side", "at the right edge"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_PLURALS = {"cross": "crosses", "plus": "pluses", "disc": "discs", "rhombus": "rhombuses"}
_NUMBERS = {2: ("two", "2", "a pair of"), 3: ("three", "3"), 4: ("four", "4")}
_OPPOSITE = {"left of": "right of", "above": "below"}
_OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an image of ", "a photo of ")

# The number of attributes that a short caption names.
_SHORT_LENGTHS = (1, 2, 3)
_SHORT_WEIGHTS = (25, 45, 30)


@dataclass(frozen=True)
class Caption:
    """A text and its meaning."""

    text: str
    query: Query


def _word(name: str, rng: Random) -> str:
    words = _WORDS.get(name, (name,))
    return words[0] if len(words) == 1 or rng.random() < 0.5 else rng.choice(words[1:])


def _plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun_phrase(wanted: Wanted, rng: Random, *, article: bool = True) -> str:
    """Describe a thing without its place: "a small red star", "something red", "large things"."""
    adjectives = [_word(name, rng) for name in (wanted.size, wanted.colour) if name is not None]
    if wanted.count is not None:
        noun = _plural(_word(wanted.shape, rng) if wanted.shape else rng.choice(("thing", "shape", "object")))
        number = [] if wanted.count == MANY else [rng.choice(_NUMBERS[wanted.count])]
        return " ".join([*number, *adjectives, noun])
    if wanted.shape is None and rng.random() < 0.6:
        return " ".join(["something", *adjectives])
    noun = _word(wanted.shape, rng) if wanted.shape else rng.choice(("thing", "shape", "object"))
    words = " ".join([*adjectives, noun])
    return _article(words) if article else words


def _ground_words(ground: Ground, rng: Random) -> str:
    """Describe a ground, to follow "on" or "against": "a red background", "red and white stripes"."""
    names = [_word(colour, rng) for colour in ground.colours]
    if not ground.striped:
        name = names[0]
        return rng.choice((f"{_article(name)} background", f"{_article(name)} background", name))
    rng.shuffle(names)
    both = f"{names[0]} and {names[1]}"
    return rng.choice((f"{both} stripes", f"{_article(both)} striped background", f"a background striped {both}"))


def _stripes_words(rng: Random) -> str:
    return rng.choice(("stripes", "a striped background", "a background with stripes"))


def _standing(wanted: Wanted, rng: Random, *, article: bool = True) -> str:
    place = "" if wanted.place is None else " " + _word(wanted.place, rng)
    return _noun_phrase(wanted, rng, article=article) + place


def _things_words(query: Query, rng: Random, *, article: bool = True) -> str:
    if len(query.things) < 2:
        return _standing(query.things[0], rng, article=article)
    one, other = (_noun_phrase(wanted, rng, article=article) for wanted in query.things)
    if query.relation is None:
        return rng.choice((f"{one} and {other}", f"{other} and {one}"))
    if rng.random() < 0.5:
        return f"{one} {_word(query.relation, rng)} {other}"
    return f"{other} {_word(_OPPOSITE[query.relation], rng)} {one}"


def describe(query: Query, rng: Random, *, article: bool = True) -> str:
    """Put the query into words, chosen at random from many wordings of the same meaning."""
    ground = _stripes_words(rng) if query.striped else query.ground and _ground_words(query.ground, rng)
    if not query.things:
        assert ground, "a query names something"
        return ground if "background" in ground or "stripes" in ground else f"on {ground}"
    things = _things_words(query, rng, article=article)
    if not ground:
        return things
    before = rng.choice(("on", "on", "on", "against", "in front of"))
    if before == "on" and rng.random() < 0.15:
        return f"on {ground}, {things}"
    return f"{things} {before} {ground}"


def full_caption(scene: Scene, rng: Random) -> Caption:
    """Make a caption that names every attribute of the scene.

    Example: "a picture of a large red circle at the top on black and white stripes"
    """
    query = full_query(scene)
    words = describe(query, rng)
    opening = "" if words.startswith("on ") else rng.choice(_OPENINGS)
    return Caption(opening + words + rng.choice(("", "", ".")), query)


def _short_thing(thing: Thing, names: set[str]) -> Wanted:
    return Wanted(thing.shape if "shape" in names else None, thing.colour if "colour" in names else None)


def short_query(scene: Scene, rng: Random) -> Query:
    """Make a query that matches the scene and names one to three of its attributes."""
    length = rng.choices(_SHORT_LENGTHS, _SHORT_WEIGHTS)[0]
    striped = scene.ground.striped and rng.random() < 0.5  # stripes, or the stripes' colours
    ground = None if striped else scene.ground
    if isinstance(scene, Pair) and length > 1 and rng.random() < 0.6:
        return _short_pair(scene, length, rng)
    if isinstance(scene, Pair):
        names = set(_pick(("shape", "colour", "ground"), (4, 4, 1), min(length, 3), rng))
        wanted = _short_thing(rng.choice((scene.first, scene.second)), names)
    elif isinstance(scene, Single):
        names = set(_pick(("shape", "colour", "size", "place", "ground"), (4, 4, 2, 2, 2), length, rng))
        wanted = _short_thing(scene.thing, names)
        wanted = replace(wanted, size=scene.size if "size" in names else None)
        wanted = replace(wanted, place=scene.place if "place" in names else None)
    else:
        names = set(_pick(("shape", "colour", "count", "ground"), (4, 4, 4, 1), length, rng))
        wanted = _short_thing(scene.thing, names)
        if "count" in names:
            wanted = replace(wanted, count=scene.count)
        elif names & {"shape", "colour"} and length < 3 and rng.random() < 0.6:
            wanted = replace(wanted, count=MANY)
    if "ground" not in names:
        return Query((wanted,))
    things = () if wanted == Wanted() else (wanted,)
    return Query(things, ground=ground, striped=striped)


def _short_pair(scene: Pair, length: int, rng: Random) -> Query:
    """Make a query with one attribute of each thing, and possibly a third or the relation between them."""
    one = _short_thing(scene.first, {rng.choice(("shape", "shape", "colour"))})
    other = _short_thing(scene.second, {rng.choice(("shape", "shape", "colour"))})
    if length < 3:
        return Query((one, other))
    if rng.random() < 0.6:
        return Query((one, other), scene.relation)
    if rng.random() < 0.5:
        return Query((_short_thing(scene.first, {"shape", "colour"}), other))
    return Query((one, _short_thing(scene.second, {"shape", "colour"})))


def _pick(names: tuple[str, ...], weights: tuple[int, ...], count: int, rng: Random) -> list[str]:
    """Pick `count` different names at random, by weight."""
    keys = {name: rng.random() ** (1 / weight) for name, weight in zip(names, weights, strict=True)}
    return sorted(names, key=lambda name: -keys[name])[:count]


def short_caption(scene: Scene, rng: Random) -> Caption:
    """Make a caption such as people type in a hurry: "a black heart", "something red", "heart on red"."""
    query = short_query(scene, rng)
    return Caption(describe(query, rng, article=rng.random() < 0.65), query)
