"""`clipdex search`: rank the pictures of an index for texts, pictures, or a mixture of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.ask import ask
from clipdex.apps.ask_sink import ask_sink
from clipdex.apps.contact_sheet import Section, write_contact_sheet
from clipdex.apps.match import ask_verified
from clipdex.apps.results import Answer, write_arrow
from clipdex.base.arrays import Array
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.ann import open_ann
from clipdex.cli.answers import hit_line, print_answers, print_csv, print_json
from clipdex.cli.common import HtmlOption, JsonOption, NoLinksOption, check_links
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.index_options import ENVIRONMENT, may_take_index_option, required_index
from clipdex.cli.missing_parts import AllowMissingOption, note_missing
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import note
from clipdex.cli.query_options import (
    ImageOption,
    LikeOption,
    MinusOption,
    ParamOption,
    TextOption,
    WhereOption,
    note_pictures_as_texts,
    parameters,
    queries_of,
)
from clipdex.features.matching import DEFAULT_MIN_INLIERS
from clipdex.index import Index
from clipdex.index.reader import DEFAULT_TOP_K
from clipdex.search import Grouping, Query
from clipdex.sinks.stored import Stored
from clipdex.sinks.urls import open_sink

__all__ = ["TopKOption", "hit_line", "search"]

_FAILURES_SHOWN = 3

TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", "-k", metavar="K", help="Results per query (default 5).", show_default=False),
]


@may_take_index_option
@connects
def search(
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="What the pictures should show.")
    ] = None,
    *,
    index: Path | None,
    text: TextOption = None,
    minus: MinusOption = None,
    image: ImageOption = None,
    like: LikeOption = None,
    top_k: TopKOption = None,
    offset: Annotated[int, typer.Option(metavar="N", help="Skip the N best results, to show the next page.")] = 0,
    min_score: Annotated[
        float | None,
        typer.Option(metavar="COSINE", help="Minimum cosine similarity of a hit.", show_default=False),
    ] = None,
    where: WhereOption = None,
    param: ParamOption = None,
    group: Annotated[bool, typer.Option("--group", help="Show copies of a picture as one hit.")] = False,
    group_cosine: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE",
            help="With --group: also count pictures of at least this cosine similarity as copies, such as 0.98.",
            show_default=False,
        ),
    ] = None,
    inside: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="URL",
            help="Ask a vector database that  clipdex push  filled, instead of an index.",
            show_default=False,
        ),
    ] = None,
    ann: Annotated[
        bool, typer.Option("--ann", help="Search approximately, after  clipdex ann build: faster, may miss hits.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="With --image: check the first hundred by their local features, and put first what shows the "
            "same thing.",
        ),
    ] = False,
    allow_missing: AllowMissingOption = False,
    connection: Connection,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV instead of lines.", rich_help_panel=OUTPUT)
    ] = False,
    arrow: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write an Arrow file.", show_default=False, rich_help_panel=OUTPUT),
    ] = None,
    html: HtmlOption = None,
    no_links: NoLinksOption = False,
) -> None:
    """Find the pictures of an index that best match a text or picture.

    Prints the best first, with their cosine similarity. Each TEXT gets its own ranking; --text, --minus, --image
    and --like are mixed into one query: --text beach --minus people --image ref.jpg:0.5
    """
    asked = queries_of(queries or [], text or [], minus or [], image or [], like or [])
    note_pictures_as_texts([*(queries or []), *(text or [])])
    if as_json and as_csv:
        raise InvalidArgument("--json and --csv are both given; choose one")
    if param and where is None:
        raise InvalidArgument("--param gives a value to --where, but --where is not given")
    check_links(no_links, html)
    if verify and (
        inside is not None or ann or group or group_cosine is not None or offset or min_score is not None
    ):
        raise InvalidArgument(
            "--verify ranks anew, and goes with none of --in, --ann, --group, --offset, --min-score"
        )
    grouping = Grouping(cosine=group_cosine) if group or group_cosine is not None else None
    if inside is not None:
        if ann or grouping is not None:
            raise InvalidArgument("--in asks a vector database, which has neither --ann nor --group")
        if index is not None and str(index) != os.environ.get(ENVIRONMENT):
            raise InvalidArgument("--in asks a vector database, and --index an index; give one of them")
        conditions = None if where is None else parameters(param or [])
        with closing(open_sink(inside)) as sink:
            stored = Stored(sink)
            answers = ask_sink(
                stored,
                asked,
                lambda: connection.open(model=stored.manifest.model),
                top_k=top_k,
                offset=offset,
                min_score=min_score,
                where=where,
                params=conditions,
            )
            summary, fingerprint = stored.place, stored.manifest.fingerprint
    else:
        index = required_index(index)
        with Index.open(index, allow_missing=allow_missing) as opened:
            note_missing(opened)
            if opened.manifest.below_floor:
                below = opened.manifest.below_floor
                note(f"{index} holds vectors of a model that was installed although {below}")
            ranker = open_ann(opened) if ann else None
            # A faulty condition is reported before anything is embedded.
            rows = None if where is None else opened.where(where, parameters(param or []))
            answers = (
                [_verified(opened, asked, connection, top_k, rows)]
                if verify
                else ask(
                    opened,
                    asked,
                    lambda: connection.open(model=opened.manifest.model),
                    top_k=top_k,
                    offset=offset,
                    min_score=min_score,
                    where=rows,
                    grouping=grouping,
                    ranker=ranker,
                )
            )
            of_them = "" if rows is None else f", {len(rows):,} of them where {where}"
            summary = f"{counted(len(opened), 'picture')} in {index}{of_them}"
        fingerprint = opened.manifest.fingerprint
    if as_json:
        print_json(answers)
    elif as_csv:
        print_csv(answers)
    else:
        print_answers(answers)
        if not any(answer.hits for answer in answers):
            note("no picture of the index matches the query and its conditions")
    note_demo_model(fingerprint)
    if arrow is not None:
        write_arrow(arrow, answers)
        note(f"Arrow file: {arrow}")
    if html is not None:
        sections = [Section(answer.query, answer.hits) for answer in answers]
        write_contact_sheet(
            html,
            sections,
            title="clipdex search",
            summary=summary,
            links=not no_links,
        )
        note(f"contact sheet: {html}")


def _verified(
    index: Index,
    asked: Sequence[Query],
    connection: Connection,
    top_k: int | None,
    rows: Sequence[int] | Array | None,
) -> Answer:
    if len(asked) != 1:
        raise InvalidArgument("--verify takes one picture:  --image FILE,  and nothing else")
    answer, failed = ask_verified(
        index,
        asked[0],
        lambda: connection.open(model=index.manifest.model),
        top_k=DEFAULT_TOP_K if top_k is None else top_k,
        min_inliers=DEFAULT_MIN_INLIERS,
        where=rows,
    )
    for sentence in failed[:_FAILURES_SHOWN]:
        note(f"not checked: {sentence}")
    if len(failed) > _FAILURES_SHOWN:
        note(f"... and {len(failed) - _FAILURES_SHOWN:,} more")
    return answer
