"""A side file that only saves time: mapped where it fits its index, watched for another, and checked.

If it is missing, stale or damaged, the same is read elsewhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import IndexDamaged
from clipdex.index.files import fault, identity, map_file, open_to_read

__all__ = ["DerivedFile", "Unusable", "damages_of", "logged", "mapped", "padded", "usable"]

_ALIGNED = 64  # bytes, of each part

_log = logging.getLogger("clipdex.index")

_T = TypeVar("_T")


class Unusable(Exception):
    """The side file, or a part of it, cannot be used; the message says why. Never leaves this package."""


class _Header(Protocol):
    @property
    def file_bytes(self) -> int: ...


_H = TypeVar("_H", bound=_Header)


class DerivedFile(Generic[_T]):
    """The side file of an index that stays open: opened once it exists, and again after it was replaced."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: tuple[int, ...] | None = None
        self._file: _T | None = None

    def now(self, directory: Path, opened: Callable[[], _T | None]) -> _T | None:
        """Return the file, if there is one that can be used. opened: opens it."""
        seen = identity(directory / self._name)
        if seen != self._seen:
            self._file = None if seen is None else opened()
            self._seen = seen
        return self._file


def mapped(
    path: Path, header_bytes: int, header_of: Callable[[bytes], _H], require_fit: Callable[[_H], None]
) -> tuple[_H, npt.NDArray[np.uint8]]:
    """Read a file's header, and map all of it -> (header, the bytes).

    Raises:
        FileNotFoundError: there is none.
        Unusable: it cannot be read, does not fit, or has another length than its header says.
        IndexDamaged: it is no regular file.
    """
    try:
        with open_to_read(path) as file:
            header = header_of(file.read(header_bytes))
            require_fit(header)
            size = os.fstat(file.fileno()).st_size
            if size != header.file_bytes:
                raise Unusable(f"is damaged: it has {size:,} bytes instead of {header.file_bytes:,}")
            return header, np.asarray(map_file(file, path, np.uint8))
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise Unusable(f"cannot be read: {exc.strerror or exc}") from exc


def usable(path: Path, require: Callable[[], _T]) -> _T | None:
    """Open a file by `require`; None if there is none, or it cannot be used, which is logged."""
    try:
        return require()
    except FileNotFoundError:
        return None
    except Unusable as exc:
        logged(path, exc)
        return None


def logged(path: Path, why: Unusable, what: str = "it is") -> None:
    """Log that a file, or what of it, is not used."""
    _log.warning("%s %s; %s not used, which affects only the speed", path, why, what)


def damages_of(
    path: Path, require: Callable[[], _T], checks: Callable[[_T], Iterable[Callable[[], object]]], what: str
) -> list[str]:
    """Check a file, if there is one -> its damage.

    Args:
        require: opens it, or raises FileNotFoundError or Unusable.
        checks: of an open file, what reads each part of it and raises Unusable if that is damaged.
        what: to rebuild if a part is damaged: "it", or what the parts are.

    Raises:
        IndexFault: the system refuses to read it.
    """
    try:
        file = require()
    except FileNotFoundError:
        return []
    except Unusable as exc:
        if isinstance(exc.__cause__, OSError):
            refused = fault(path, exc.__cause__)
            if not isinstance(refused, IndexDamaged):
                raise refused from exc
        return [f"{path.name} {exc}: rebuild it with  clipdex optimize"]
    found = []
    for check in checks(file):
        try:
            check()
        except Unusable as exc:
            found.append(f"{path.name} {exc}: rebuild {what} with  clipdex optimize")
    return found


def padded(length: int) -> int:
    """Round up to the next place where a part may start."""
    return -(-length // _ALIGNED) * _ALIGNED
