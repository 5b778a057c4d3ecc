"""Shared by the commands: options, the display of paths, the interruption of long runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.base.item_paths import BEGINS
from clipdex.cli.panels import CONNECTION, OUTPUT
from clipdex.cli.printing import complain, note, printable
from clipdex.client.client import DEFAULT_ADDRESS
from clipdex.sources import PassedOver

__all__ = [
    "Decode",
    "HtmlOption",
    "Icc",
    "JsonOption",
    "ModelOption",
    "NoLinksOption",
    "ServerOption",
    "check_links",
    "interruptible",
    "is_typed",
    "named_path",
    "say_passed_over",
    "shown_path",
    "sigterm_interrupts",
    "typed_delimiter",
]

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        "-s",
        envvar="CLIPDEX_SERVER",
        metavar="HOST:PORT",
        help="Triton's gRPC address; several, separated by commas, share the work. Or inproc:DIR: the models of a "
        "repository, run without a server.",
        rich_help_panel=CONNECTION,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="CLIPDEX_MODEL",
        metavar="NAME",
        help="Model to use; required if the server holds several.",
        show_default=False,
        rich_help_panel=CONNECTION,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of lines.", rich_help_panel=OUTPUT)
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Also write a contact sheet.", show_default=False, rich_help_panel=OUTPUT
    ),
]
NoLinksOption = Annotated[
    bool,
    typer.Option(
        "--no-links", help="With --html: do not link the pictures to their files.", rich_help_panel=OUTPUT
    ),
]
SERVER_DEFAULT = DEFAULT_ADDRESS


def named_path(given: str) -> Path:
    """Parse an argument that must not be empty: `pathlib` takes "" as the current folder.

    With an unset variable, a script would search a folder that nobody named.

    Raises:
        typer.BadParameter: it is empty.
    """
    if not given:
        raise typer.BadParameter("it is empty; give the path of a file or folder, or . for the current folder")
    return Path(given)


class Icc(str, Enum):
    """Handling of the pictures' colour profiles."""

    off = "off"
    srgb = "srgb"


class Decode(str, Enum):
    """Handling of large JPEGs."""

    exact = "exact"
    fast = "fast"


def check_links(no_links: bool, html: Path | None) -> None:
    """Raise InvalidArgument if --no-links is given without --html."""
    if no_links and html is None:
        raise InvalidArgument("--no-links is for the contact sheet, but --html is not given")


def is_typed(ctx: typer.Context, parameter: str) -> bool:
    """Return whether a parameter was given on the command line, not by the environment or its default."""
    source = ctx.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def shown_path(path: str) -> str:
    """Return a stored path as a user would type it: relative if below the current folder; a URL unchanged."""
    if "://" in path or path.startswith(BEGINS):  # an item that was added by id, which has no file
        return printable(path)
    below = os.path.relpath(path)
    return printable(path if below.startswith(os.pardir) else below)


def typed_delimiter(text: str | None) -> str | None:
    r"""Return the delimiter that a user typed: `;`, or `tab` or `\t` for a tab, since shells intercept the key."""
    return "\t" if text in ("tab", "\\t") else text


class Terminated(KeyboardInterrupt):
    """Raised when SIGTERM arrives."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM (docker stop, systemd) end the block as Ctrl-C does, and release its resources."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End with one sentence and exit status 130 on Ctrl-C, 143 on SIGTERM."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt as exc:
        complain(f"clipdex: stopped; {advice}")
        raise SystemExit(143 if isinstance(exc, Terminated) else 130) from None


_SHOWN = 6  # suffixes, names


def say_passed_over(found: PassedOver) -> None:
    """Report on standard error the files and folders that a scan skipped, if there are any."""
    if found.others:
        kinds = sorted(found.others.items(), key=lambda kind: (-kind[1], kind[0]))
        named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds[:_SHOWN]]
        more = sum(count for _, count in kinds[_SHOWN:])
        named += [f"{more:,} of other kinds"] if more else []
        others = counted(sum(found.others.values()), "other file was", "other files were")
        note(f"{others} skipped: {', '.join(named)}")
    if found.left_out:
        names = sorted(found.left_out.items(), key=lambda one: (-one[1], one[0]))
        named = [f"{name} ({count:,})" if count > 1 else name for name, count in names[:_SHOWN] if name]
        rest = f" and {counted(len(names) - _SHOWN, 'more name')}" if len(names) > _SHOWN else ""
        note(
            f"left out as hidden, junk or excluded: {counted(found.left_out_files, 'picture')} and "
            f"{counted(found.left_out_folders, 'folder')}: {', '.join(named)}{rest}"
        )
