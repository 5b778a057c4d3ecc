"""`clipdex demo`: every step from pictures on disk to a ranking, with the repository's small model."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.contact_sheet import Section, write_contact_sheet
from clipdex.base.counting import counted
from clipdex.base.errors import ClipdexError, InvalidArgument, LocalServerError, MissingExtra, SourceError
from clipdex.cli.answers import hit_line
from clipdex.cli.common import interruptible
from clipdex.cli.demo_model import default_repository, note_demo_model
from clipdex.cli.printing import say
from clipdex.cli.progress import index_progress, shown_rate
from clipdex.cli.run_outcome import run_sentence
from clipdex.client.client import Client, connect
from clipdex.index import Hit, Index
from clipdex.pipeline.index_pictures import index_pictures
from clipdex.pipeline.report import RunReport

__all__ = ["demo"]

_TOP_K = 5


@dataclass(frozen=True)
class _Question:
    """A text to search for, and the pictures that answer it, if known."""

    text: str
    answers: frozenset[str] | None = None

    def is_answered_by(self, hit: Hit) -> bool:
        return self.answers is not None and hit.path in self.answers


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for pictures, index and report.")
    ] = Path("demo"),
    repository: Annotated[
        Path | None,
        typer.Option(
            "--repository",
            "-r",
            metavar="DIR",
            help="Model repository that holds the model (default model_repository, or else the one that came with "
            "clipdex).",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model to use.")] = "demo",
    pictures: Annotated[int, typer.Option(min=100, help="Number of pictures to draw.")] = 1000,
    photos: Annotated[
        Path | None,
        typer.Option(
            "--photos", metavar="DIR", help="Folder of pictures to use instead of drawn ones.", show_default=False
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", metavar="TEXT", help="Text to search for; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Run every step of clipdex on drawn pictures.

    Draws them, serves the demo model, indexes them, runs ten queries, and writes a contact sheet. With --photos
    and --query, does the same with your own pictures. The demo model knows only shapes and colours.
    """
    queries = [text for text in query or [] if text.strip()]
    if photos is not None and not queries:
        raise InvalidArgument("--photos needs a --query: what should the pictures show?")
    out, photos = out.expanduser(), None if photos is None else photos.expanduser()  # make PHOTOS=~/x in sh
    if photos is not None and not photos.is_dir():  # before a server is started for it
        raise SourceError(f"{photos}: no such directory")
    repository = default_repository(model) if repository is None else repository.expanduser()
    with interruptible("run it again to resume"), _served(repository, model) as client:
        note_demo_model(client.card.fingerprint)
        if photos is None:
            say(f"drawing {counted(pictures, 'picture')} in {out / 'pictures'}", flush=True)
            folder, questions = _draw(out / "pictures", pictures)
            if queries:
                questions = [_Question(text) for text in queries]
            index = out / "pictures.clipdex"
            # An index that exists already would leave nothing to do, and no speed to report.
            shutil.rmtree(index, ignore_errors=True)
        else:
            folder, questions = photos, [_Question(text) for text in queries]
            key = hashlib.sha256(os.fsencode(os.path.abspath(photos))).hexdigest()[:12]
            index = out / f"photos-{key}.clipdex"
        with index_progress() as progress:
            report = index_pictures(client, folder, index, progress=progress)
        say(run_sentence(report, index))
        vectors = client.embed_texts([question.text for question in questions])
        with Index.open(index) as opened:
            answers = opened.search(vectors, min(_TOP_K, len(opened)))
        _print_ranking(questions, answers)
        summary = _summary(questions, answers, client, report)
        sheet = out / "report.html"
        sections = [
            Section(question.text, hits, _verdict(question, hits))
            for question, hits in zip(questions, answers, strict=True)
        ]
        write_contact_sheet(sheet, sections, title="clipdex demo", summary=summary)
        say()
        say(f"contact sheet: {sheet}")
    say(summary)


@contextmanager
def _served(repository: Path, model: str) -> Iterator[Client]:
    """Serve the model with a real Triton or, where there is none for this machine, in this process."""
    from clipdex_server import LocalTriton

    if not (repository / f"{model}_image" / "config.pbtxt").is_file():
        raise ClipdexError(
            f"{repository}: holds no model {model!r}; name another repository or model with --repository and "
            "--model"
        )
    try:
        names = [f"{model}_{part}" for part in ("image", "text", "assets")]
        server = LocalTriton(repository, models=names, stop_timeout_s=0)  # no request is in flight at the end
        server.start()
    except (MissingExtra, LocalServerError) as exc:
        if triton_may_be_had():
            raise
        say(f"no Triton for this machine ({exc}); the same models run in this process")
        with connect(f"inproc:{repository}", model=model) as client:
            yield client
        return
    try:
        with connect(server.address, model=model) as client:
            say(f"{client.server.name} {client.server.version} serves {model} at {server.address}", flush=True)
            yield client
    finally:
        server.stop()


def triton_may_be_had() -> bool:
    """Return whether nvidia-pytriton can be installed on this machine."""
    uname = os.uname()
    return (uname.sysname, uname.machine) == ("Linux", "x86_64") and sys.version_info < (3, 13)


def _draw(folder: Path, count: int) -> tuple[Path, list[_Question]]:
    from clipdex_export.demo.questions import QUESTIONS, draw_demo_pictures

    shutil.rmtree(folder, ignore_errors=True)
    scenes = {os.path.abspath(path): scene for path, scene in draw_demo_pictures(folder, count).items()}
    questions = [
        _Question(q.text, frozenset(path for path, scene in scenes.items() if q.is_answered_by(scene)))
        for q in QUESTIONS
    ]
    return folder, questions


def _verdict(question: _Question, hits: Sequence[Hit]) -> str:
    if question.answers is None:
        return ""
    right = sum(question.is_answered_by(hit) for hit in hits)
    return f"{right} of {len(hits)} right"


def _print_ranking(questions: Sequence[_Question], answers: Sequence[Sequence[Hit]]) -> None:
    for question, hits in zip(questions, answers, strict=True):
        say()
        say(question.text)
        for hit in hits:
            mark = "" if question.answers is None or question.is_answered_by(hit) else "   (wrong)"
            say(f"  {hit_line(hit.score, hit.path)}{mark}")


def _summary(
    questions: Sequence[_Question], answers: Sequence[Sequence[Hit]], client: Client, report: RunReport
) -> str:
    name = "Triton" if client.server.name == "triton" else client.server.name
    facts = f"{name} {client.server.version}, {counted(report.rows, 'picture')}"
    if report.indexed:
        facts += f", {shown_rate(report.images_per_s)}"
    known = [(q, hits) for q, hits in zip(questions, answers, strict=True) if q.answers is not None]
    if not known:
        return f"{counted(len(questions), 'query', 'queries')} answered ({facts})"
    right = sum(bool(hits) and question.is_answered_by(hits[0]) for question, hits in known)
    return f"{right} of {counted(len(known), 'question')} answered correctly at rank 1 ({facts})"
