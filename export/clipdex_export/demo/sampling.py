"""Random sampling of scenes: independent ones, or families that differ in one attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from clipdex_export.demo.scenes import (
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Pair,
    Scene,
    Single,
    Thing,
    all_grounds,
    is_for_training,
    is_sound,
)

_COLOURS = tuple(COLOURS)
_PLAIN = tuple(ground for ground in all_grounds() if not ground.striped)
_STRIPED = tuple(ground for ground in all_grounds() if ground.striped)

# The attribute that a family varies. Shape is the hardest to see at 64 pixels, so it is chosen most often.
_VARIED = ("shape", "colour", "size", "place", "count", "relation", "ground")
_VARIED_WEIGHTS = (45, 12, 12, 12, 12, 5, 8)

FAMILY = 4


def _thing(rng: Random) -> Thing:
    return Thing(rng.choice(SHAPES), rng.choice(_COLOURS))


def sample_scene(rng: Random) -> Scene:
    """Draw a scene in which everything is visible: 40 % singles, 30 % pairs, 30 % groups; 1 in 3 striped."""
    while True:
        ground = rng.choice(_STRIPED if rng.random() < 1 / 3 else _PLAIN)
        kind = rng.random()
        scene: Scene
        if kind < 0.4:
            scene = Single(_thing(rng), rng.choice(SIZES), rng.choice(PLACES), ground)
        elif kind < 0.7:
            first, second = _thing(rng), _thing(rng)
            if first == second:
                continue
            scene = Pair(first, second, rng.choice(RELATIONS), ground)
        else:
            scene = Group(_thing(rng), rng.choice(COUNTS), ground)
        if is_sound(scene):
            return scene


def sample_where(rng: Random, wanted: Callable[[Scene], bool]) -> Scene:
    """Draw random scenes until `wanted` holds for one -> that scene."""
    while True:
        scene = sample_scene(rng)
        if wanted(scene):
            return scene


def _vary_thing(thing: Thing, attribute: str, rng: Random) -> Thing:
    if attribute == "shape":
        return replace(thing, shape=rng.choice(SHAPES))
    return replace(thing, colour=rng.choice(_COLOURS))


def vary(scene: Scene, attribute: str, rng: Random) -> Scene:
    """Redraw one attribute of a scene (possibly to the same value); a scene without it is returned as it is."""
    if attribute == "ground":
        return replace(scene, ground=rng.choice(_STRIPED if scene.ground.striped else _PLAIN))
    if isinstance(scene, Pair):
        if attribute == "relation":
            first, second = rng.choice(((scene.first, scene.second), (scene.second, scene.first)))
            return replace(scene, first=first, second=second, relation=rng.choice(RELATIONS))
        if attribute in ("shape", "colour"):
            if rng.random() < 0.5:
                return replace(scene, first=_vary_thing(scene.first, attribute, rng))
            return replace(scene, second=_vary_thing(scene.second, attribute, rng))
        return scene
    if attribute in ("shape", "colour"):
        return replace(scene, thing=_vary_thing(scene.thing, attribute, rng))
    if isinstance(scene, Single) and attribute == "size":
        return replace(scene, size=rng.choice(SIZES))
    if isinstance(scene, Single) and attribute == "place":
        return replace(scene, place=rng.choice(PLACES))
    if isinstance(scene, Group) and attribute == "count":
        return replace(scene, count=rng.choice(COUNTS))
    return scene


def sample_family(rng: Random) -> list[Scene]:
    """Draw FAMILY training scenes that differ in one attribute, or fewer if it has fewer values."""
    base = sample_where(rng, is_for_training)
    attribute = rng.choices(_VARIED, _VARIED_WEIGHTS)[0]
    family: dict[Scene, None] = {base: None}  # a dict keeps the order; a set's would not be repeatable
    for _ in range(4 * FAMILY):
        if len(family) == FAMILY:
            break
        variant = vary(base, attribute, rng)
        if is_sound(variant) and is_for_training(variant):
            family[variant] = None
    return list(family)


def sample_training_scenes(rng: Random, count: int) -> list[Scene]:
    """Draw `count` training scenes, half of them in families."""
    scenes: list[Scene] = []
    while len(scenes) < count // 2:
        scenes += sample_family(rng)
    while len(scenes) < count:
        scenes.append(sample_where(rng, is_for_training))
    return scenes[:count]
