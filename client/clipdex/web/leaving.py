"""Ending the work of a request whose client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from clipdex.web.guard.requests import Refused
from clipdex.web.problems import Left

__all__ = ["while_there"]

_T = TypeVar("_T")


async def while_there(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Await work for a request whose body was read, or that has none -> its result.

    Raises:
        Left: the client left, which cancels the work.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise Left("the client has left")
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Wait until the client has left, or sends a body that is refused."""
    with suppress(Refused):
        while (await request.receive())["type"] != "http.disconnect":
            pass
