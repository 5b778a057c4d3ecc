"""The command line. Printing, colours and exit codes live here and nowhere else.

Not public: docs/design.md lists what is.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
import warnings
from typing import Any

from clipdex.base.errors import ClipdexError
from clipdex.base.extras import needs
from clipdex.cli.printing import (
    Verbosity,
    complain,
    detail,
    flush_results,
    give_up_output,
    is_verbose,
    note,
    set_verbosity,
    speak_any_encoding,
)
from clipdex.model.texts import TextCut

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run `clipdex`. A user's mistake ends it with one sentence on standard error and exit status 1.

    A command or option that does not exist ends it with exit status 2; an internal error, with 70.
    """
    speak_any_encoding()
    set_verbosity(Verbosity.NORMAL)
    began = time.monotonic()
    try:
        status = _run()
    except ClipdexError as exc:
        complain(f"clipdex: {exc}")
        give_up_output()
        raise SystemExit(1) from exc
    except KeyboardInterrupt:
        complain("clipdex: stopped")
        raise SystemExit(_INTERRUPTED) from None
    except BrokenPipeError:
        give_up_output()
        raise SystemExit(141) from None
    except OSError as exc:  # such as a full disk, where nothing else reports it
        _detail_traceback()
        where = "" if exc.filename is None else f"{exc.filename}: "
        complain(f"clipdex: {where}{exc.strerror or exc}")
        give_up_output()
        raise SystemExit(1) from exc
    except Exception as exc:
        _detail_traceback()
        advice = "please report it" if is_verbose() else "run it again with --verbose, and please report it"
        complain(f"clipdex: internal error in {_place_of(exc)}: {type(exc).__name__}: {exc}; {advice}")
        raise SystemExit(70) from exc
    detail(f"took {time.monotonic() - began:.2f} s")
    raise SystemExit(status)


def _run() -> int:
    """Run the command given on the command line -> exit status."""
    with needs("rich", "rich", "cli", "the command line"):
        import rich  # noqa: F401
    with needs("typer", "typer", "cli", "the command line"):
        import typer
    from clipdex.cli.app import app

    _show_warnings()
    # Typer has a click of its own since 0.26, so its exceptions are found by the one that it exports.
    click_exception: type[Any] = typer.BadParameter.__mro__[2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", TextCut)
            # A user cannot act on Pillow's warnings about odd metadata.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _show_as_notes(TextCut)
            status: int = app(prog_name="clipdex", standalone_mode=False) or 0
            flush_results()
    except typer.Abort:
        raise KeyboardInterrupt from None
    except click_exception as exc:
        return _usage_status(exc)
    if status == _INTERRUPTED:  # into which Typer turns Ctrl-C
        raise KeyboardInterrupt
    return status


def _usage_status(exc: Any) -> int:
    """Print what is wrong with the command line, and where to look -> exit status."""
    if type(exc).__name__ == "NoArgsIsHelpError":
        exc.show()  # the help page
    else:
        message = " ".join(exc.format_message().split()).rstrip(".")
        command = exc.ctx.command_path if getattr(exc, "ctx", None) else "clipdex"
        message = f"{message[:1].lower()}{message[1:]}" + ("" if message.endswith("?") else ";")
        complain(f"clipdex: {message} see  {command} --help")
    return int(exc.exit_code)


def _detail_traceback() -> None:
    for line in traceback.format_exc().splitlines():
        detail(line)


def _place_of(exc: Exception) -> str:
    """Return the file and line of clipdex that an exception comes from."""
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}clipdex" in frame.filename]
    last = (ours or frames)[-1]
    return f"{os.path.basename(last.filename)}:{last.lineno}"


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
        (note if record.levelno >= logging.WARNING else detail)(f"clipdex: {record.getMessage()}")


def _show_warnings() -> None:
    """Print the library's warnings, such as the retry of a request; with --verbose, all that it logs."""
    logger = logging.getLogger("clipdex")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
