"""Normalising names that look the same: `é` may be one character, or `e` and an accent (macOS)."""

from __future__ import annotations

import unicodedata

__all__ = ["composed", "composed_path"]


def composed(text: str) -> str:
    """Convert to Unicode's form NFC. Bytes that are not UTF-8, as `os.fsdecode` writes them, are unchanged."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def composed_path(path: bytes) -> bytes:
    """Convert a path's bytes to that form."""
    if path.isascii():
        return path
    return composed(path.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
