"""`clipdex classify`: classify pictures by labels, without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipdex.apps.classify_files import FileClassifier
from clipdex.apps.results import csv_line
from clipdex.base.errors import InvalidArgument
from clipdex.base.text_files import read_lines
from clipdex.cli.common import Decode, Icc, JsonOption, interruptible, named_path, say_passed_over, shown_path
from clipdex.cli.connection_options import Connection, connects
from clipdex.cli.demo_model import note_demo_model
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import complain, printable, say, write_bytes, write_text
from clipdex.model.formats.icc import check_icc
from clipdex.model.picture_rules import PictureRules, check_decode

__all__ = ["classify"]

_TOP = 3
_Found = list[tuple[str, float]]  # (label, probability), the most probable first
_Show = Callable[[str, _Found], None]


@connects
def classify(
    pictures: Annotated[
        list[Path],
        typer.Argument(metavar="PICTURE", help="Pictures, or folders of pictures.", parser=named_path),
    ],
    labels: Annotated[
        str | None,
        typer.Option(metavar='"A, B"', help="Labels to choose from, separated by commas.", show_default=False),
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of labels, one per line.", show_default=False)
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help='Text around a label, with {} for the label; several are averaged (default "a photo of a {}").',
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, metavar="K", help="Labels per picture.")] = _TOP,
    top: Annotated[int | None, typer.Option("--top", min=1, hidden=True)] = None,  # its former name
    icc: Annotated[
        Icc, typer.Option(help="Convert pictures from their colour profiles to sRGB, or leave them as they are.")
    ] = Icc.off,
    decode: Annotated[
        Decode,
        typer.Option(help="Decode large JPEGs exactly, or faster at a reduced size, at least twice the model's."),
    ] = Decode.exact,
    *,
    connection: Connection,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV instead: path, label, probability.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Classify pictures by labels given as text.

    Prints the most probable labels of each picture with their probabilities. No training is needed. Exit status 1
    if a picture could not be read.
    """
    if as_json and as_csv:
        raise InvalidArgument("--json and --csv exclude each other")
    names = _labels(labels, labels_file)
    with interruptible("the results printed so far are valid"), connection.open() as client:
        classifier = FileClassifier(
            client,
            names,
            template or (),
            top or top_k,
            PictureRules(check_icc(icc.value), check_decode(decode.value)),
            on_failure=lambda sentence: complain(f"failed: {sentence}"),
            on_passed_over=say_passed_over,
        )
        found = classifier.classify(pictures)  # faulty labels are reported before anything is printed
        with _json() if as_json else _csv() if as_csv else _lines() as show:
            for each in found:
                show(each.path, each.labels)
        note_demo_model(client.card.fingerprint)
    if classifier.failed:
        raise typer.Exit(1)


def _labels(labels: str | None, file: Path | None) -> list[str]:
    if (labels is None) == (file is None):
        raise InvalidArgument('give either --labels "a cat, a dog" or --labels-file FILE')
    if labels is not None:
        return [label.strip() for label in labels.split(",")]
    assert file is not None
    return read_lines(file)


# Answers are printed as they come, so that a large folder takes no memory.


@contextmanager
def _lines() -> Iterator[_Show]:
    def show(path: str, found: _Found) -> None:
        say(f"{shown_path(path)}: " + ", ".join(f"{printable(label)} {chance:.3f}" for label, chance in found))

    yield show


@contextmanager
def _csv() -> Iterator[_Show]:
    write_bytes([csv_line(("path", "label", "probability"))])

    def show(path: str, found: _Found) -> None:
        write_bytes(csv_line((_text(path), label, f"{chance:.6f}")) for label, chance in found)

    yield show


@contextmanager
def _json() -> Iterator[_Show]:
    before = "[\n"

    def show(path: str, found: _Found) -> None:
        nonlocal before
        labels = [{"label": label, "probability": chance} for label, chance in found]
        write_text(before + "  " + json.dumps({"path": path, "labels": labels}))
        before = ",\n"

    yield show
    write_text("[]\n" if before == "[\n" else "\n]\n")


def _text(path: str) -> str:
    """Return a path with each byte that is not UTF-8, and cannot be written to a pipe, as \\xNN."""
    return path.encode("utf-8", "backslashreplace").decode()
