"""Recognising git-lfs pointers, which git leaves in place of files if git-lfs is not installed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_pointer", "is_pointer_file", "pointer_words"]

# By the specification, this line comes first, and a pointer has less than 1024 bytes.
_FIRST = b"version https://git-lfs.github.com/spec/"
_BYTES = 1024


def is_pointer(data: bytes) -> bool:
    """Return whether the bytes of a file are a pointer."""
    return len(data) < _BYTES and data.startswith(_FIRST)


def is_pointer_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a pointer; False if it cannot be read, so that the caller's read reports that."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_size >= _BYTES:
            return False
        return is_pointer(Path(path).read_bytes())
    except OSError:
        return False


def pointer_words(path: object, what: str) -> str:
    """Write the error for a pointer in place of `what`, such as "the weights"."""
    return f"{path} is a git-lfs pointer, not {what}: run git lfs pull"
