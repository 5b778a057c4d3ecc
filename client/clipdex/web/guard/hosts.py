"""Checks of Host and Origin, so that no other site can use the application through a visitor's browser.

A page of another site can make its own name resolve to this machine (DNS rebinding), so the name in `Host` must
be one of ours. It can also make a browser send requests here, so what a browser says of their origin must be ours
too. A client that is no browser says nothing of an origin.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from clipdex.base.errors import InvalidArgument
from clipdex.web.guard.requests import Refused, header, refuse
from clipdex.web.settings import WebSettings

__all__ = ["Hosts", "is_loopback", "plain_host"]

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,254})(?::([0-9]{1,5}))?")
_SAFE = ("GET", "HEAD", "OPTIONS")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTRANCES = ("/", "/login")  # what links of other sites may lead to
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Hosts:
    """Passes on requests for this host; from browsers, only those of our own pages."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        bound = plain_host(settings.host)
        address = _address(bound)
        self._everywhere = address is not None and address.is_unspecified
        self._names = {bound, *map(plain_host, settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        if scope["type"] == "http":
            try:
                self._check(scope)
            except Refused as refused:
                await refuse(refused, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        given = header(scope, b"host")
        if given is None:
            raise Refused(400, "the request has no header Host")
        host, port = _authority(given)
        if not self._is_ours(host):
            raise Refused(
                421, "this server does not answer to this host name; its operator can allow it with --allowed-host"
            )
        site = header(scope, b"sec-fetch-site")
        origin, referer = header(scope, b"origin"), header(scope, b"referer")
        if site not in (None, "none", "same-origin") and not _is_visit(scope):
            raise Refused(403, "a page of another site may not use this server")
        if origin == "null" and site == "same-origin":
            return  # a form of ours, whose page keeps its address to itself
        said = origin if origin is not None else referer if scope["method"] not in _SAFE else None
        if said is not None and not _same_origin(said, scope["scheme"], host, port):
            raise Refused(403, "a page of another site may not use this server")

    def _is_ours(self, host: str) -> bool:
        if is_loopback(host) or (host in self._names and not _is_unspecified(host)):
            return True
        address = _address(host)  # no name of another's can become a number
        return self._everywhere and address is not None and not address.is_unspecified


def _is_visit(scope: Scope) -> bool:
    """Whether a browser opens one of the entrances in a tab of its own."""
    return (
        scope["method"] == "GET"
        and scope["path"] in _ENTRANCES
        and header(scope, b"sec-fetch-mode") == "navigate"
        and header(scope, b"sec-fetch-dest") == "document"
    )


def _same_origin(said: str, scheme: str, host: str, port: int | None) -> bool:
    """Whether an Origin or Referer is of this host. A proxy may speak TLS for us: then its scheme is not ours."""
    try:
        parts = urlsplit(said)
        theirs, their_port = _authority(parts.netloc)
    except (ValueError, Refused):
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or (scheme == "https" and parts.scheme != "https"):
        return False
    return (theirs, their_port or default) == (host, port or default)


def _authority(text: str) -> tuple[str, int | None]:
    """Split `NAME[:PORT]` -> the name in one spelling, and the port.

    Raises:
        Refused: it is of another form, such as one with a user's name.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None or (found[2] is not None and int(found[2]) > 65_535):
        raise Refused(400, "the header Host is not of the form NAME or NAME:PORT")
    if found[1].startswith("[") and _address(found[1]) is None:
        raise Refused(400, "the header Host has something in brackets that is not an IPv6 address")
    return plain_host(found[1]), None if found[2] is None else int(found[2])


def plain_host(host: str) -> str:
    """Return a host in one spelling: lower case, ASCII, no dot at its end, no brackets."""
    name = host.strip().lower().removeprefix("[").removesuffix("]")
    name = name[:-1] if name.endswith(".") and not name.endswith("..") else name
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise InvalidArgument(f"host {host!r:.80} is not a name that can be resolved") from exc


def _address(host: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return None if found.scope_id else found.ipv4_mapped or found
    return found


def _is_unspecified(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    name = plain_host(host)
    address = _address(name)
    return name == "localhost" if address is None else address.is_loopback
