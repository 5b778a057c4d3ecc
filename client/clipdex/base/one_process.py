"""What belongs to one process: it refuses to be pickled, which would otherwise fail at some lock inside it."""

from __future__ import annotations

from typing import NoReturn

from clipdex.base.errors import InvalidArgument

__all__ = ["OfOneProcess"]


class OfOneProcess:
    """A base of what holds open files, connections or threads: it cannot be pickled or copied."""

    def __getstate__(self) -> NoReturn:
        raise InvalidArgument(
            f"this {type(self).__name__} holds open files, connections or threads, so it cannot be pickled, "
            "copied or sent to another process: open one in each process"
        )
