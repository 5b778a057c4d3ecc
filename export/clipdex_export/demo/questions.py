"""The ten questions of `make demo`, and the pictures they are asked of. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from clipdex.errors import InvalidArgument
from clipdex_export.demo.draw import save_picture
from clipdex_export.demo.queries import Query, Wanted, matches
from clipdex_export.demo.sampling import sample_scene
from clipdex_export.demo.scenes import Ground, Scene, has_unseen_combination, is_unseen_scene

DEMO_PICTURES = 1000
DEMO_SEED = "demo"
LEAST_ANSWERS = 5


@dataclass(frozen=True)
class Question:
    """A text as a person types it, and what it means."""

    text: str
    query: Query

    def is_answered_by(self, scene: Scene) -> bool:
        """Whether everything the text names is in the picture of that scene."""
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
    Question("pink arrows on stripes", Query((Wanted("arrow", "pink", count=0),), striped=True)),
    # Training never showed a heart in blue, nor named one.
    Question("a blue heart", Query((Wanted("heart", "blue"),))),
)


def demo_scenes(count: int = DEMO_PICTURES, seed: int | str = DEMO_SEED) -> list[Scene]:
    """`count` scenes that training left out, in mixed order.

    LEAST_ANSWERS of them or more answer each of QUESTIONS; the rest come as they fall. So `count` is
    len(QUESTIONS) * LEAST_ANSWERS or more.
    """
    if count < len(QUESTIONS) * LEAST_ANSWERS:
        raise InvalidArgument(
            f"the demo needs {len(QUESTIONS) * LEAST_ANSWERS} pictures or more to hold the answers to its "
            f"questions, and {count} were asked for"
        )
    rng = Random(f"questions/{seed}")
    answers: list[Scene] = []
    others: list[Scene] = []
    missing = dict.fromkeys(QUESTIONS, LEAST_ANSWERS)
    while missing or len(answers) + len(others) < count:
        scene = sample_scene(rng)
        # Unseen combinations would otherwise be two thirds of all: no share of them is held out, but all.
        if not is_unseen_scene(scene) and (not has_unseen_combination(scene) or rng.random() > 0.15):
            continue
        answered = [question for question in missing if question.is_answered_by(scene)]
        if not answered:
            others.append(scene)
            continue
        answers.append(scene)
        for question in answered:
            missing[question] -= 1
            if missing[question] == 0:
                del missing[question]
    scenes = (answers + others)[:count]
    rng.shuffle(scenes)
    return scenes


def draw_demo_pictures(
    directory: Path, count: int = DEMO_PICTURES, seed: int | str = DEMO_SEED
) -> dict[Path, Scene]:
    """Draws `demo_scenes` as JPEG files 0000.jpg, 0001.jpg, … in `directory`: the path and scene of each."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {directory / f"{number:04}.jpg": scene for number, scene in enumerate(demo_scenes(count, seed))}
    for path, scene in pictures.items():
        save_picture(scene, f"{seed}/{path.stem}", path)
    return pictures
