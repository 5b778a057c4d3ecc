"""Transports: the ways to reach models. The only importer of tritonclient, grpc, onnxruntime and openvino.

`open_transport` picks one by address; everything above it uses the `Transport` interface.

Not public: docs/design.md lists what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipdex.base.errors import InvalidArgument
from clipdex.wire.address import check_address
from clipdex.wire.credentials import Credentials
from clipdex.wire.fake import FakeTransport
from clipdex.wire.servers.attempts import RequestHook, RequestTiming
from clipdex.wire.servers.retry_policy import RetryPolicy
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import ModelConfig, ModelStatistics, ServerInfo, Transport

__all__ = [
    "Credentials",
    "FakeTransport",
    "ModelConfig",
    "ModelStatistics",
    "RequestHook",
    "RequestTiming",
    "RetryPolicy",
    "ServerInfo",
    "SharedMemory",
    "Transport",
    "open_transport",
]

INPROC = "inproc:"


def open_transport(
    address: str | Sequence[str],
    *,
    credentials: Credentials | None = None,
    retry: RetryPolicy | None = None,
    on_request: RequestHook | None = None,
) -> Transport:
    """Open a transport to `HOST:PORT`, `dns:///NAME:PORT` or `unix:PATH` (gRPC), several of them, or `inproc:DIR`.

    Raises:
        InvalidArgument: the address has none of these forms, or a secret would be sent to it unencrypted.
    """
    addresses = _addresses(address)
    for name, given, kind in (("credentials", credentials, Credentials), ("retry", retry, RetryPolicy)):
        if not isinstance(given, (kind, type(None))):
            raise InvalidArgument(f"{name} is {type(given).__name__}; expected {kind.__name__}(...)")
    if on_request is not None and not callable(on_request):
        raise InvalidArgument(f"on_request is {type(on_request).__name__}; expected a function")
    transports: list[Transport]
    if addresses[0].startswith(INPROC):
        from clipdex.wire.runtimes.inproc import InprocTransport

        directory = addresses[0].removeprefix(INPROC)
        if not directory:
            raise InvalidArgument("inproc: needs the path of a model repository, as in inproc:model_repository")
        transports = [InprocTransport(Path(directory))]
    else:
        for each in addresses:
            check_address(each)
        from clipdex.wire.triton import TritonTransport

        transports = [TritonTransport(each, credentials) for each in addresses]

    from clipdex.wire.servers.failover import ResilientTransport

    return ResilientTransport(transports, retry or RetryPolicy(), on_request)


def _addresses(address: str | Sequence[str]) -> list[str]:
    """Split `a:1,b:1`, or check a list -> each address. A path after `inproc:` may contain commas."""
    if isinstance(address, str) and address.startswith(INPROC):
        return [address]
    parts = address.split(",") if isinstance(address, str) else address
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise InvalidArgument(
            f"the address is {address!r}: give HOST:PORT as a string, as in 'localhost:8001', or a list of them"
        )
    addresses = [part.strip() for part in parts]
    if not addresses:
        raise InvalidArgument("the list of addresses is empty: give HOST:PORT, as in localhost:8001")
    if len(addresses) > 1 and any(each.startswith(INPROC) for each in addresses):
        raise InvalidArgument("inproc: runs the models in this process and cannot be combined with servers")
    twice = next((each for each in addresses if addresses.count(each) > 1), None)
    if twice is not None:
        raise InvalidArgument(f"{twice} is given twice; name each server once")
    return addresses
