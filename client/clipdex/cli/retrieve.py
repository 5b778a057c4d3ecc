"""`clipdex retrieve`: rank a folder of pictures for a prompt. The command clipdex began as."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.results import Answer
from clipdex.apps.retrieval import index_directory
from clipdex.base.errors import InvalidArgument
from clipdex.cli.answers import print_json
from clipdex.cli.common import JsonOption, interruptible, named_path
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.printing import printable, say
from clipdex.cli.progress import index_progress
from clipdex.index import Index

__all__ = ["retrieve"]


@connects
def retrieve(
    prompt: Annotated[str, typer.Option("--prompt", help="What the pictures should show.")],
    images_dir: Annotated[
        Path,
        typer.Option(
            "--images_dir", "--images-dir", help="Folder of pictures.", metavar="PATH", parser=named_path
        ),
    ],
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "-k", "--top_k", help="Number of results (default 5).", show_default=False),
    ] = None,
    *,
    connection: Connection,
    as_json: JsonOption = False,
) -> None:
    """Rank a folder of pictures for a prompt.

    The folder's embeddings are kept in the user's cache: the first call embeds them all, later ones only what
    is new or changed.
    """
    if not prompt.strip():
        raise InvalidArgument("the prompt is empty; describe what the pictures should show")
    with interruptible("run the same command again to resume"), connection.open() as client:
        with index_progress() as progress:
            index = index_directory(client, images_dir, progress)
        query = client.embed_texts([prompt])
    with Index.open(index) as opened:
        hits = opened.search(query, top_k)[0]
    note_demo_model(client.card.fingerprint)
    if as_json:
        print_json([Answer(prompt, hits)])
        return
    root = os.path.abspath(images_dir)
    for hit in hits:
        say(f"{hit.score:.3f} — {printable(os.path.join(images_dir, os.path.relpath(hit.path, root)))}")
