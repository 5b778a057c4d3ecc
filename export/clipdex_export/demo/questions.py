"""The ten questions of `make demo`, and the pictures to search. Does not need torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from clipdex.base.errors import InvalidArgument
from clipdex_export.demo.draw import save_picture
from clipdex_export.demo.queries import Query, Wanted, bend, matches
from clipdex_export.demo.sampling import sample_scene, sample_where
from clipdex_export.demo.scenes import (
    Ground,
    Scene,
    has_unseen_combination,
    is_for_training,
    is_sound,
    is_unseen_scene,
)

DEMO_PICTURES = 1000
DEMO_SEED = "demo"
LEAST_ANSWERS = 5


@dataclass(frozen=True)
class Question:
    """A text as a person types it, and its meaning."""

    text: str
    query: Query

    def is_answered_by(self, scene: Scene) -> bool:
        """Return whether the scene has everything that the text names."""
        return matches(scene, self.query)


QUESTIONS = (
    Question("a black heart", Query((Wanted("heart", "black"),))),
    Question("three yellow stars", Query((Wanted("star", "yellow", count=3),))),
    Question("a small red circle", Query((Wanted("circle", "red", size="small"),))),
    Question(
        "a green square on a black background", Query((Wanted("square", "green"),), ground=Ground(("black",)))
    ),
    Question("a heart above a circle", Query((Wanted("heart"), Wanted("circle")), "above")),
    Question("two purple triangles", Query((Wanted("triangle", "purple", count=2),))),
    Question("something orange at the top", Query((Wanted(colour="orange", place="top"),))),
    Question("a white moon", Query((Wanted("crescent", "white"),))),
    Question("a pink arrow on stripes", Query((Wanted("arrow", "pink"),), striped=True)),
    # Training never showed or named a blue heart.
    Question("a blue heart", Query((Wanted("heart", "blue"),))),
)


def demo_scenes(count: int = DEMO_PICTURES, seed: int | str = DEMO_SEED) -> list[Scene]:
    """Make `count` scenes that training left out, in random order.

    At least LEAST_ANSWERS of them answer each of QUESTIONS; the rest are random. So `count` is at least
    len(QUESTIONS) * LEAST_ANSWERS.
    """
    if count < len(QUESTIONS) * LEAST_ANSWERS:
        raise InvalidArgument(
            f"the demo has {count} pictures; expected at least {len(QUESTIONS) * LEAST_ANSWERS}, to include the "
            "answers to its questions"
        )
    rng = Random(f"questions/{seed}")
    scenes = [answer for question in QUESTIONS for answer in _answers(question, rng)]
    while len(scenes) < count:
        scenes.append(sample_where(rng, is_unseen_scene if rng.random() < 0.8 else has_unseen_combination))
    rng.shuffle(scenes)
    return scenes


def _answers(question: Question, rng: Random) -> list[Scene]:
    """Make LEAST_ANSWERS true answers, by changing scenes to fit the question: drawing until they fit is slow."""
    answers: list[Scene] = []
    while len(answers) < LEAST_ANSWERS:
        scene = bend(sample_scene(rng), question.query)
        if is_sound(scene) and not is_for_training(scene) and question.is_answered_by(scene):
            answers.append(scene)
    return answers


def draw_demo_pictures(
    directory: Path, count: int = DEMO_PICTURES, seed: int | str = DEMO_SEED
) -> dict[Path, Scene]:
    """Draw `demo_scenes` to JPEG files 0000.jpg, 0001.jpg, … in `directory` -> the scene of each path."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {directory / f"{number:04}.jpg": scene for number, scene in enumerate(demo_scenes(count, seed))}
    for path, scene in pictures.items():
        save_picture(scene, f"{seed}/{path.stem}", path)
    return pictures
