"""Scenes, the contents of drawn pictures: one thing, two things, or several equal things, on a ground."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "crescent",
    "arrow",
    "diamond",
)

# sRGB, different enough to be told apart after the jitter of `draw`.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 40),
    "orange": (245, 135, 20),
    "yellow": (250, 225, 50),
    "green": (30, 150, 60),
    "cyan": (70, 215, 225),
    "blue": (35, 70, 205),
    "purple": (125, 45, 160),
    "pink": (250, 150, 195),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}

SIZES = ("small", "large")
PLACES = ("middle", "top", "bottom", "left", "right")
COUNTS = (2, 3, 4)
RELATIONS = ("left of", "above")

# Only orange on yellow is below it: the outline of a thing would hardly be visible.
LEAST_CONTRAST = 100.0


@dataclass(frozen=True)
class Thing:
    """A shape in a colour."""

    shape: str
    colour: str


@dataclass(frozen=True)
class Ground:
    """The background: one colour is plain, two (in the order of COLOURS) are stripes."""

    colours: tuple[str, ...]

    @property
    def striped(self) -> bool:
        """True if it has stripes."""
        return len(self.colours) == 2


@dataclass(frozen=True)
class Single:
    """One thing, with a size and a place."""

    thing: Thing
    size: str
    place: str
    ground: Ground


@dataclass(frozen=True)
class Pair:
    """Two different things of middling size: `first` is left of, or above, `second`."""

    first: Thing
    second: Thing
    relation: str
    ground: Ground


@dataclass(frozen=True)
class Group:
    """Two to four equal things, anywhere."""

    thing: Thing
    count: int
    ground: Ground


Scene: TypeAlias = Single | Pair | Group


def things_of(scene: Scene) -> tuple[Thing, ...]:
    """Return the different things in a scene: two for a pair, otherwise one."""
    if isinstance(scene, Pair):
        return (scene.first, scene.second)
    return (scene.thing,)


def contrast(one: str, other: str) -> float:
    """Return the Euclidean distance of two named colours in sRGB (0 to 442)."""
    return math.dist(COLOURS[one], COLOURS[other])


def all_grounds() -> Iterator[Ground]:
    """Yield every ground whose stripes, if any, can be told apart."""
    names = tuple(COLOURS)
    for i, first in enumerate(names):
        yield Ground((first,))
        for second in names[i + 1 :]:
            if contrast(first, second) >= LEAST_CONTRAST:
                yield Ground((first, second))


def is_sound(scene: Scene) -> bool:
    """Return whether every thing stands out from every colour of the ground, and the things of a pair differ."""
    if isinstance(scene, Pair) and scene.first == scene.second:
        return False
    return all(
        contrast(thing.colour, colour) >= LEAST_CONTRAST
        for thing in things_of(scene)
        for colour in scene.ground.colours
    )


def meaning(scene: Scene) -> str:
    """Return a line that is equal for scenes of the same meaning only; stable across versions of Python.

    Example: "1 red circle large top / black+white"
    """
    ground = "+".join(scene.ground.colours)
    if isinstance(scene, Single):
        return f"1 {scene.thing.colour} {scene.thing.shape} {scene.size} {scene.place} / {ground}"
    if isinstance(scene, Group):
        return f"{scene.count} {scene.thing.colour} {scene.thing.shape} / {ground}"
    first, second = scene.first, scene.second
    return f"{first.colour} {first.shape} {scene.relation} {second.colour} {second.shape} / {ground}"


# The split --------------------------------------------------------------------------------------------

# One for each shape and each colour: training never draws these, nor names them together.
UNSEEN_COMBINATIONS = frozenset(
    {
        Thing("circle", "purple"),
        Thing("square", "orange"),
        Thing("triangle", "cyan"),
        Thing("star", "green"),
        Thing("heart", "blue"),
        Thing("cross", "pink"),
        Thing("ring", "yellow"),
        Thing("crescent", "red"),
        Thing("arrow", "white"),
        Thing("diamond", "black"),
    }
)

UNSEEN_IN_TEN = 1  # tenths of all meanings excluded from training


def has_unseen_combination(scene: Scene) -> bool:
    """Return whether the scene has a shape in a colour in which training never shows that shape."""
    return any(thing in UNSEEN_COMBINATIONS for thing in things_of(scene))


def is_unseen_scene(scene: Scene) -> bool:
    """Return whether training excludes this scene, although it shows every thing in it."""
    held_out = zlib.crc32(meaning(scene).encode()) % 10 < UNSEEN_IN_TEN
    return held_out and not has_unseen_combination(scene)


def is_for_training(scene: Scene) -> bool:
    """Return whether training may show the scene."""
    return not has_unseen_combination(scene) and not is_unseen_scene(scene)
