"""Evaluation of the demo model: python -m demo_training.evaluate --server HOST:PORT (or --checkpoint DIR)"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import clipdex
from clipdex.base.errors import ClipdexError
from clipdex_export.demo.questions import QUESTIONS, draw_demo_pictures
from clipdex_export.demo.scenes import Group, Pair, Scene, Single, has_unseen_combination
from demo_training.heldout import HeldOut, draw_held_out

_TOP = 5


class Encoder(Protocol):
    """Both towers of a model: float32 unit vectors, (N, D). `clipdex.connect` returns one."""

    def embed_images(self, images: Sequence[Path], /) -> NDArray[np.float32]:
        """Embed picture files, one row each."""

    def embed_texts(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Embed texts, one row each."""


@dataclass(frozen=True)
class Report:
    """The results of an evaluation. Rates are fractions of 1; recall is text to image, by part of the set.

    misses: over full captions whose picture was not first, the number of first pictures that were wrong in each
        attribute ("kind": one thing, two things or a group instead of another of these).
    precision_by_attributes: precision@5 of short queries, by the number of attributes they name.
    wrong_queries: short queries with a wrong picture among their first five.
    questions_right: the number of the demo's ten questions with a true answer at rank 1.
    """

    pictures: int
    recall_at_1: dict[str, float]
    recall_at_5: dict[str, float]
    misses: dict[str, int]
    missed: int
    short_queries: int
    precision_at_5: float
    precision_by_attributes: dict[int, float]
    wrong_queries: list[str]
    questions_right: int | None = None

    def summary(self) -> str:
        """Format the main results as one line."""
        return (
            f"recall@1 {self.recall_at_1['all']:.3f}, recall@5 {self.recall_at_5['all']:.3f}, "
            f"unseen combinations {self.recall_at_1['unseen combinations']:.3f}, "
            f"precision@5 of short queries {self.precision_at_5:.3f}, misses {self.misses}"
        )

    def table(self) -> str:
        """Format all results as a readable table."""
        lines = [f"{self.pictures} held-out pictures        recall@1  recall@5"]
        for part, first in self.recall_at_1.items():
            lines.append(f"  {part:28} {first:8.3f}  {self.recall_at_5[part]:8.3f}")
        lines.append(f"{self.missed} first pictures are wrong, in: " + _counts(self.misses))
        lines.append(f"{self.short_queries} short queries              precision@5 {self.precision_at_5:.3f}")
        for attributes, precision in self.precision_by_attributes.items():
            lines.append(
                f"  naming {attributes} attribute{'s' * (attributes > 1)}                     {precision:.3f}"
            )
        if self.wrong_queries:
            lines.append("  not all right: " + "; ".join(self.wrong_queries))
        if self.questions_right is not None:
            lines.append(f"{self.questions_right} of {len(QUESTIONS)} demo questions answered right at rank 1")
        return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing"


def differences(wanted: Scene, found: Scene) -> list[str]:
    """List the attributes in which two scenes differ; scenes of different kinds differ only in "kind".

    Example: a red star left of a blue ring, and a red star left of a blue circle: ["shape"]
    """
    if type(wanted) is not type(found):
        return ["kind"]
    different = []
    if isinstance(wanted, Pair) and isinstance(found, Pair):
        ours, theirs = (wanted.first, wanted.second), (found.first, found.second)
        swapped = ours == theirs[::-1]
        if swapped or wanted.relation != found.relation:
            different.append("relation")
        things = list(zip(ours, theirs[::-1] if swapped else theirs, strict=True))
    else:
        assert not isinstance(wanted, Pair) and not isinstance(found, Pair)
        things = [(wanted.thing, found.thing)]
        for attribute in ("count",) if isinstance(wanted, Group) else ("size", "place"):
            if getattr(wanted, attribute) != getattr(found, attribute):
                different.append(attribute)
    if any(one.shape != other.shape for one, other in things):
        different.append("shape")
    if any(one.colour != other.colour for one, other in things):
        different.append("colour")
    if wanted.ground != found.ground:
        different.append("ground")
    return different


def _best(queries: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.intp]:
    """Find the nearest images: float32 (Q, D), (N, D) -> int (Q, 5), rows, best first."""
    return np.argsort(-(queries @ images.T), axis=1, kind="stable")[:, :_TOP]


def _parts(scenes: Sequence[Scene]) -> dict[str, NDArray[np.bool_]]:
    """Return the parts that are reported separately, as masks (N,), without empty ones."""
    combination = [has_unseen_combination(scene) for scene in scenes]
    masks = {
        "all": [True] * len(scenes),
        "unseen scenes": [not unseen for unseen in combination],
        "unseen combinations": combination,
        "one thing": [isinstance(scene, Single) for scene in scenes],
        "two things": [isinstance(scene, Pair) for scene in scenes],
        "several equal things": [isinstance(scene, Group) for scene in scenes],
    }
    return {name: np.array(mask) for name, mask in masks.items() if any(mask)}


def measure(encoder: Encoder, held_out: HeldOut) -> Report:
    """Search all pictures for each one's full caption, and for the short queries."""
    images = encoder.embed_images(held_out.paths)
    texts = encoder.embed_texts([caption.text for caption in held_out.captions])
    ranked = _best(texts, images)
    right = ranked == np.arange(len(images))[:, None]  # (N, 5)
    parts = _parts(held_out.scenes)
    missed = np.flatnonzero(~right[:, 0])
    misses = Counter(
        attribute
        for row in missed
        for attribute in differences(held_out.scenes[row], held_out.scenes[ranked[row, 0]])
    )
    best = _best(encoder.embed_texts([caption.text for caption in held_out.queries]), images)
    true = np.take_along_axis(held_out.answers, best, axis=1)  # (Q, 5)
    named = np.array([caption.query.attributes for caption in held_out.queries])
    return Report(
        pictures=len(images),
        recall_at_1={name: float(right[part, 0].mean()) for name, part in parts.items()},
        recall_at_5={name: float(right[part].any(axis=1).mean()) for name, part in parts.items()},
        misses=dict(misses.most_common()),
        missed=len(missed),
        short_queries=len(held_out.queries),
        precision_at_5=float(true.mean()),
        precision_by_attributes={int(n): float(true[named == n].mean()) for n in np.unique(named)},
        wrong_queries=[held_out.queries[row].text for row in np.flatnonzero(~true.all(axis=1))],
    )


def count_right_questions(encoder: Encoder, pictures: dict[Path, Scene]) -> int:
    """Count the demo's questions with a true answer at rank 1."""
    scenes = list(pictures.values())
    images = encoder.embed_images(list(pictures))
    best = _best(encoder.embed_texts([question.text for question in QUESTIONS]), images)[:, 0]
    return sum(
        question.is_answered_by(scenes[row]) for question, row in zip(QUESTIONS, best.tolist(), strict=True)
    )


@contextmanager
def _encoder(options: argparse.Namespace) -> Iterator[Encoder]:
    if options.checkpoint is None:
        with clipdex.connect(options.server, model=options.model) as client:
            yield client
    else:
        from demo_training.torch_encoder import TorchEncoder

        yield TorchEncoder(options.checkpoint)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo_training.evaluate", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--server", metavar="ADDRESS", help="HOST:PORT of a Triton, or inproc:DIR")
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="the checkpoint, evaluated with PyTorch")
    parser.add_argument("--model", default="demo", help="name on the server (default %(default)s)")
    parser.add_argument("--seed", default="test", help="seed of the held-out set (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as directory, _encoder(options) as encoder:
            report = measure(encoder, draw_held_out(Path(directory) / "held-out", seed=options.seed))
            right = count_right_questions(encoder, draw_demo_pictures(Path(directory) / "demo"))
    except ClipdexError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    fields = asdict(report) | {"questions_right": right}
    sys.stdout.write((json.dumps(fields, indent=2) if options.json else Report(**fields).table()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
