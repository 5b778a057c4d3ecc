"""`clipdex match`: find the pictures that a crop, a screenshot or a photo shows, by local features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.contact_sheet import Section, write_contact_sheet
from clipdex.apps.match import WITHIN, rows_within
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.answers import verified_words
from clipdex.cli.common import HtmlOption, JsonOption, NoLinksOption, check_links, shown_path
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index_options import takes_index_option
from clipdex.cli.missing_parts import AllowMissingOption, note_missing
from clipdex.cli.printing import note, say, say_json
from clipdex.cli.query_options import ParamOption, WhereOption, parameters
from clipdex.features.matching import DEFAULT_MIN_INLIERS, DEFAULT_TOP_K, Match, Matcher
from clipdex.features.words import region_words
from clipdex.index import Hit, Index

__all__ = ["match"]


@takes_index_option
@connects
def match(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Picture files to look for.")],
    *,
    index: Path,
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", metavar="K", help="Number of pictures to show for each IMAGE.")
    ] = DEFAULT_TOP_K,
    min_inliers: Annotated[
        int,
        typer.Option(metavar="N", help="Number of points that must agree; fewer find more, but also wrong ones."),
    ] = DEFAULT_MIN_INLIERS,
    parts: Annotated[
        bool,
        typer.Option(
            "--parts",
            help="Also show pictures that have only a part in common with IMAGE, such as an icon or a heading.",
        ),
    ] = False,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help=f"Look only among the pictures that best match this text, at most {WITHIN:,}; needs the server.",
            show_default=False,
        ),
    ] = None,
    where: WhereOption = None,
    param: ParamOption = None,
    allow_missing: AllowMissingOption = False,
    connection: Connection,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    no_links: NoLinksOption = False,
) -> None:
    """Find the pictures of an index that a crop, a screenshot or a photo of a print shows.

    Needs  clipdex features build.  Prints the pictures with the most agreeing points first, and which part of each
    the IMAGE shows, in percent of width and height. Prints nothing for an IMAGE that shows none of them.
    """
    if param and where is None:
        raise InvalidArgument("--param gives a value to --where, but --where is not given")
    check_links(no_links, html)
    answers: list[tuple[Path, list[Match]]] = []
    with Index.open(index, allow_missing=allow_missing) as opened:
        note_missing(opened)
        rows = None if where is None else opened.where(where, parameters(param or []))
        with Matcher(opened) as matcher:
            for fault in matcher.faults:
                note(f"comparing all points, which takes longer: {fault}")
            if within is not None:
                rows = rows_within(
                    opened, within, lambda: connection.open(model=opened.manifest.model), where=rows
                )
            for image in images:
                found = matcher.match(image, top_k, min_inliers=min_inliers, parts=parts, where=rows)
                answers.append((image, found))
        summary = f"{counted(len(opened), 'picture')} in {index}"
    if as_json:
        say_json(
            [{"query": str(image), "matches": [each.as_dict() for each in found]} for image, found in answers]
        )
    else:
        _print(answers)
    if html is not None:
        sections = [
            Section(
                str(image),
                [Hit(each.row, float(each.inliers), each.path, picture=each.picture) for each in found],
                labels=[verified_words(each.verified) for each in found],
                regions=[[each.verified.fractions.tolist()] for each in found],
            )
            for image, found in answers
        ]
        write_contact_sheet(html, sections, title="clipdex match", summary=summary, links=not no_links)
        note(f"contact sheet: {html}")


def _print(answers: list[tuple[Path, list[Match]]]) -> None:
    for number, (image, found) in enumerate(answers):
        if len(answers) > 1:
            if number:
                say()
            say(shown_path(str(image)))
        for each in found:
            say(_line(each))
        if not found:
            note(f"no picture of the index shows what {image} shows")


def _line(found: Match) -> str:
    """Return one match as a line: `45 points agree — data/cat.jpg (20-60 % × 0-45 %)`."""
    part = region_words(found.verified.fractions.tolist())
    return f"{verified_words(found.verified)} — {shown_path(found.path)} ({part})"
