"""The parameters that an address may have: those of its route, each of them once."""

from __future__ import annotations

from collections import Counter

from fastapi import HTTPException, Request
from fastapi.dependencies.models import Dependant

__all__ = ["require_parameters"]


async def require_parameters(
    request: Request,
) -> None:  # async, though it waits for nothing, so it needs no thread
    """Check the parameters of a request's address; a misspelt one would otherwise be ignored.

    Raises:
        HTTPException: of status 400: its route has no such parameter, or one is given more than once.
    """
    known = sorted(_names(request.scope["route"].dependant))
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "expected none"
            raise HTTPException(400, f"the address has an unknown parameter {name[:80]!r}; {expected}")
        if times > 1:
            raise HTTPException(400, f"the address has the parameter {name!r} {times} times; expected it once")


def _names(of: Dependant) -> set[str]:
    return {each.alias for each in of.query_params}.union(*map(_names, of.dependencies))
