"""What several commands share: options, how a path is printed, how a long run is stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from clipdex.client import DEFAULT_ADDRESS

__all__ = ["ModelOption", "ServerOption", "interruptible", "note", "printable", "shown_path"]

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        "-s",
        envvar="CLIPDEX_SERVER",
        metavar="HOST:PORT",
        help="Triton's gRPC address; several with commas between share the work. Or inproc:DIR: the models of a "
        "repository without a server.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="CLIPDEX_MODEL",
        metavar="NAME",
        help="The model; needed where the server holds several.",
        show_default=False,
    ),
]
SERVER_DEFAULT = DEFAULT_ADDRESS


def note(text: str) -> None:
    """Say something that is not the command's result."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    r"""Text that cannot move a terminal's cursor: control characters and undecodable bytes as \xNN."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode spells it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def shown_path(path: str) -> str:
    """A stored path as a user would type it: from the current folder where it lies below that."""
    below = os.path.relpath(path)
    return printable(path if below.startswith(os.pardir) else below)


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End with exit status 130 and one sentence when Ctrl-C is pressed."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"clipdex: stopped; {advice}")
        raise SystemExit(130) from None
