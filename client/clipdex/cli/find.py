"""`clipdex find`: search a folder of pictures in one command: model, index and answer."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.contact_sheet import Section, write_contact_sheet
from clipdex.apps.find import Found
from clipdex.apps.find import find as find_in_folder
from clipdex.base.counting import counted
from clipdex.base.errors import LocalServerError, MissingExtra, SourceError
from clipdex.base.extras import is_installed, require_installed
from clipdex.cli.answers import print_answers, print_json
from clipdex.cli.common import HtmlOption, JsonOption, interruptible, named_path, shown_path
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.model_at_hand import YesOption, model_at_hand
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import complain, detail, note
from clipdex.cli.progress import index_progress
from clipdex.cli.query_options import WhereOption, queries_of
from clipdex.cli.run_outcome import run_sentence
from clipdex.client.client import Client, connect
from clipdex.model.assets import default_cache_dir
from clipdex.wire import Credentials

__all__ = ["find"]


def find(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the pictures should show.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of pictures.", parser=named_path)],
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", "-k", min=1, metavar="K", help="Number of results (default 5).", show_default=False
        ),
    ] = None,
    where: WhereOption = None,
    # Not in the panel Connection: there, the model is one of the server's.
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="CLIPDEX_MODEL",
            metavar="NAME",
            help="Model to use: a name that  clipdex models --available  lists, or one of the repository.",
            show_default=False,
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            "-r",
            metavar="DIR",
            help="Model repository to use (default: one in the user's cache).",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            "-s",
            envvar="CLIPDEX_SERVER",
            metavar="HOST:PORT",
            help="Triton server to use instead of a model on this machine.",
            show_default=False,
        ),
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    html: HtmlOption = None,
    open_sheet: Annotated[
        bool, typer.Option("--open", help="Open a contact sheet in the browser.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Find the pictures of a folder that best match a text.

    The first call downloads a model, after asking, and indexes the folder; later calls index only what is new or
    changed. Model and index are kept in the user's cache; nothing is written to the folder.
    """
    queries = queries_of([text], [], [], [], [])
    folder = folder.expanduser()
    if not os.path.lexists(folder):  # checked before a model is downloaded
        raise SourceError(f"{folder}: no such folder")
    with (
        interruptible("run the same command again to resume"),
        _client(model, repository, server, yes=yes) as client,
        index_progress() as progress,
    ):
        detail(f"model {client.card.name} at {client.address}: {client.card.source}, {client.card.precision}")
        found = find_in_folder(client, folder, queries, top_k=top_k, where=where, progress=progress)
    _note_run(found)
    if as_json:
        print_json(found.answers)
    else:
        print_answers(found.answers)
    if not any(answer.hits for answer in found.answers):
        if where is not None:
            note("no picture of the folder matches the condition")
        elif not found.rows:
            note("nothing is indexed yet")
    note_demo_model(client.card.fingerprint)
    sheet = html or (default_cache_dir() / "find.html" if open_sheet else None)
    if sheet is not None:
        sections = [Section(answer.query, answer.hits) for answer in found.answers]
        summary = f"{counted(found.rows, 'picture')} in {folder}"
        write_contact_sheet(sheet, sections, title="clipdex find", summary=summary)
        note(f"contact sheet: {sheet}")
        if open_sheet and not webbrowser.open(Path(os.path.abspath(sheet)).as_uri()):
            complain("no browser could be opened")


@contextmanager
def _client(model: str | None, repository: Path | None, server: str | None, *, yes: bool) -> Iterator[Client]:
    """Connect to the given server, or run a model on this machine: in this process, if possible."""
    if server is not None:
        with connect(server, model=model, credentials=Credentials.from_environment()) as client:
            yield client
        return
    if is_installed("onnxruntime"):
        at_hand = model_at_hand(model, repository, yes=yes)
        with connect(f"inproc:{at_hand.repository}", model=at_hand.name) as client:
            yield client
        return
    # NVIDIA's container has a Triton, but no onnxruntime for Python.
    from clipdex_server import LocalTriton, find_triton

    try:
        find_triton()
    except (LocalServerError, MissingExtra):
        # The extra `onnx` brings it, and all else that a model from the list needs.
        require_installed("onnxruntime", "onnxruntime", "onnx", "finding pictures without a server")
    at_hand = model_at_hand(model, repository, yes=yes)
    with (
        LocalTriton(at_hand.repository, models=at_hand.parts, stop_timeout_s=0) as local,
        connect(local.address, model=at_hand.name) as client,
    ):
        yield client


def _note_run(found: Found) -> None:
    """Note what was indexed, if anything was, and how many files failed."""
    report = found.report
    if report is None:
        note("another process is indexing this folder: the results are from what it has indexed so far")
    elif report.indexed or report.removed:
        note(run_sentence(report, found.index))
    if report is not None and report.failed:
        failed = counted(report.failed, "file could not be read", "files could not be read")
        note(f"{failed}:  clipdex failures {shown_path(str(found.index))}")
