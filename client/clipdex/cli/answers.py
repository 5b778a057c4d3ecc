"""The output of `clipdex search`: lines, JSON or CSV."""

from __future__ import annotations

from collections.abc import Sequence

from clipdex.apps.results import Answer, as_csv, as_json
from clipdex.base.counting import counted
from clipdex.cli.common import shown_path
from clipdex.cli.printing import say, write_bytes, write_text
from clipdex.features.matching import Verified
from clipdex.features.words import points_words
from clipdex.index import Hit

__all__ = ["hit_line", "print_answers", "print_csv", "print_json", "verified_words"]

_COPIES_SHOWN = 10


def hit_line(score: float, path: str) -> str:
    """Return one hit as a line: `0.342 — data/images/cat_sofa.jpg`."""
    return f"{score:.3f} — {shown_path(path)}"


def print_answers(answers: Sequence[Answer]) -> None:
    """Print one line per hit, and below it one per copy; several queries as headed paragraphs."""
    for number, answer in enumerate(answers):
        if len(answers) > 1:
            if number:
                say()
            say(answer.query)
        for hit in answer.hits:
            verified = (answer.verified or {}).get(hit.row)
            checked = "" if verified is None else f"  ({verified_words(verified)})"
            say(hit_line(hit.score, hit.path) + checked)
            _print_copies(hit)


def verified_words(found: Verified) -> str:
    """Return what agrees, as in `45 points agree, mirrored`."""
    return points_words(found.fit.inliers, found.mirrored)


def _print_copies(hit: Hit) -> None:
    for copy in hit.copies[:_COPIES_SHOWN]:
        say(f"        = {shown_path(copy.path)}")
    if len(hit.copies) > _COPIES_SHOWN:
        say(f"        ... and {counted(len(hit.copies) - _COPIES_SHOWN, 'more copy', 'more copies')}")


def print_json(answers: Sequence[Answer]) -> None:
    """Print a list of queries and their hits."""
    for text in as_json(answers):
        write_text(text)


def print_csv(answers: Sequence[Answer]) -> None:
    """Print one line per picture, with the raw bytes of its path."""
    write_bytes(as_csv(answers))
