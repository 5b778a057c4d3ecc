r"""All that the command line prints, in one place: nothing that it prints can move the cursor or break a line.

Names, paths, captions and error texts come from servers, files and other people. What a terminal would obey rather
than show is printed as \xNN or \uNNNN, and so is what the terminal's encoding cannot say.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

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

# What stands for the signs of our own sentences where an encoding has none.
_PLAIN = {"—": "-", "–": "-", "−": "-", "×": "x", "→": "->", "…": "...", "≥": ">=", "≤": "<=", "·": "*", "µ": "u"}
_HANDLER = "clipdex.plain"


def say(text: str = "", *, flush: bool = False) -> None:
    """One line of the command's result."""
    print(printable(text), flush=flush)


def say_block(text: str) -> None:
    """Several lines whose line breaks are our own: a table, for one."""
    for line in text.split("\n"):
        say(line)


def note(text: str) -> None:
    """One line that is not the command's result."""
    print(printable(text), file=sys.stderr)


def say_json(data: object) -> None:
    """A result for programs."""
    write_text(json.dumps(data, indent=2) + "\n")


def write_text(text: str) -> None:
    """A piece of a result for programs, ASCII as `json.dumps` gives it."""
    sys.stdout.write(text)


def write_bytes(lines: Iterable[bytes]) -> None:
    """A result for programs, with the bytes that its paths have."""
    sys.stdout.flush()
    for line in lines:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def bar_console() -> Console:
    """Where progress bars are drawn."""
    from rich.console import Console  # the rest works without: it says what is not installed

    return Console(stderr=True)


def printable(text: str) -> str:
    r"""Text that cannot move a terminal's cursor: control characters and undecodable bytes as \xNN.

    So are line breaks, and what turns the direction of writing: C0, DEL, C1, the bidirectional overrides.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def speak_any_encoding() -> None:
    r"""Let both outputs say what their encoding cannot as a plain sign, \xNN or \uNNNN."""
    codecs.register_error(_HANDLER, _plainly)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what stands in its place may have none
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c) or _escaped(c) for c in error.object[error.start : error.end]), error.end


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode spells it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
