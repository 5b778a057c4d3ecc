"""The REST API and the page over collections, as an ASGI application. Needs the extra `web`."""

from __future__ import annotations

from clipdex.base.extras import needs

with needs("fastapi", "fastapi", "web", "the REST API and the page"):
    from clipdex.web.app import create_app
    from clipdex.web.settings import WebSettings

__all__ = ["WebSettings", "create_app"]
