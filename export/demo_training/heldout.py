"""The held-out set: pictures the model never saw, as JPEG files, with texts to search for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from clipdex.base.errors import InvalidArgument
from clipdex_export.demo.captions import Caption, full_caption, short_caption
from clipdex_export.demo.draw import save_picture
from clipdex_export.demo.queries import Query, match_matrix
from clipdex_export.demo.sampling import sample_where
from clipdex_export.demo.scenes import Scene, has_unseen_combination, is_unseen_scene, meaning

UNSEEN_SCENES = 800
UNSEEN_COMBINATIONS = 200
SHORT_QUERIES = 200
LEAST_ANSWERS = 5  # a short query is used only if its precision@5 can be 1

_TRIES = 200  # captions drawn for each query wanted
_SIZES = (240, 256, 320, 400)


@dataclass(frozen=True)
class HeldOut:
    """N pictures of pairwise different meaning, a full caption of each, and short queries over all of them."""

    scenes: list[Scene]
    paths: list[Path]
    captions: list[Caption]
    queries: list[Caption]
    answers: NDArray[np.bool_]  # (queries, N): True if a short query matches a picture


def sample_held_out(
    seed: int | str, *, unseen_scenes: int = UNSEEN_SCENES, unseen_combinations: int = UNSEEN_COMBINATIONS
) -> list[Scene]:
    """Draw scenes of pairwise different meaning: first unseen scenes, then those with unseen combinations."""
    rng = Random(f"held-out/{seed}")
    chosen: dict[str, Scene] = {}
    for wanted, count in ((is_unseen_scene, unseen_scenes), (has_unseen_combination, unseen_combinations)):
        goal = len(chosen) + count
        while len(chosen) < goal:
            scene = sample_where(rng, wanted)
            chosen.setdefault(meaning(scene), scene)
    return list(chosen.values())


def sample_short_queries(
    scenes: list[Scene], count: int, seed: int | str
) -> tuple[list[Caption], NDArray[np.bool_]]:
    """Draw `count` short captions of different meaning with at least LEAST_ANSWERS true answers -> also these.

    Raises InvalidArgument if there are too few scenes for that.
    """
    rng = Random(f"short/{seed}")
    chosen: dict[Query, Caption] = {}
    answers: list[NDArray[np.bool_]] = []
    for _ in range(_TRIES * count):
        if len(chosen) == count:
            break
        caption = short_caption(rng.choice(scenes), rng)
        found = match_matrix([caption.query], scenes)[0]
        if caption.query not in chosen and found.sum() >= LEAST_ANSWERS:
            chosen[caption.query] = caption
            answers.append(found)
    if len(chosen) < count:
        raise InvalidArgument(
            f"{len(scenes)} scenes are too few for {count} short queries with {LEAST_ANSWERS} answers each; "
            "draw more scenes or ask fewer queries"
        )
    return list(chosen.values()), np.stack(answers)


def draw_held_out(
    directory: Path,
    *,
    seed: int | str = "test",
    unseen_scenes: int = UNSEEN_SCENES,
    unseen_combinations: int = UNSEEN_COMBINATIONS,
    short_queries: int = SHORT_QUERIES,
) -> HeldOut:
    """Draw the set to `directory` as JPEG files of several sizes; the same seed gives the same files."""
    scenes = sample_held_out(seed, unseen_scenes=unseen_scenes, unseen_combinations=unseen_combinations)
    rng = Random(f"texts/{seed}")
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{number:04}.jpg" for number in range(len(scenes))]
    for path, scene in zip(paths, scenes, strict=True):
        save_picture(scene, f"{seed}/{path.stem}", path, size=rng.choice(_SIZES))
    captions = [full_caption(scene, rng) for scene in scenes]
    queries, answers = sample_short_queries(scenes, short_queries, seed)
    return HeldOut(scenes, paths, captions, queries, answers)
