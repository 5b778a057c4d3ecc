"""`clipdex ann`: approximate search through FAISS."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdex.ann import AnnHeader, AnnIndex, PartedAnn, build_ann
from clipdex.ann.build import BuiltAnn
from clipdex.base.arrays import Vectors
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument, ServerError
from clipdex.base.json_text import parsed_object
from clipdex.base.text_files import read_lines
from clipdex.cli.common import JsonOption, interruptible, shown_path
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.index_options import takes_index
from clipdex.cli.printing import note, say, say_json
from clipdex.cli.progress import rows_progress
from clipdex.index import Index, PartedIndex
from clipdex.index.part_plan import is_parted, whole_parts

__all__ = ["build", "open_ann"]

# The metadata fields that may hold a picture's caption.
_CAPTIONS = ("caption", "txt", "text", "captions")
_QUERIES = 200
_LOOKED_AT = 20_000


class Kind(str, Enum):
    """The kinds of FAISS index."""

    hnsw = "hnsw"
    ivf_pq = "ivf_pq"


@takes_index
@connects
def build(
    index: Path,
    *,
    kind: Annotated[
        Kind, typer.Option(help="hnsw: a graph of neighbours; ivf_pq: lists of short codes.")
    ] = Kind.hnsw,
    links: Annotated[int, typer.Option(metavar="M", help="HNSW: links per picture.")] = 16,
    chosen_from: Annotated[
        int, typer.Option(metavar="EF", help="HNSW: candidates per link (efConstruction).")
    ] = 80,
    effort: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="efSearch of HNSW (default 128) or nprobe of IVF-PQ (default 64).",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of texts, one per line, to measure recall with; needs the server.",
            show_default=False,
        ),
    ] = None,
    connection: Connection,
    as_json: JsonOption = False,
) -> None:
    """Build a FAISS index for  clipdex search --ann, and measure its recall.

    Recall is measured with --queries, else with captions that the index holds, else with its own pictures.
    """
    vectors, source = _measure_with(index, queries, connection)
    with interruptible("the index is as it was"), rows_progress("building") as progress:
        places = list(whole_parts(index))
        if places != [index]:
            with Index.open(index) as opened:
                places = [part.directory for _, part in opened.pieces() if len(part.vectors)]
        built = {
            place: build_ann(
                place,
                kind.value,
                links=links,
                chosen_from=chosen_from,
                effort=effort,
                queries=vectors,
                source=source,
                progress=progress,
            )
            for place in places
        }
    if as_json:
        done = [_as_dict(place, made) for place, made in built.items()]
        say_json({"index": str(index), "parts": done} if is_parted(index) else done[0])
        return
    for place, made in built.items():
        say(
            f"{shown_path(str(place))}: {kind.value} of {counted(made.header.rows, 'row')} in "
            f"{made.seconds:,.1f} s, {made.file_bytes / 1e6:,.1f} MB"
        )
        say(_recall_sentence(made.header))


def open_ann(index: Index) -> AnnIndex | PartedAnn:
    """Open the FAISS index for `search --ann`, and report the recall measured when it was built."""
    opened = PartedAnn.open(index) if isinstance(index, PartedIndex) else AnnIndex.open(index)
    headers = [part.header for part in getattr(opened, "parts", [opened]) if part is not None]
    measured = [header for header in headers if header.recall is not None]
    if measured:
        note(_recall_sentence(min(measured, key=_recall_of)))  # of parts, the worst
    since = len(index.vectors) - sum(header.rows for header in headers)
    if since > 0:
        note(
            f"{counted(since, 'newer row is', 'newer rows are')} searched exactly;  clipdex ann build  adds "
            f"{'it' if since == 1 else 'them'}"
        )
    return opened


def _as_dict(index: Path, made: BuiltAnn) -> dict[str, object]:
    header = made.header
    return {
        "index": str(index),
        "kind": header.kind,
        "rows": header.rows,
        "seconds": made.seconds,
        "bytes": made.file_bytes,
        "recall": None if header.recall is None else asdict(header.recall),
    }


def _recall_of(header: AnnHeader) -> float:
    return 1.0 if header.recall is None else header.recall.recall_at_10


def _recall_sentence(header: AnnHeader) -> str:
    assert header.recall is not None
    r = header.recall
    return (
        f"{header.kind}: recall@10 {r.recall_at_10:.3f} when built, measured with {r.queries:,} {r.source}; "
        f"{r.ms:.1f} ms per query, {r.exact_ms:.1f} ms by exact search"
    )


def _measure_with(path: Path, queries: Path | None, connection: Connection) -> tuple[Vectors | None, str]:
    """Embed the texts to measure with. -> vectors, or None for the index's own pictures; and their name."""
    with Index.open(path) as index:
        if queries is not None:
            texts, source = _lines(queries), f"texts of {queries.name}"
        else:
            texts, source = _captions(index), "captions of the index"
        if not texts:
            return None, ""
        try:
            with connection.open(model=index.manifest.model) as client:
                index.require(client.card)
                return client.embed_texts(texts), source
        except ServerError as exc:
            if queries is not None:
                raise
            note(f"the captions cannot be embedded, so recall is measured with pictures: {exc}")
            return None, ""


def _lines(file: Path) -> list[str]:
    texts = read_lines(file)
    if not texts:
        raise InvalidArgument(f"{file}: contains no text; expected one per line")
    return texts


def _said(metadata: str | None) -> dict[str, Any]:
    try:
        return parsed_object(metadata) if metadata else {}
    except ValueError:
        return {}  # damaged; clipdex verify reports it


def _captions(index: Index) -> list[str]:
    """Return distinct captions of the index's pictures, spread over all rows."""
    step = max(1, len(index.vectors) // _LOOKED_AT)
    found: dict[str, None] = {}
    for start in range(0, len(index.vectors), 500 * step):
        rows = list(range(start, min(start + 500 * step, len(index.vectors)), step))
        for picture in index.pictures(rows).values():
            said = _said(picture.metadata)
            caption = next((said[key] for key in _CAPTIONS if isinstance(said.get(key), str)), "").strip()
            if caption:
                found[caption] = None
    texts = list(found)
    return texts[:: max(1, len(texts) // _QUERIES)][:_QUERIES]
