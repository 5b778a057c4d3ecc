"""--quiet and --verbose, which every command has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.panels import OUTPUT
from clipdex.cli.printing import Verbosity, set_verbosity
from clipdex.cli.splicing import splice

__all__ = ["has_verbosity", "verbosity_options"]


def has_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --quiet and --verbose."""
    return splice(command, "verbosity", verbosity_options)


def verbosity_options(
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print results and errors only: no notes, no progress.", rich_help_panel=OUTPUT
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Also print what was chosen (server, model), stages and times.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """Choose how much is printed.

    Raises:
        InvalidArgument: both are given.
    """
    if quiet and verbose:
        raise InvalidArgument("--quiet and --verbose exclude each other")
    if quiet or verbose:
        set_verbosity(Verbosity.QUIET if quiet else Verbosity.VERBOSE)
