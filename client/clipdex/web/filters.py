"""Checks of conditions: without `show_paths`, none may read a path, which could be guessed by comparing."""

from __future__ import annotations

from clipdex.index.where import columns_read
from clipdex.web.problems import Forbidden
from clipdex.web.settings import WebSettings

__all__ = ["require_allowed"]

_HIDDEN = ("path", "folder")


def require_allowed(where: str | None, settings: WebSettings) -> None:
    """Check a condition.

    Raises:
        Forbidden: it reads a column with paths, which this server does not show.
    """
    if where is None or settings.show_paths:
        return
    named = sorted(columns_read(where, _HIDDEN))
    if named:
        raise Forbidden(
            f"the filter uses {' and '.join(named)}, but this server does not show paths; its operator can allow "
            "it with --show-paths"
        )
