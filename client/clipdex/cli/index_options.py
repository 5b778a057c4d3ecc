"""The index of a command, named by --index, CLIPDEX_INDEX or its first argument.

The command line takes precedence over the environment. Naming the index twice on the command line is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import is_typed
from clipdex.cli.splicing import splice
from clipdex.index.manifest import MANIFEST
from clipdex.index.part_plan import is_parted

__all__ = [
    "ENVIRONMENT",
    "IndexAndFile",
    "IndexAndPaths",
    "IndexAndUrl",
    "IndexOption",
    "may_take_index",
    "may_take_index_option",
    "required_index",
    "takes_index",
    "takes_index_and_file",
    "takes_index_and_paths",
    "takes_index_and_url",
    "takes_index_option",
]

ENVIRONMENT = "CLIPDEX_INDEX"
_SUFFIX = ".clipdex"

IndexOption = Annotated[
    Path | None,
    typer.Option("--index", "-i", envvar=ENVIRONMENT, metavar="X.clipdex", help="The index.", show_default=False),
]
_Place = Annotated[
    Path | None, typer.Argument(metavar="INDEX", help="The index; same as --index.", show_default=False)
]


@dataclass(frozen=True)
class IndexAndFile:
    """The index of a command that writes a file, and the file."""

    index: Path
    file: Path


@dataclass(frozen=True)
class IndexAndPaths:
    """The index of a command over paths, and the paths."""

    index: Path
    paths: list[Path]


@dataclass(frozen=True)
class IndexAndUrl:
    """The index of a command that pushes, and the address of the collection or bucket."""

    index: Path
    url: str


def takes_index(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `index` (a Path) by the argument INDEX and the option --index."""
    return splice(command, "index", _required)


def may_take_index(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `index` (a Path or None) by the argument INDEX and the option --index."""
    return splice(command, "index", _named)


def takes_index_option(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `index` (a Path) by the option --index; its arguments have other uses."""
    return splice(command, "index", _option)


def may_take_index_option(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `index` (a Path or None) by the option --index."""
    return splice(command, "index", _may_option)


def takes_index_and_file(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `named` (an IndexAndFile) by the arguments INDEX and FILE, and --index."""
    return splice(command, "named", _and_file)


def takes_index_and_paths(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `named` (an IndexAndPaths) by the arguments INDEX and PATH, and --index."""
    return splice(command, "named", _and_paths)


def takes_index_and_url(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `named` (an IndexAndUrl) by the arguments INDEX and URL, and --index."""
    return splice(command, "named", _and_url)


def required_index(index: Path | None) -> Path:
    """Return the index.

    Raises:
        InvalidArgument: none is given.
    """
    if index is None:
        raise InvalidArgument(f"there is no index; name one with --index X{_SUFFIX}, or set {ENVIRONMENT}")
    return index


def _named(ctx: typer.Context, place: _Place = None, index: IndexOption = None) -> Path | None:
    if place is not None and is_typed(ctx, "index"):
        raise _twice(place, index)
    return index if place is None else place


def _required(ctx: typer.Context, place: _Place = None, index: IndexOption = None) -> Path:
    return required_index(_named(ctx, place, index))


def _may_option(index: IndexOption = None) -> Path | None:
    return index


def _option(index: IndexOption = None) -> Path:
    return required_index(index)


def _and_file(
    ctx: typer.Context,
    place: _Place = None,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="File to write; its suffix sets the format: .npy for NumPy, .faiss for a faiss.IndexFlatIP, .pt "
            "for a dictionary of embeddings and paths that torch.load reads.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = None,
) -> IndexAndFile:
    if file is None and index is not None:
        place, file = None, place  # one argument, and the index is named elsewhere
    found = required_index(_named(ctx, place, index))
    if file is None:
        raise InvalidArgument("there is no FILE to write; give one, as in  clipdex dump X.clipdex vectors.npy")
    return IndexAndFile(found, file)


def _and_url(
    ctx: typer.Context,
    place: Annotated[
        str | None, typer.Argument(metavar="INDEX", help="The index; same as --index.", show_default=False)
    ] = None,
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="Address to push to, in one of these forms.", show_default=False),
    ] = None,
    index: IndexOption = None,
) -> IndexAndUrl:
    if url is None and place is not None and "://" in place:
        place, url = None, place  # one argument, and the index is named elsewhere
    found = required_index(_named(ctx, None if place is None else Path(place), index))
    if url is None:
        raise InvalidArgument(
            "there is no URL to push to; give one, as in  clipdex push X.clipdex qdrant://localhost/photos, or  "
            "clipdex push-index X.clipdex s3://bucket/photos"
        )
    return IndexAndUrl(found, url)


def _and_paths(
    ctx: typer.Context,
    place: _Place = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Files and folders to forget, with all below; they need not exist.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = None,
) -> IndexAndPaths:
    paths = paths or []
    if place is None or index is None:
        return IndexAndPaths(required_index(place or index), paths)
    # Every word is a path then. One that names an index was meant as the index, and would be forgotten in another.
    if place.suffix == _SUFFIX or (place / MANIFEST).is_file() or is_parted(place):
        if is_typed(ctx, "index"):
            raise _twice(place, index)
        raise InvalidArgument(
            f"{place} looks like an index, but {index} is named by {ENVIRONMENT}; say which one with --index"
        )
    return IndexAndPaths(index, [place, *paths])


def _twice(place: Path, index: Path | None) -> InvalidArgument:
    return InvalidArgument(f"the index is given twice, as {place} and as --index {index}; give it once")
