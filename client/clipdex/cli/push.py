"""`clipdex push`: bring a vector database up to date with an index."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import JsonOption, interruptible
from clipdex.cli.index_options import IndexAndUrl, takes_index_and_url
from clipdex.cli.printing import complain, note, printable, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.index import Index
from clipdex.sinks.conditions import parse_condition
from clipdex.sinks.push import Pushed, push
from clipdex.sinks.sink import Sink
from clipdex.sinks.urls import open_sink
from clipdex.sinks.verify import Verified, verify

__all__ = ["push_command"]

_SHOWN = 10


@takes_index_and_url
def push_command(
    named: IndexAndUrl,
    compare: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="After the push, compare the count, a sample of the points, and the answers to queries.",
        ),
    ] = False,
    queries: Annotated[int, typer.Option(metavar="N", help="With --verify: number of queries.")] = 100,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="With --verify: also compare queries with this condition, as in search.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a collection of a vector database up to date with an index.

    The first push creates the collection and sends everything; later ones send what was added, changed or
    removed. An interrupted push continues where it stopped. URL is one of:

    \b
    milvus://HOST[:19530]/COLLECTION      milvus:///FILE.db/COLLECTION
    qdrant://HOST[:6333]/COLLECTION       qdrant:///FOLDER
    weaviate://HOST[:8080]/COLLECTION     pinecone://INDEX/NAMESPACE
    lancedb:///FOLDER/TABLE               pgvector://USER@HOST/DATABASE/TABLE

    milvus+https://, qdrant+https:// and weaviate+https:// use TLS. Exit status 1 if --verify finds a difference.
    """
    if where is not None and not compare:
        raise InvalidArgument("--where restricts the queries of --verify; give --verify as well")
    if queries < 1:
        raise InvalidArgument(f"--queries is {queries}; expected 1 or more")
    if where is not None:
        parse_condition(where)  # before anything is sent
    began = time.monotonic()
    with (
        interruptible("the next push goes on"),
        Index.open(named.index) as index,
        closing(open_sink(named.url)) as sink,
    ):
        with rows_progress("pushing") as progress:
            pushed = push(index, sink, progress)
        seconds = time.monotonic() - began
        if not as_json:
            say(_line(pushed, sink, seconds))
        if pushed.shortened:
            were = counted(pushed.shortened, "point was", "points were")
            note(f"{were} sent without metadata, which is longer than the {sink.most_payload:,} bytes taken there")
        found = verify(index, sink, queries=queries, condition=where) if compare else None
    if as_json:
        shown: dict[str, Any] = {"index": str(named.index), "url": named.url, "seconds": round(seconds, 3)}
        say_json(shown | asdict(pushed) | ({} if found is None else {"verified": asdict(found)}))
    elif found is not None:
        _show(found)
    if found is not None and not found.is_same:
        raise typer.Exit(1)


def _line(pushed: Pushed, sink: Sink, seconds: float) -> str:
    changes = f"{pushed.upserted:,} sent, {pushed.deleted:,} deleted"
    why = "; every point was compared" if pushed.compared else ""
    return f"{sink.place}: {counted(pushed.pictures, 'picture')}, {changes} in {seconds:.1f} s{why}"


def _show(found: Verified) -> None:
    say(
        f"{counted(found.points, 'point')} for {counted(found.pictures, 'picture')}; "
        f"{found.sampled - len(found.different):,} of {found.sampled:,} sampled are the same"
    )
    filtered = "" if found.filtered_recall is None else f", with the condition {found.filtered_recall:.3f}"
    asked = counted(found.queries, "picture")
    say(f"recall@10 against exact search, with {asked} of the index as queries: {found.recall:.3f}{filtered}")
    for path in found.different[:_SHOWN]:
        complain(f"missing or different: {printable(path)}")
    if len(found.different) > _SHOWN:
        note(f"and {len(found.different) - _SHOWN:,} more")
