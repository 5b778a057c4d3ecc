"""gRPC addresses: checks of their form, whether they lead to this machine, and proxies."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress

from clipdex.base.errors import InvalidArgument

__all__ = [
    "DNS",
    "UNIX",
    "check_address",
    "host_of",
    "is_loopback",
    "is_this_machine",
    "may_share_memory",
    "numbers_of",
    "port_of",
    "proxy_hint",
    "proxy_options",
]

DNS = "dns:///"
UNIX = "unix:"

_PORT_DIGITS = 5


def check_address(address: str) -> None:
    """Raise InvalidArgument unless the address is HOST:PORT, dns:///… or unix:PATH; gRPC would misread others."""
    if address.startswith(UNIX):
        if not address.removeprefix(UNIX).strip("/"):
            raise InvalidArgument(f"{address!r} has no socket path: give unix:PATH, as in unix:/run/triton.sock")
        return
    if "://" in address and not address.startswith("dns://"):
        raise InvalidArgument(
            f"{address!r} is not a gRPC address: give HOST:PORT without a scheme, as in localhost:8001"
        )
    if port_of(address) is None:
        raise InvalidArgument(f"{address!r} has no valid port: give HOST:PORT, as in localhost:8001")


def port_of(address: str) -> int | None:
    """Return the port at the end of HOST:PORT, 1 to 65535; None if there is none."""
    port = address.rpartition(":")[2]
    # Digits of other scripts and long numbers are not for `int`: it raises, or reads what gRPC does not.
    if ":" not in address or not port.isascii() or not port.isdigit() or len(port) > _PORT_DIGITS:
        return None
    return int(port) if 0 < int(port) < 65536 else None


def host_of(address: str) -> str:
    """Return the host in an address; "" for a socket's path."""
    if address.startswith(UNIX):
        return ""
    rest = address.rpartition("/")[2]
    return rest.rpartition(":")[0].strip("[]")


def is_loopback(address: str) -> bool:
    """Return whether traffic to the address cannot leave this machine."""
    if address.startswith(UNIX):
        return True
    numbers = numbers_of(host_of(address))
    return bool(numbers) and all(ipaddress.ip_address(number).is_loopback for number in numbers)


def is_this_machine(address: str) -> bool:
    """Return whether the host is this machine, by a loopback address or another of its own.

    False for `dns:///`, which may stand for several machines.
    """
    if address.startswith(UNIX):
        return True
    if address.startswith("dns:"):
        return False
    numbers = numbers_of(host_of(address))
    return bool(numbers) and all(_is_own(number) for number in numbers)


def may_share_memory(addresses: str) -> bool:
    """Return whether shared memory is worth trying: an address is on this machine, or is not gRPC at all."""
    return any(
        address.startswith(("inproc:", "fake:")) or is_this_machine(address) for address in addresses.split(",")
    )


def numbers_of(host: str) -> set[str]:
    """Return the IP addresses of a host; none if its name cannot be resolved."""
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        return {str(each[4][0]).partition("%")[0] for each in found}
    return set()


def _is_own(number: str) -> bool:
    """Return whether an IP address is this machine's: the kernel binds a socket to no other."""
    if ipaddress.ip_address(number).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in number else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((number, 0))
    except OSError:
        return False
    return True


_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_options(address: str) -> tuple[tuple[str, object], ...]:
    """Return gRPC's channel options for an address: no proxy for this machine's own."""
    if _variable() is not None and (_is_plainly_here(address) or is_loopback(address)):
        return (("grpc.enable_http_proxy", 0),)
    return ()


def proxy_hint(address: str) -> str:
    """Return a hint for errors about an unreachable address; "" if no proxy is used for it."""
    variable = _variable()
    if variable is None or _is_plainly_here(address):
        return ""
    host = host_of(address)
    exempt = next((os.environ[name] for name in _EXEMPTIONS if os.environ.get(name)), "")
    if any(host.lower().endswith(entry.strip().lower()) for entry in exempt.split(",") if entry.strip()):
        return ""
    return f"; requests to it go through the proxy in ${variable}: if they should not, set  no_proxy={host}"


def _variable() -> str | None:
    return next((name for name in _VARIABLES if os.environ.get(name)), None)


def _is_plainly_here(address: str) -> bool:
    """Return whether an address is plainly this machine, without resolving names."""
    host = host_of(address)
    if address.startswith(UNIX) or host.lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
