"""The collections that an application serves, by name."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Query, Request

from clipdex.base.errors import InvalidArgument
from clipdex.collection.async_collection import Collection
from clipdex.web.settings import WebSettings

__all__ = ["Chosen", "HeldCollection", "Served", "served_of"]


@dataclass(frozen=True)
class HeldCollection:
    """One open collection, and the name under which it is served."""

    name: str
    directory: Path
    collection: Collection


@dataclass
class Served:
    """What an application serves while it runs. Open it with `async with`."""

    settings: WebSettings
    collections: dict[str, HeldCollection] = field(default_factory=dict)
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Served:
        """Open every collection.

        Raises:
            InvalidArgument: two indexes have one name.
            ClipdexError: as `clipdex.Collection.open`.
        """
        chosen = self.settings
        try:
            for directory in chosen.indexes:
                name = directory.absolute().name.removesuffix(".clipdex")
                if name in self.collections:
                    first = self.collections[name].directory
                    raise InvalidArgument(f"{first} and {directory} are both named {name!r}; rename one of them")
                asked = {} if chosen.server is None else {"model": chosen.model, **chosen.connection}
                opened = Collection.open(
                    directory,
                    server=chosen.server,
                    read_only=not chosen.allow_write,
                    **asked,
                    **({"lock": "per_commit"} if chosen.allow_write else {}),
                )
                await self._open.enter_async_context(opened)
                self.collections[name] = HeldCollection(name, directory, opened)
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
            raise InvalidArgument(f"several indexes are served: give index= one of {known}")
        if name not in self.collections:
            raise InvalidArgument(f"no index {name!r:.80} is served; expected one of {known}")
        return self.collections[name]


def served_of(request: Request) -> Served:
    """Return what the application of a request serves."""
    found = request.app.state.served
    assert isinstance(found, Served)
    return found


def _chosen(
    request: Request,
    index: Annotated[str | None, Query(description="Name of the index; needed if several are served.")] = None,
) -> HeldCollection:
    return served_of(request).named(index)


Chosen = Annotated[HeldCollection, Depends(_chosen)]
