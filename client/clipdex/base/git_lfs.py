"""Tells the pointer that git leaves where git-lfs is not installed from the file that it stands for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_pointer", "is_pointer_file", "pointer_words"]

# Of the specification: this line comes first, and the whole has less than 1024 bytes.
_FIRST = b"version https://git-lfs.github.com/spec/"
_BYTES = 1024


def is_pointer(data: bytes) -> bool:
    """Whether the bytes of a file are a pointer."""
    return len(data) < _BYTES and data.startswith(_FIRST)


def is_pointer_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file that is a pointer. What cannot be read is none: whoever reads it says why."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_size >= _BYTES:
            return False
        return is_pointer(Path(path).read_bytes())
    except OSError:
        return False


def pointer_words(path: object, what: str) -> str:
    """The sentence for a file that should be `what`, such as "the weights"."""
    return f"{path} is a git-lfs pointer, not {what}: run git lfs pull"
