"""What a caller gives for a list of texts becomes one: checked, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterable

from clipdex.base.errors import InvalidArgument

__all__ = ["text_list"]


def text_list(texts: Iterable[str], name: str = "texts") -> list[str]:
    """A list, tuple, generator, `map` or array of strings -> a list of them. name: of the argument.

    Raises:
        InvalidArgument: it is a single string, or holds something else than strings.
    """
    if isinstance(texts, (str, bytes, bytearray)):
        raise InvalidArgument(f"{name} is a list of strings; for one give a list of one: [{texts!r:.60}]")
    if not isinstance(texts, Iterable):
        raise InvalidArgument(f"{name} is a list of strings, not {type(texts).__name__}: {texts!r:.60}")
    listed = []
    for text in texts:
        if not isinstance(text, str):
            raise InvalidArgument(f"{name} holds {type(text).__name__} ({text!r:.60}); each is a string")
        listed.append(text)
    return listed
