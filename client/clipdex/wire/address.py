"""What a gRPC address names: a host and a port, and whether that is this machine."""

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
    "proxy_hint",
    "proxy_options",
]

DNS = "dns:///"
UNIX = "unix:"


def check_address(address: str) -> None:
    """Refuse what gRPC would take for something else: InvalidArgument unless HOST:PORT, dns:///… or unix:PATH."""
    if address.startswith(UNIX):
        if not address.removeprefix(UNIX).strip("/"):
            raise InvalidArgument(f"{address!r} names no socket: give unix:PATH, as in unix:/run/triton.sock")
        return
    if "://" in address and not address.startswith("dns://"):
        raise InvalidArgument(
            f"{address!r} is no gRPC address: give HOST:PORT without a scheme, as in localhost:8001"
        )
    port = address.rpartition(":")[2]
    if ":" not in address or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{address!r} names no port: give HOST:PORT, as in localhost:8001")


def host_of(address: str) -> str:
    """The host in an address; "" for a socket's path."""
    if address.startswith(UNIX):
        return ""
    rest = address.rpartition("/")[2]
    return rest.rpartition(":")[0].strip("[]")


def is_loopback(address: str) -> bool:
    """Whether what is sent there cannot leave this machine."""
    if address.startswith(UNIX):
        return True
    numbers = numbers_of(host_of(address))
    return bool(numbers) and all(ipaddress.ip_address(number).is_loopback for number in numbers)


def is_this_machine(address: str) -> bool:
    """Whether the host is this machine, by a loopback address or another of its own.

    False for `dns:///`, behind which there may be several machines.
    """
    if address.startswith(UNIX):
        return True
    if address.startswith("dns:"):
        return False
    numbers = numbers_of(host_of(address))
    return bool(numbers) and all(_is_own(number) for number in numbers)


def may_share_memory(addresses: str) -> bool:
    """Whether asking makes sense: one of the gRPC addresses is this machine, or there is no gRPC at all."""
    return any(
        address.startswith(("inproc:", "fake:")) or is_this_machine(address) for address in addresses.split(",")
    )


def numbers_of(host: str) -> set[str]:
    """The IP addresses of a host, none if its name is not known."""
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        return {str(each[4][0]).partition("%")[0] for each in found}
    return set()


def _is_own(number: str) -> bool:
    """The kernel lets a socket have an address only if it is one of the machine's."""
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
