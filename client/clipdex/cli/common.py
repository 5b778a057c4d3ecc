"""What several commands share: options, how a path is printed, how a long run is stopped."""

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
from clipdex.cli.printing import note, printable
from clipdex.client.client import DEFAULT_ADDRESS
from clipdex.sources import PassedOver

__all__ = [
    "HtmlOption",
    "Icc",
    "JsonOption",
    "ModelOption",
    "ServerOption",
    "interruptible",
    "note",
    "printable",
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a contact sheet, too.", show_default=False)
]
SERVER_DEFAULT = DEFAULT_ADDRESS


class Icc(str, Enum):
    """What is done with the colour profiles of pictures."""

    off = "off"
    srgb = "srgb"


def shown_path(path: str) -> str:
    """A stored path as a user would type it: from the current folder where it lies below that; a URL as it is."""
    if "://" in path:
        return printable(path)
    below = os.path.relpath(path)
    return printable(path if below.startswith(os.pardir) else below)


def typed_delimiter(text: str | None) -> str | None:
    r"""What separates the cells of a CSV, as a user types it: `;`, or `tab` or `\t`, since shells take the key."""
    return "\t" if text in ("tab", "\\t") else text


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM (docker stop, systemd) ends the block as Ctrl-C does: what it started or shares is let go."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End with one sentence when Ctrl-C is pressed, exit status 130, or SIGTERM comes, 143."""
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt as exc:
        note(f"clipdex: stopped; {advice}")
        raise SystemExit(143 if isinstance(exc, Terminated) else 130) from None


_SHOWN = 6  # suffixes, names


def say_passed_over(found: PassedOver) -> None:
    """Say on standard error what folders hold that was not taken; nothing, if they hold no more."""
    if found.others:
        kinds = sorted(found.others.items(), key=lambda kind: (-kind[1], kind[0]))
        named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds[:_SHOWN]]
        more = sum(count for _, count in kinds[_SHOWN:])
        named += [f"{more:,} of other kinds"] if more else []
        others = counted(sum(found.others.values()), "other was", "others were")
        note(f"{others} not looked at: {', '.join(named)}")
    if found.left_out:
        names = sorted(found.left_out.items(), key=lambda one: (-one[1], one[0]))
        named = [f"{name} ({count:,})" if count > 1 else name for name, count in names[:_SHOWN] if name]
        rest = f" and {counted(len(names) - _SHOWN, 'more name')}" if len(names) > _SHOWN else ""
        note(
            f"left out as hidden, junk or excluded: {counted(found.left_out_files, 'picture')} by "
            f"{'its name' if found.left_out_files == 1 else 'their names'} and "
            f"{counted(found.left_out_folders, 'folder')}: {', '.join(named)}{rest}"
        )
