"""Checks of the settings: whether they are in range, safe, and consistent."""

from __future__ import annotations

import math
import re

from clipdex.base.errors import InvalidArgument
from clipdex.web.guard.hosts import is_loopback
from clipdex.web.settings import WebSettings

__all__ = ["check"]

_SHORTEST_TOKEN = 16
_HOST = re.compile(r"\[?[0-9A-Fa-f:.]+\]?|[^\W_](?:[\w.-]*\w)?\.?")


def check(settings: WebSettings) -> None:
    """Check the settings that requests are guarded by.

    Raises:
        InvalidArgument: one is out of range, or anybody could reach the application without a token.
    """
    for name in (settings.host, *settings.allowed_hosts):
        if not isinstance(name, str) or _HOST.fullmatch(name) is None:
            raise InvalidArgument(
                f"host {name!r:.80} is neither a host name nor an IP address; expected one, without a port"
            )
    token = settings.token
    if token is None and not is_loopback(settings.host):
        raise InvalidArgument(
            f"host {settings.host} can be reached from other machines, so it needs a token; give one, "
            "or listen on 127.0.0.1"
        )
    if token is not None and re.fullmatch(rf"[!-~]{{{_SHORTEST_TOKEN},512}}", token) is None:
        raise InvalidArgument(
            f"expected a token of {_SHORTEST_TOKEN} to 512 printable ASCII characters without spaces; "
            "make one with  python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    for field in ("max_upload_bytes", "max_json_bytes", "max_concurrent"):
        value = getattr(settings, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidArgument(f"{field} is {value!r:.40}; expected a whole number from 1")
    for field in ("body_timeout_s", "request_timeout_s", "requests_per_s"):
        value = getattr(settings, field)
        if value is None and field == "requests_per_s":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InvalidArgument(f"{field} is {value!r:.40}; expected a number above 0")
