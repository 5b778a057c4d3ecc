"""The warning about a text longer than a model's context, whose end is not embedded."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["TextCut", "cuts_kept", "warn_of_cut"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SHOWN = 40


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
