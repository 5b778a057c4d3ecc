"""Probes of who can reach a server: its HTTP and metrics ports, and this machine's own addresses."""

from __future__ import annotations

import ipaddress
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import closing, suppress
from http.client import HTTPException

__all__ = ["accepts", "fetch", "own_addresses", "port_of"]

_ANSWER_BYTES = 4 << 20


def port_of(address: str) -> int:
    """Return the port in HOST:PORT."""
    return int(address.rpartition(":")[2])


def own_addresses() -> tuple[str, ...]:
    """Return this machine's addresses that others may reach, IPv4 and IPv6, sorted; no loopback."""
    found: set[str] = set()
    with suppress(OSError, UnicodeError):
        found |= {str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None)}
    # Connecting a datagram socket sends nothing; the kernel merely picks the address it would send from.
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.add(str(probe.getsockname()[0]))
    return tuple(sorted(_reachable(found)))


def accepts(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Return whether something listens at host and port."""
    try:
        with closing(socket.create_connection((host, port), timeout_s)):
            return True
    except OSError:
        return False


def fetch(host: str, port: int, path: str, timeout_s: float = 2.0) -> str | None:
    """Fetch a path from an HTTP server -> its text; None if nothing answers, or with an error."""
    quoted = f"[{host}]" if ":" in host else host
    # No proxy from the environment: the server itself is probed.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{quoted}:{port}{path}", timeout=timeout_s) as answer:
            text: str = answer.read(_ANSWER_BYTES).decode("utf-8", "replace")
            return text
    except (OSError, HTTPException, ValueError, urllib.error.URLError):
        return None


def _reachable(addresses: Iterable[str]) -> Iterable[str]:
    for address in addresses:
        number = ipaddress.ip_address(address.partition("%")[0])
        if not (number.is_loopback or number.is_link_local or number.is_unspecified):
            yield address
