r"""Text as it may be shown to a person: on a terminal, in an error, on a page.

Names, paths, captions and error texts come from servers, files and other people.
"""

from __future__ import annotations

__all__ = ["escaped", "printable"]


def printable(text: str) -> str:
    r"""Return text that cannot move a terminal's cursor: control characters and undecodable bytes become \xNN.

    So do line breaks and what changes the writing direction: C0, DEL, C1, the bidirectional overrides.
    """
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def escaped(char: str) -> str:
    r"""Spell a character in ASCII, as \xNN or \uNNNN."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode spells it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
