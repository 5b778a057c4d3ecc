"""Validation of a caller's texts: any iterable of strings becomes a list."""

from __future__ import annotations

from collections.abc import Iterable

from clipdex.base.errors import InvalidArgument

__all__ = ["text_list"]


def text_list(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Convert a list, tuple, generator, `map` or array of strings to a list. name: the argument's.

    Raises:
        InvalidArgument: it is a single string, or contains something other than strings.
    """
    if isinstance(texts, (str, bytes, bytearray)):
        raise InvalidArgument(f"{name} is a single string; expected a list of strings: [{texts!r:.60}]")
    if not isinstance(texts, Iterable):
        raise InvalidArgument(f"{name} is {type(texts).__name__} ({texts!r:.60}); expected a list of strings")
    listed = []
    for text in texts:
        if not isinstance(text, str):
            raise InvalidArgument(f"{name} contains {type(text).__name__} ({text!r:.60}); expected strings only")
        listed.append(text)
    return listed
