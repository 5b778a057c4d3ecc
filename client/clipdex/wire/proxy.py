"""Which connections gRPC would make through the proxy of the environment, and which it must not.

gRPC takes the first of three variables, in small letters, for every address that no_grpc_proxy or no_proxy does
not name; 127.0.0.1 too.
"""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress

from clipdex.wire.address import UNIX, host_of, is_loopback

__all__ = ["proxy_hint", "proxy_options"]

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_options(address: str) -> tuple[tuple[str, object], ...]:
    """gRPC's options for a channel to an address: none of it leaves this machine by way of a proxy."""
    if _variable() is not None and (_is_plainly_here(address) or is_loopback(address)):
        return (("grpc.enable_http_proxy", 0),)
    return ()


def proxy_hint(address: str) -> str:
    """What to add to the word that an address cannot be reached; "" where no proxy is on the way."""
    variable = _variable()
    if variable is None or _is_plainly_here(address):
        return ""
    host = host_of(address)
    exempt = next((os.environ[name] for name in _EXEMPTIONS if os.environ.get(name)), "")
    if any(host.lower().endswith(entry.strip().lower()) for entry in exempt.split(",") if entry.strip()):
        return ""
    return f"; the way there is the proxy that ${variable} names: if it should not be, set  no_proxy={host}"


def _variable() -> str | None:
    return next((name for name in _VARIABLES if os.environ.get(name)), None)


def _is_plainly_here(address: str) -> bool:
    """Whether it says so itself, without a look at name servers."""
    host = host_of(address)
    if address.startswith(UNIX) or host.lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
