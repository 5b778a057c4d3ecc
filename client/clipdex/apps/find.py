"""Find the pictures of a folder: update the folder's cached index, and rank it for texts.

    with connect("inproc:model_repository") as client:
        found = find(client, Path("~/Pictures").expanduser(), [Query().plus(text="a cat sleeping")])

The user's cache has one index for each folder and model; `clipdex retrieve` uses the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from clipdex.apps.ask import ask
from clipdex.apps.results import Answer
from clipdex.apps.retrieval import cached_index
from clipdex.base.errors import IndexLocked
from clipdex.client.client import Client
from clipdex.index.reader import Index
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.pipeline.report import Progress, RunReport
from clipdex.search import Query

__all__ = ["Found", "find"]


@dataclass(frozen=True)
class Found:
    """The answers of `find`, and the run that brought the index up to date.

    report: of that run; None if another process is indexing the folder, and the index was searched as it was.
    rows: pictures in the index.
    """

    answers: list[Answer]
    index: Path
    report: RunReport | None
    rows: int


def find(
    client: Client,
    folder: Path,
    queries: Sequence[Query],
    *,
    top_k: int | None = None,
    where: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Found:
    """Update the cached index of a folder, and rank its pictures for each query.

    Args:
        folder: a folder, a tar or a table, as `index_pictures` takes them.
        top_k, where: as `Index.search` takes them.
        progress: called while pictures are indexed.

    Raises:
        SourceError: the folder is missing, unreadable, or holds no picture.
        InvalidArgument: a query has no parts, or the condition is not valid.
        ServerError, IndexFault: as the client and the index raise them.
    """
    path = cached_index(client, folder)
    report = None
    try:
        report = index_pictures(client, folder, path, dtype="float32", progress=progress)
    except IndexLocked:
        if not path.is_dir():
            raise
    with Index.open(path) as opened:
        answers = ask(opened, queries, lambda: nullcontext(client), top_k=top_k, where=where)
        return Found(answers, path, report, len(opened))
