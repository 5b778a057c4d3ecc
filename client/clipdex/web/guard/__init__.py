"""Checks that every request passes before its route: host, access, size, time and load.

Not public.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from clipdex.web.guard.access import Access
from clipdex.web.guard.bodies import Bodies
from clipdex.web.guard.checks import check
from clipdex.web.guard.headers import Headers
from clipdex.web.guard.hosts import Hosts
from clipdex.web.guard.load import Rates, Slots
from clipdex.web.settings import WebSettings

__all__ = ["check", "guarded"]


def guarded(app: ASGIApp, settings: WebSettings) -> ASGIApp:
    """Wrap an application, so that it gets only requests that pass every check.

    Listed from the inside out: the cheapest check comes first, and the limit on concurrent requests last, so that
    only requests that passed the others count.
    """
    app = Slots(app, settings)
    app = Access(app, settings)
    app = Bodies(app, settings)
    app = Rates(app, settings)
    app = Hosts(app, settings)
    return Headers(app)
