"""The command line. Printing, colours and exit codes live here and nowhere else.

Not public: docs/design.md lists what is.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from clipdex.base.errors import ClipdexError
from clipdex.base.extras import needs
from clipdex.cli.printing import note, speak_any_encoding
from clipdex.model.texts import TextCut

__all__ = ["main"]


def main() -> None:
    """Run `clipdex`. A user's mistake ends it with one sentence on standard error and exit status 1."""
    speak_any_encoding()
    try:
        with needs("rich", "rich", "cli", "the command line"):
            import rich  # noqa: F401
        with needs("typer", "typer", "cli", "the command line"):
            import typer  # noqa: F401
        from clipdex.cli.app import app

        _show_warnings()
        with warnings.catch_warnings():
            warnings.simplefilter("always", TextCut)
            _show_as_notes(TextCut)
            app(prog_name="clipdex")
    except ClipdexError as exc:
        note(f"clipdex: {exc}")
        raise SystemExit(1) from exc


def _show_as_notes(category: type[Warning]) -> None:
    """Print warnings of one category as a single line; leave all others to Python."""
    others = warnings.showwarning

    def show(message: Warning | str, kind: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(kind, category):
            note(f"clipdex: {message}")
        else:
            others(message, kind, *where, **more)

    warnings.showwarning = show  # type: ignore[assignment]


class _Lines(logging.Handler):
    """Log handler that writes to the current standard error, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"clipdex: {record.getMessage()}")


def _show_warnings() -> None:
    """Print the library's warnings, such as the retry of a request."""
    logger = logging.getLogger("clipdex")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines(logging.WARNING))
