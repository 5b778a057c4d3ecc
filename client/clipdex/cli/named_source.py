"""The source that `clipdex index` is to read, by its arguments: what may be there, and what certainly is not."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clipdex.base.errors import InvalidArgument, SourceError
from clipdex.base.object_paths import object_meant
from clipdex.cli.common import typed_delimiter
from clipdex.sources import Exclusion, PathList, Source, is_picture_glob, open_sources
from clipdex.sources.locations import URL_BEGINS
from clipdex.sources.opening import names_meant

__all__ = ["named_source"]


def named_source(
    paths: list[Path],
    files_from: str | None,
    column: str | None,
    delimiter: str | None,
    tar: bool,
    exclusion: Exclusion,
    fetches: int,
    out: Path,
) -> Callable[[], Source]:
    """Return what opens the source that the arguments of a command name, here or on another machine.

    Raises:
        InvalidArgument: both paths and a list are given, or neither.
        SourceError: a path does not exist, or the list cannot be read.
    """
    if bool(paths) == (files_from is not None):
        raise InvalidArgument("give either a SOURCE (folder, .tar file or table) or --files-from LIST")
    if files_from == "-":
        return partial(copy.copy, PathList.parse(sys.stdin.buffer.read(), "standard input", fetches=fetches))
    if files_from is not None:
        return partial(copy.copy, PathList.read(Path(files_from), fetches=fetches))
    paths = [name for path in paths for name in names_meant(path)]
    # A missing shard was deleted if the index exists, and is a typing error if it does not.
    for path in paths:
        if object_meant(str(path)) is not None:
            continue
        if URL_BEGINS.match(str(path)) and not os.path.lexists(path):
            raise SourceError(
                f"{path}: is a URL, and clipdex downloads nothing; download it first (img2dataset does so for "
                "pictures) and give its path"
            )
        missing = not os.path.lexists(path) and not is_picture_glob(path)
        if missing and not (path.name.endswith(".tar") and os.path.lexists(out)):
            raise SourceError(f"{path}: no such file or directory")
    return partial(
        open_sources,
        paths,
        column=column,
        delimiter=typed_delimiter(delimiter),
        tar=tar,
        exclusion=exclusion,
        fetches=fetches,
    )
