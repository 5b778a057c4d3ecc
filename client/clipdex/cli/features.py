"""`clipdex features`: local features, by which crops and photos of a picture are found."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import MissingExtra
from clipdex.base.limits import Limits
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.index_options import takes_index
from clipdex.cli.ledger import failure_line
from clipdex.cli.printing import note, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.features.build_neighbours import BuiltNeighbours, build_neighbours
from clipdex.pipeline.build_features import BuiltFeatures, build_features

__all__ = ["as_dict", "build", "build_after", "features_sentence"]

_FAILURES_SHOWN = 5


class Kind(str, Enum):
    """The kinds of local features."""

    sift = "sift"
    orb = "orb"


@takes_index
def build(
    index: Path,
    *,
    kind: Annotated[
        Kind | None,
        typer.Option(
            help="sift: RootSIFT, finds more; orb: much faster to make (default sift).", show_default=False
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(metavar="N", help="Largest number of points per picture (default 500).", show_default=False),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Pictures with a longer side are scaled down first (default 640; for orb 1024).",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (default one per core).", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Also make damaged features again; reads all of them to find these.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Make all features again. Items that were added by id keep theirs, but lose them if --kind, "
            "--most or --side changes.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make the local features of an index's pictures, which  clipdex match  finds them by.

    Reads the files of all pictures that have no features yet. A build that was stopped resumes where it left off.
    Other programs may use the index meanwhile.
    """
    with interruptible("what was made is kept; run the same command again"), rows_progress("features") as progress:
        done = build_features(
            index,
            kind=None if kind is None else kind.value,
            most=most,
            side=side,
            workers=workers,
            rebuild=rebuild,
            check=check,
            progress=progress,
        )
    neighbours = _neighbours(index)
    if as_json:
        found = None if neighbours is None else asdict(neighbours)
        say_json({"index": str(index)} | as_dict(done) | {"neighbours": found})
        return
    _show_failures(done)
    say(features_sentence(done, index))


def build_after(index: Path, workers: int | None, limits: Limits) -> BuiltFeatures:
    """Make the features of what a run has just indexed, and name what failed."""
    advice = "what was made is kept:  clipdex features build  goes on"
    with interruptible(advice), rows_progress("features") as progress:
        done = build_features(index, workers=workers, limits=limits, progress=progress)
    _show_failures(done)
    _neighbours(index)
    return done


def _neighbours(index: Path) -> BuiltNeighbours | None:
    """Build the file that finds the nearest points of many pictures, unless it is up to date."""
    advice = "the features are kept; matching compares all of them until  clipdex features build  is run again"
    try:
        with interruptible(advice), rows_progress("neighbours") as progress:
            return build_neighbours(index, progress=progress)
    except MissingExtra as exc:
        note(f"matching will compare all points, which takes longer: {exc}")
        return None


def as_dict(done: BuiltFeatures) -> dict[str, object]:
    """Return a build's report as the commands print it in JSON."""
    return {name: value for name, value in asdict(done).items() if name != "failures"}


def features_sentence(done: BuiltFeatures, index: Path) -> str:
    """Return the last line of a build."""
    failed = ", ".join(f"{count:,} {reason}" for reason, count in done.failed.items())
    rest = f"; {sum(done.failed.values()):,} failed: {failed}" if failed else ""
    if done.items:
        rest += f"; {counted(done.items, 'item has', 'items have')} none, and no file to make them of"
    return (
        f"{shown_path(str(index))}: local features ({done.recipe}) of {counted(done.made + done.had, 'picture')}, "
        f"{done.made:,} of them made now in {done.seconds:,.1f} s ({done.file_bytes / 1e6:,.1f} MB){rest}"
    )


def _show_failures(done: BuiltFeatures) -> None:
    for failure in done.failures[:_FAILURES_SHOWN]:
        note(f"failed: {failure_line(failure)}")
    more = sum(done.failed.values()) - len(done.failures[:_FAILURES_SHOWN])
    if more > 0:
        note(f"... and {more:,} more")
