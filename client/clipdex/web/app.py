"""The web application: its collections, its routes, and the guard in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from clipdex.version import __version__
from clipdex.web.guard import check, guarded
from clipdex.web.metrics import Measuring, Metrics
from clipdex.web.openapi import documented
from clipdex.web.parameters import require_parameters
from clipdex.web.problems import Hidden, add_handlers
from clipdex.web.routes import (
    classify,
    columns,
    duplicates,
    embeddings,
    failures,
    info,
    items,
    match,
    operations,
    page,
    pictures,
    search,
)
from clipdex.web.served import Served, require_names
from clipdex.web.settings import WebSettings

__all__ = ["create_app"]

_ROUTERS = (
    *(search.router, match.router, items.router, info.router, pictures.router),
    *(embeddings.router, classify.router, duplicates.router, failures.router, columns.router),
)
# Probes may add parameters of their own; the page ignores those that it does not know, as in an old link.
_LENIENT = (operations.router, page.router)


def create_app(settings: WebSettings) -> FastAPI:
    """Make the ASGI application that serves the indexes of `settings`; they are opened when it starts.

    Raises:
        InvalidArgument: the settings contradict each other.
    """
    check(settings)
    require_names(settings.indexes)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        served = Served(settings)
        try:
            await served.__aenter__()
        except BaseException as exc:
            app.state.failed = exc  # a server would say only that the application did not start
            raise
        app.state.served = served
        try:
            yield
        finally:
            await served.__aexit__()

    app = FastAPI(
        title="clipdex",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.settings = settings
    add_handlers(app, Hidden(settings.indexes, show_paths=settings.show_paths))
    for router in _ROUTERS:
        app.include_router(router, dependencies=[Depends(require_parameters)])
    for router in _LENIENT:
        app.include_router(router)
    documented(app)
    app.state.metrics = Metrics()
    app.add_middleware(_Guard, settings=settings)
    app.add_middleware(Measuring, metrics=app.state.metrics)  # what the guard refuses is measured too
    return app


class _Guard:
    """`guarded` as what `add_middleware` takes."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = guarded(app, settings)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)
