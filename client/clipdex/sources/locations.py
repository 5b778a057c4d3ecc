"""Where a list or a table says that a picture is: at a path of this machine, or a URL, which nothing fetches."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

__all__ = ["LONGEST_PATH", "URL_BEGINS", "Elsewhere", "located"]

LONGEST_PATH = 4096  # bytes; Linux opens none that is longer

URL_BEGINS = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]+:/"
)  # as a Path has it, which knows one slash where there were two

_URL = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]+)://")
_FILE = re.compile(rb"file:(?://(?:localhost)?)?(?=/)(?!//)", re.IGNORECASE)
_DATA = re.compile(rb"data:[\w.+-]+/[\w.+-]+[;,]", re.IGNORECASE)


@dataclass(frozen=True)
class Elsewhere:
    """What is no path of this machine. why: in the ledger's words."""

    why: str


def located(text: bytes, folder: bytes) -> bytes | Elsewhere:
    """The absolute path that is meant.

    A relative path is meant from `folder`, `~/` is the user's own folder, and `file:///` begins a path whose odd
    bytes are written as %NN.
    """
    if found := _FILE.match(text):
        return os.path.abspath(unquote_to_bytes(text[found.end() :]))
    if found := _URL.match(text):
        scheme = found[1].decode("ascii").lower()
        if scheme == "file":
            return Elsewhere(
                "is a file: URL of another machine, or of none; file:///PATH and plain paths are taken"
            )
        return Elsewhere(
            f"is a URL ({scheme}), and clipdex downloads nothing; download the pictures first, as img2dataset "
            "does, and index those"
        )
    if _DATA.match(text):
        return Elsewhere("is a data: URL, the picture itself in text; save it to a file and give its path")
    if len(text) > LONGEST_PATH:
        return Elsewhere(f"has {len(text):,} bytes, which no path has")
    if text.startswith(b"~/"):
        text = os.path.expanduser(text)
    return os.path.abspath(os.path.join(folder, text))
