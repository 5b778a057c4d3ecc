"""`clipdex search`: rank the pictures of an index for one or more texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clipdex.cli.common import SERVER_DEFAULT, ModelOption, ServerOption, note, printable, shown_path
from clipdex.client import connect
from clipdex.contact_sheet import Section, write_contact_sheet
from clipdex.errors import InvalidArgument
from clipdex.index import Hit, Index

__all__ = ["TopKOption", "hit_line", "search"]

TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", "-k", metavar="K", help="How many pictures a query; 5.", show_default=False),
]


def search(
    queries: Annotated[list[str], typer.Argument(metavar="TEXT", help="What the pictures should show.")],
    index: Annotated[Path, typer.Option("--index", "-i", metavar="X.clipdex", help="The index to search.")],
    top_k: TopKOption = None,
    server: ServerOption = SERVER_DEFAULT,
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet, too.", show_default=False)
    ] = None,
) -> None:
    """Rank the pictures of an index for a text.

    Prints the nearest first, with their cosine. Several texts give several rankings.
    """
    blank = [query for query in queries if not query.strip()]
    if blank:
        raise InvalidArgument("a query is empty; say what the pictures should show")
    with Index.open(index) as opened:
        with connect(server, model=model or opened.manifest.model) as client:
            opened.require(client.card)
            vectors = client.embed_texts(queries)
        answers = opened.search(vectors, top_k)
        count = len(opened)
    if as_json:
        print(json.dumps([_as_dict(*pair) for pair in zip(queries, answers, strict=True)], indent=2))
    else:
        _print_answers(queries, answers)
    if html is not None:
        sections = [Section(query, hits) for query, hits in zip(queries, answers, strict=True)]
        write_contact_sheet(html, sections, title="clipdex search", summary=f"{count:,} pictures in {index}")
        note(f"contact sheet: {html}")


def hit_line(score: float, path: str) -> str:
    """One answer: `0.342 — data/images/cat_sofa.jpg`."""
    return f"{score:.3f} — {shown_path(path)}"


def _print_answers(queries: list[str], answers: list[list[Hit]]) -> None:
    for number, (query, hits) in enumerate(zip(queries, answers, strict=True)):
        if len(queries) > 1:
            print(("\n" if number else "") + printable(query))
        for hit in hits:
            print(hit_line(hit.score, hit.path))


def _as_dict(query: str, hits: list[Hit]) -> dict[str, object]:
    return {
        "query": query,
        "hits": [
            {"score": hit.score, "path": hit.path, "row": hit.row}
            | ({} if hit.metadata is None else {"metadata": hit.metadata})
            for hit in hits
        ],
    }
