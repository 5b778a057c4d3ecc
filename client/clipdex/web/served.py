"""The collections that an application serves, by name."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Query, Request

from clipdex.base.errors import InvalidArgument
from clipdex.collection.async_collection import Collection
from clipdex.web.pictures.originals import Originals
from clipdex.web.pictures.thumbnails import Thumbnails
from clipdex.web.problems import Forbidden
from clipdex.web.settings import WebSettings

__all__ = [
    "Chosen",
    "HeldCollection",
    "Pictures",
    "Served",
    "Writable",
    "name_of",
    "pictures_of",
    "require_names",
    "served_of",
]

# Of a request's time limit: for one request to the model server, and for evaluating one condition.
_MODEL_SHARE, _FILTER_SHARE = 0.25, 0.25


def name_of(index: Path) -> str:
    """Return the name under which an index is served."""
    return index.absolute().name.removesuffix(".clipdex")


@dataclass(frozen=True)
class HeldCollection:
    """One open collection, and the name under which it is served. alone: it is the only one."""

    name: str
    directory: Path
    collection: Collection
    settings: WebSettings
    alone: bool

    @property
    def has_model(self) -> bool:
        """Whether it has an inference server, so that texts and pictures can be searched for and added."""
        return self.settings.server is not None

    def require_model(self) -> None:
        """Raise InvalidArgument if there is no inference server."""
        if not self.has_model:
            raise InvalidArgument(
                "this server has no model server, so it takes only vectors and pictures of the index; its "
                "operator can name one with --server"
            )


@dataclass(frozen=True)
class Pictures:
    """The sources of thumbnails and of picture files."""

    thumbnails: Thumbnails
    originals: Originals


@dataclass
class Served:
    """The open collections of a running application. Open it with `async with`."""

    settings: WebSettings
    collections: dict[str, HeldCollection] = field(default_factory=dict)
    pictures: Pictures = field(init=False)
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Served:
        """Open every collection.

        Raises:
            InvalidArgument: there is no index, or two have one name.
            ClipdexError: as `clipdex.Collection.open`.
        """
        chosen = self.settings
        require_names(chosen.indexes)
        # A model server that is away is reported well before the request's own time is up.
        patience = {"timeout_s": chosen.request_timeout_s * _MODEL_SHARE}
        asked = {} if chosen.server is None else {"model": chosen.model, **patience, **chosen.connection}
        try:
            self.pictures = Pictures(Thumbnails(chosen), Originals())
            self._open.push_async_callback(asyncio.to_thread, self.pictures.thumbnails.close)
            for directory in chosen.indexes:
                opened = Collection.open(
                    directory,
                    server=chosen.server,
                    read_only=not chosen.allow_write,
                    decode_workers=chosen.decode_workers,
                    thumbnails=chosen.allow_write,
                    # Others' conditions wait for it, so it must leave them some of their time.
                    filter_timeout_s=chosen.request_timeout_s * _FILTER_SHARE,
                    **asked,
                    # Others, such as `clipdex index`, may write between two requests.
                    **({"lock": "per_commit"} if chosen.allow_write else {}),
                )
                await self._open.enter_async_context(opened)
                name = name_of(directory)
                alone = len(chosen.indexes) == 1
                self.collections[name] = HeldCollection(name, directory, opened, chosen, alone)
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()

    def named(self, name: str | None) -> HeldCollection:
        """Return the collection of a name, or the only one.

        Raises:
            InvalidArgument: there is none of this name, or several to choose from.
        """
        known = ", ".join(sorted(self.collections))
        if name is None and len(self.collections) == 1:
            return next(iter(self.collections.values()))
        if name is None:
            raise InvalidArgument(f"several indexes are served; give index=, one of {known}")
        if name not in self.collections:
            raise InvalidArgument(f"no index {name!r:.80} is served; expected one of {known}")
        return self.collections[name]


def require_names(indexes: tuple[Path, ...]) -> None:
    """Check that each index has a name of its own.

    Raises:
        InvalidArgument: there is none, or two have one name.
    """
    if not indexes:
        raise InvalidArgument("there is no index to serve; name one, X.clipdex")
    seen: dict[str, Path] = {}
    for directory in indexes:
        name = name_of(directory)
        if name in seen:
            raise InvalidArgument(f"{seen[name]} and {directory} are both named {name!r}; rename one of them")
        seen[name] = directory


def served_of(request: Request) -> Served:
    """Return the open collections of a request's application."""
    found = request.app.state.served
    assert isinstance(found, Served)
    return found


def pictures_of(request: Request) -> Pictures:
    """Return the pictures of a request's application."""
    return served_of(request).pictures


async def _chosen(
    request: Request,
    index: Annotated[str | None, Query(description="Name of the index; needed if several are served.")] = None,
) -> HeldCollection:
    return served_of(request).named(index)


# Async, though they wait for nothing: FastAPI runs others in threads.
Chosen = Annotated[HeldCollection, Depends(_chosen)]


async def _writable(held: Chosen) -> HeldCollection:
    if not held.settings.allow_write:
        raise Forbidden("this server is read-only; its operator can allow changes with --allow-write")
    return held


Writable = Annotated[HeldCollection, Depends(_writable)]
