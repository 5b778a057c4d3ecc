"""A caller's texts: any iterable of strings becomes a list, and a text that is cut gets a warning."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from clipdex.base.errors import InvalidArgument

__all__ = ["TextCut", "cuts_kept", "text_list", "warn_of_cut"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SHOWN = 40


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


class TextCut(UserWarning):
    """A text is longer than the model's context, and was embedded without its end."""


_KEPT: ContextVar[list[str] | None] = ContextVar("clipdex_cuts_kept", default=None)


@contextmanager
def cuts_kept() -> Iterator[list[str]]:
    """What each text loses that is tokenized in the block, by this thread, in order; "" where all of it fits."""
    kept: list[str] = []
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def warn_of_cut(lost: Sequence[str], context_length: int) -> None:
    """Issue a TextCut, attributed to the caller outside clipdex, if any text was cut.

    lost: the part cut off each text, "" for none.
    """
    ends = [(position, end) for position, end in enumerate(lost) if end]
    kept = _KEPT.get()
    if kept is not None:
        kept += lost
    if not ends:
        return
    position, end = ends[0]
    which = "the text" if len(lost) == 1 else f"text {position} of {len(lost):,}"
    others = f" ({len(ends) - 1:,} more were cut)" if len(ends) > 1 else ""
    shown = end if len(end) <= _SHOWN else end[:_SHOWN] + "…"
    warnings.warn(
        f"{which} is longer than the model's context of {context_length} tokens, and its end was not embedded, "
        f"from {shown!r} on{others}: make it shorter, or search for its parts",
        TextCut,
        stacklevel=_frames_of_clipdex() + 2,
    )


def _frames_of_clipdex() -> int:
    """Count the stack frames above the caller's that still belong to this package."""
    count, frame = 0, sys._getframe(1).f_back
    while frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE):
        count, frame = count + 1, frame.f_back
    return count
