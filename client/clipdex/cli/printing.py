r"""All output of the command line: nothing printed here can move the cursor or break a line.

Names, paths, captions and error texts come from servers, files and other people. Characters that a terminal would
obey rather than show, or that its encoding lacks, are printed as \xNN or \uNNNN.
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

from clipdex.base.errors import ClipdexError
from clipdex.base.printable import escaped, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "Verbosity",
    "bar_console",
    "complain",
    "detail",
    "flush_results",
    "give_up_output",
    "is_quiet",
    "is_verbose",
    "note",
    "printable",
    "rendered",
    "say",
    "say_block",
    "say_json",
    "say_json_line",
    "says_yes",
    "set_verbosity",
    "speak_any_encoding",
    "terminal_width",
    "write_bytes",
    "write_text",
]

# ASCII replacements for characters of our own sentences that an encoding lacks.
_PLAIN = {"—": "-", "–": "-", "−": "-", "×": "x", "→": "->", "…": "...", "≥": ">=", "≤": "<=", "·": "*", "µ": "u"}
_HANDLER = "clipdex.plain"


class Verbosity(IntEnum):
    """How much is printed besides results and errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


_verbosity = Verbosity.NORMAL


def set_verbosity(level: Verbosity) -> None:
    """Choose how much this process prints on standard error from now on."""
    global _verbosity
    _verbosity = level


def is_quiet() -> bool:
    """Return whether only results and errors are printed: no notes, no progress."""
    return _verbosity is Verbosity.QUIET


def is_verbose() -> bool:
    """Return whether details are printed."""
    return _verbosity is Verbosity.VERBOSE


def say(text: str = "", *, flush: bool = False) -> None:
    """Print one line of the command's result."""
    with _as_our_error():
        print(printable(text), flush=flush)


def say_block(text: str) -> None:
    """Print several lines whose line breaks are our own, such as a table."""
    for line in text.split("\n"):
        say(line)


def note(text: str) -> None:
    """Print one line that is not the command's result, on standard error; nothing with --quiet."""
    if not is_quiet():
        complain(text)


def detail(text: str) -> None:
    """Print one line on standard error with --verbose: a stage, a time, what was chosen."""
    if is_verbose():
        complain(text)


def complain(text: str) -> None:
    """Print one line about something that is wrong, on standard error, also with --quiet."""
    print(printable(text), file=sys.stderr)


def says_yes(question: str) -> bool:
    """Ask on standard error, and return whether the answer is yes, which an empty line also means.

    Not on standard output, which another program may read.
    """
    print(printable(question), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()  # "" at its end
    return answer.endswith("\n") and answer.strip().lower() in ("", "y", "yes")


def say_json(data: object, *, flush: bool = False) -> None:
    """Print a command's whole result for programs as one JSON document."""
    write_text(json.dumps(data, indent=2, default=str) + "\n")
    if flush:
        flush_results()


def say_json_line(data: object) -> None:
    """Print one of several results for programs, as a line of JSON, at once."""
    write_text(json.dumps(data, default=str) + "\n")
    flush_results()


def write_text(text: str) -> None:
    """Write part of a result for programs; ASCII, as `json.dumps` returns it."""
    with _as_our_error():
        sys.stdout.write(text)


def write_bytes(lines: Iterable[bytes]) -> None:
    """Write a result for programs, with the raw bytes of its paths."""
    with _as_our_error():
        sys.stdout.flush()
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def flush_results() -> None:
    """Write out what is buffered.

    Raises:
        ClipdexError: standard output cannot be written, as on a full disk.
    """
    with _as_our_error():
        sys.stdout.flush()


def give_up_output() -> None:
    """Drop what standard output does not accept; Python would complain about it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _as_our_error() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader, such as head, has enough
    except OSError as exc:
        raise ClipdexError(f"standard output cannot be written: {exc.strerror or exc}") from exc


def rendered(parts: Iterable[RenderableType]) -> str:
    """Return parts of a page as text for standard output: in its width, and in colours if it has them."""
    from rich.console import Console  # here, so that a missing rich can be reported

    console = Console(highlight=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().split("\n"))


def terminal_width(otherwise: int) -> int:
    """Return the width of the terminal, or `otherwise` if standard output is not a terminal."""
    return shutil.get_terminal_size((otherwise, 24)).columns if sys.stdout.isatty() else otherwise


def bar_console() -> Console:
    """Return the console that progress bars are drawn on."""
    from rich.console import Console  # here, so that a missing rich can be reported

    return Console(stderr=True)


def speak_any_encoding() -> None:
    r"""Make both outputs print characters that their encoding lacks as an ASCII replacement, \xNN or \uNNNN.

    A closed standard stream becomes the null device.
    """
    codecs.register_error(_HANDLER, _plainly)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a replaced stream may have none
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _open_closed_streams() -> None:
    """Put the null device in place of a standard stream that is closed, as by `>&-`, which Python makes None.

    In their order, so that each gets its own descriptor: otherwise, the next file opened would, and receive what
    libraries and subprocesses print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - it stays open
            if stream.fileno() <= 2:
                os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c) or escaped(c) for c in error.object[error.start : error.end]), error.end
