"""The demo's scenes: what they are, which are held out, how they are drawn and described, what a text fits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipdex.base.errors import InvalidArgument
from clipdex_export.demo.captions import full_caption, short_caption
from clipdex_export.demo.draw import draw, owners, save_picture
from clipdex_export.demo.queries import MANY, Query, Wanted, full_query, match_matrix, matches
from clipdex_export.demo.questions import LEAST_ANSWERS as LEAST_DEMO_ANSWERS
from clipdex_export.demo.questions import QUESTIONS, demo_scenes, draw_demo_pictures
from clipdex_export.demo.sampling import sample_family, sample_scene, sample_training_scenes
from clipdex_export.demo.scenes import (
    COLOURS,
    SHAPES,
    UNSEEN_COMBINATIONS,
    Ground,
    Group,
    Pair,
    Single,
    Thing,
    all_grounds,
    has_unseen_combination,
    is_for_training,
    is_sound,
    is_unseen_scene,
    meaning,
    things_of,
)
from demo_training.heldout import LEAST_ANSWERS, draw_held_out

BLACK = Ground(("black",))
STRIPES = Ground(("black", "white"))
HEART = Thing("heart", "red")
STAR = Thing("star", "red")

SINGLE = Single(HEART, "small", "top", BLACK)
PAIR = Pair(HEART, Thing("ring", "cyan"), "left of", STRIPES)
STARS = Pair(STAR, Thing("star", "yellow"), "above", BLACK)
GROUP = Group(STAR, 3, BLACK)

HELD_OUT_SMALL_AT_THE_TOP_ON_BLACK = [
    ("circle", "yellow"),
    ("circle", "cyan"),
    ("triangle", "red"),
    ("triangle", "blue"),
    ("star", "yellow"),
    ("heart", "cyan"),
    ("cross", "white"),
    ("crescent", "green"),
    ("diamond", "red"),
]


@pytest.fixture(scope="module")
def scenes():
    rng = Random(7)
    return [sample_scene(rng) for _ in range(1500)]


# The split


def test_each_shape_and_each_colour_has_one_unseen_combination():
    assert sorted(thing.shape for thing in UNSEEN_COMBINATIONS) == sorted(SHAPES)
    assert sorted(thing.colour for thing in UNSEEN_COMBINATIONS) == sorted(COLOURS)


def test_every_scene_is_in_exactly_one_part(scenes):
    for scene in scenes:
        assert is_for_training(scene) + is_unseen_scene(scene) + has_unseen_combination(scene) == 1


def test_a_tenth_of_the_known_things_scenes_is_held_out(scenes):
    known = [scene for scene in scenes if not has_unseen_combination(scene)]
    assert 0.07 < sum(map(is_unseen_scene, known)) / len(known) < 0.13


def test_the_split_is_the_same_on_every_machine():
    colours = [name for name in COLOURS if name != "black"]
    held_out = [
        (shape, colour)
        for shape in SHAPES
        for colour in colours
        if is_unseen_scene(Single(Thing(shape, colour), "small", "top", BLACK))
    ]
    assert held_out == HELD_OUT_SMALL_AT_THE_TOP_ON_BLACK


def test_training_shows_nothing_that_is_held_out():
    drawn = sample_training_scenes(Random(3), 600)
    assert len(drawn) == 600
    assert all(map(is_for_training, drawn))
    assert not any(thing in UNSEEN_COMBINATIONS for scene in drawn for thing in things_of(scene))


def test_everything_drawn_can_be_told_apart(scenes):
    assert all(map(is_sound, scenes))
    assert not is_sound(Single(Thing("star", "orange"), "large", "top", Ground(("yellow",))))
    assert not is_sound(Pair(STAR, STAR, "above", BLACK))
    assert Ground(("orange", "yellow")) not in set(all_grounds())


def test_a_family_differs_in_one_attribute():
    rng = Random(5)
    fields: Counter[Any] = Counter()
    for _ in range(300):
        base, *others = sample_family(rng)
        for other in others:
            assert type(other) is type(base) and other != base
            fields[tuple(name for name in vars(base) if getattr(base, name) != getattr(other, name))] += 1
    one_field = {("thing",), ("first",), ("second",), ("size",), ("place",), ("count",), ("ground",)}
    # A pair's relation varies together with which thing comes first: that is one change of the picture.
    turned = {("relation",), ("first", "second"), ("first", "second", "relation")}
    assert set(fields) <= one_field | turned
    assert one_field <= set(fields)


def test_meaning_tells_scenes_apart(scenes):
    assert len({meaning(scene) for scene in scenes}) == len(set(scenes))
    assert meaning(SINGLE) == "1 red heart small top / black"


# What a query fits


@pytest.mark.parametrize(
    ("scene", "query", "fits"),
    [
        (SINGLE, Query((Wanted("heart"),)), True),
        (SINGLE, Query((Wanted("heart", "red", "small", "top"),), ground=BLACK), True),
        (SINGLE, Query((Wanted("heart", "blue"),)), False),
        (SINGLE, Query((Wanted("heart", size="large"),)), False),
        (SINGLE, Query((Wanted("heart", place="left"),)), False),
        (SINGLE, Query((Wanted("heart", count=MANY),)), False),
        (SINGLE, Query(ground=BLACK), True),
        (SINGLE, Query(ground=STRIPES), False),
        (SINGLE, Query(striped=True), False),
        (SINGLE, Query((Wanted("heart"), Wanted("heart"))), False),
        (PAIR, Query((Wanted("ring"),)), True),
        (PAIR, Query((Wanted("ring", "red"),)), False),
        (PAIR, Query((Wanted("ring", size="small"),)), False),
        (PAIR, Query((Wanted("heart"), Wanted("ring")), "left of"), True),
        (PAIR, Query((Wanted("ring"), Wanted("heart")), "left of"), False),
        (PAIR, Query((Wanted("heart"), Wanted("ring")), "above"), False),
        (PAIR, Query((Wanted("ring"), Wanted("heart"))), True),
        (PAIR, Query((Wanted("heart"), Wanted("heart"))), False),
        (PAIR, Query((Wanted("heart", count=MANY),)), False),
        (PAIR, Query((Wanted(count=2),)), True),
        (PAIR, Query(striped=True), True),
        (STARS, Query((Wanted("star", count=2),)), True),
        (STARS, Query((Wanted("star", count=MANY),)), True),
        (STARS, Query((Wanted("star", "red", count=2),)), False),
        (STARS, Query((Wanted("star", count=3),)), False),
        (GROUP, Query((Wanted("star", "red", count=3),)), True),
        (GROUP, Query((Wanted("star", count=MANY),)), True),
        (GROUP, Query((Wanted("star"),)), True),
        (GROUP, Query((Wanted("star", count=2),)), False),
        (GROUP, Query((Wanted("star", place="top"),)), False),
        (GROUP, Query((Wanted("star"), Wanted("star"))), False),
    ],
)
def test_matches(scene, query, fits):
    assert matches(scene, query) is fits
    assert match_matrix([query], [scene]).tolist() == [[fits]]


def test_the_matrix_says_what_matches_says(scenes):
    rng = Random(1)
    some = scenes[:120]
    queries = [short_caption(scene, rng).query for scene in some] + [full_query(scene) for scene in some[:40]]
    one_by_one = np.array([[matches(scene, query) for scene in some] for query in queries])
    assert np.array_equal(match_matrix(queries, some), one_by_one)
    assert 0.01 < one_by_one.mean() < 0.5


# Captions


def test_a_full_caption_fits_its_own_meaning_alone(scenes):
    rng = Random(2)
    different = list({meaning(scene): scene for scene in scenes}.values())[:400]
    captions = [full_caption(scene, rng) for scene in different]
    assert np.array_equal(match_matrix([c.query for c in captions], different), np.eye(400, dtype=bool))


def test_a_short_caption_fits_its_scene_and_names_one_to_three_attributes(scenes):
    rng = Random(2)
    captions = [short_caption(scene, rng) for scene in scenes]
    assert all(matches(scene, caption.query) for scene, caption in zip(scenes, captions, strict=True))
    lengths = Counter(caption.query.attributes for caption in captions)
    assert set(lengths) == {1, 2, 3}
    assert min(lengths.values()) > 150


def test_captions_vary_in_wording_and_say_what_is_there():
    rng = Random(0)
    texts = {full_caption(SINGLE, rng).text for _ in range(200)}
    assert len(texts) > 100
    assert all("red" in text and "heart" in text and "black" in text for text in texts)
    assert {short_caption(GROUP, rng).text for _ in range(400)} >= {"three stars", "stars", "something red"}


def test_a_relation_is_told_from_either_side():
    rng = Random(0)
    texts = " | ".join(full_caption(PAIR, rng).text for _ in range(60))
    assert "red heart left of" in texts and "red heart to the left of" in texts
    assert "right of a red heart" in texts and "to the right of a red heart" in texts


# Drawing


def test_the_same_seed_draws_the_same_pixels():
    for scene in (SINGLE, PAIR, GROUP):
        assert draw(scene, 1).tobytes() == draw(scene, 1).tobytes()
        assert draw(scene, 1).tobytes() != draw(scene, 2).tobytes()


def test_colours_are_where_the_scene_says():
    scene = Single(Thing("square", "green"), "large", "left", Ground(("white",)))
    pixels = np.asarray(draw(scene, 0, size=200)).astype(int)
    assert np.abs(pixels[100, 60] - COLOURS["green"]).max() < 25
    assert np.abs(pixels[100, 170] - COLOURS["white"]).max() < 25


@pytest.mark.parametrize("scene", [SINGLE, Group(Thing("square", "black"), 3, Ground(("white",)))])
def test_a_thing_owns_the_cells_where_the_picture_shows_it(scene):
    (ground,) = scene.ground.colours
    pixels = np.asarray(draw(scene, 4, size=128).resize((32, 32), Image.Resampling.BOX)).astype(int)
    to_thing, to_ground = (np.abs(pixels - COLOURS[colour]).sum(axis=2) for colour in (scene.thing.colour, ground))
    owned = owners(scene, 4, grid=32)
    assert set(np.unique(owned)) == {0, 1}
    assert ((to_thing < to_ground) & (owned == 0)).mean() < 0.02  # a square's corners reach a little further
    assert (to_thing < to_ground).sum() > 0.4 * (owned == 1).sum()


def test_the_things_of_a_pair_own_different_cells():
    owned = owners(PAIR, 0, grid=32)
    assert owned[:, :16].max() == 1 and owned[:, 16:].max() == 2
    assert (owned[:, 16:] == 1).sum() == (owned[:, :16] == 2).sum() == 0


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_group_has_as_many_things_as_it_says(count):
    for seed in range(10):
        scene = Group(Thing("circle", "black"), count, Ground(("white",)))
        assert _islands(np.asarray(draw(scene, seed, size=160).convert("L")) < 128) == count


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_shape_has_more_pixels_than_a_small_one(shape):
    small, large = (
        (np.asarray(draw(Single(Thing(shape, "black"), size, "middle", Ground(("white",))), 0).convert("L")) < 128)
        for size in ("small", "large")
    )
    assert _islands(small) == _islands(large) == 1
    assert large.sum() > 2 * small.sum()


def _islands(mask: np.ndarray) -> int:
    """Connected regions of True, by flooding one after the other; specks are noise of the outline."""
    left = set(zip(*np.nonzero(mask), strict=True))
    islands = 0
    while left:
        edge = [left.pop()]
        size = 0
        while edge:
            row, column = edge.pop()
            size += 1
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        islands += size > 20
    return islands


def test_a_saved_picture_is_a_jpeg_of_the_size_asked_for(tmp_path):
    save_picture(SINGLE, 0, tmp_path / "a.jpg", size=240)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (240, 240), "RGB")


def test_drawing_loads_no_torch():
    code = (
        "import clipdex_export.demo.questions, sys; "
        "sys.exit(not {'torch', 'transformers', 'onnx'}.isdisjoint(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The demo's gallery and the held-out set


def test_no_demo_picture_was_seen_in_training_and_every_question_has_answers():
    scenes = demo_scenes()
    assert len(scenes) == 1000
    assert not any(map(is_for_training, scenes))
    assert scenes == demo_scenes()
    for question in QUESTIONS:
        assert sum(map(question.is_answered_by, scenes)) >= LEAST_DEMO_ANSWERS, question.text
        assert 1 <= question.query.attributes <= 3
    assert len(QUESTIONS) == 10


def test_demo_pictures_are_files_in_the_order_of_their_names(tmp_path):
    pictures = draw_demo_pictures(tmp_path, 60)
    assert [path.name for path in pictures] == [f"{i:04}.jpg" for i in range(60)]
    assert all(path.stat().st_size > 1000 for path in pictures)
    assert list(pictures.values()) == demo_scenes(60)


def test_too_few_demo_pictures_are_refused():
    with pytest.raises(InvalidArgument, match=r"has 10 pictures; expected at least 50"):
        demo_scenes(10)


@pytest.mark.slow
def test_the_held_out_set_is_of_two_parts_and_its_captions_differ(tmp_path):
    held_out = draw_held_out(tmp_path, unseen_scenes=160, unseen_combinations=40, short_queries=20)
    assert [is_unseen_scene(scene) for scene in held_out.scenes] == [True] * 160 + [False] * 40
    assert [has_unseen_combination(scene) for scene in held_out.scenes] == [False] * 160 + [True] * 40
    assert len({caption.text for caption in held_out.captions}) == 200
    assert match_matrix([c.query for c in held_out.captions], held_out.scenes).sum() == 200
    assert len({caption.query for caption in held_out.queries}) == 20
    assert (held_out.answers.sum(axis=1) >= LEAST_ANSWERS).all()
    assert all(path.is_file() for path in held_out.paths)
    again = draw_held_out(tmp_path / "b", unseen_scenes=160, unseen_combinations=40, short_queries=20)
    assert again.captions == held_out.captions and again.queries == held_out.queries
    assert again.paths[7].read_bytes() == held_out.paths[7].read_bytes()


@pytest.mark.slow
def test_more_short_queries_than_the_scenes_hold_are_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="10 scenes are too few for 50 short queries"):
        draw_held_out(tmp_path, unseen_scenes=8, unseen_combinations=2, short_queries=50)


def test_another_ground_is_another_meaning():
    assert meaning(replace(SINGLE, ground=STRIPES)) != meaning(SINGLE)
