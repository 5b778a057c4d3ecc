r"""All output of the command line: nothing printed here can move the cursor or break a line.

Names, paths, captions and error texts come from servers, files and other people. Characters that a terminal would
obey rather than show, or that its encoding lacks, are printed as \xNN or \uNNNN.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clipdex.base.printable import escaped, printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "bar_console",
    "note",
    "printable",
    "say",
    "say_block",
    "say_json",
    "speak_any_encoding",
    "write_bytes",
    "write_text",
]

# ASCII replacements for characters of our own sentences that an encoding lacks.
_PLAIN = {"—": "-", "–": "-", "−": "-", "×": "x", "→": "->", "…": "...", "≥": ">=", "≤": "<=", "·": "*", "µ": "u"}
_HANDLER = "clipdex.plain"


def say(text: str = "", *, flush: bool = False) -> None:
    """Print one line of the command's result."""
    print(printable(text), flush=flush)


def say_block(text: str) -> None:
    """Print several lines whose line breaks are our own, such as a table."""
    for line in text.split("\n"):
        say(line)


def note(text: str) -> None:
    """Print one line that is not the command's result, on standard error."""
    print(printable(text), file=sys.stderr)


def say_json(data: object) -> None:
    """Print a result for programs as JSON."""
    write_text(json.dumps(data, indent=2) + "\n")


def write_text(text: str) -> None:
    """Write part of a result for programs; ASCII, as `json.dumps` returns it."""
    sys.stdout.write(text)


def write_bytes(lines: Iterable[bytes]) -> None:
    """Write a result for programs, with the raw bytes of its paths."""
    sys.stdout.flush()
    for line in lines:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def bar_console() -> Console:
    """Return the console that progress bars are drawn on."""
    from rich.console import Console  # here, so that a missing rich can be reported

    return Console(stderr=True)


def speak_any_encoding() -> None:
    r"""Make both outputs print what their encoding lacks as an ASCII replacement, \xNN or \uNNNN."""
    codecs.register_error(_HANDLER, _plainly)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a replaced stream may have none
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c) or escaped(c) for c in error.object[error.start : error.end]), error.end
