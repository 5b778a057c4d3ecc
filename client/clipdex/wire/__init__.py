"""The network behind one small interface. The only importer of tritonclient, grpc and onnxruntime.

`open_transport` picks by address; everything above it speaks `Transport`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipdex.base.errors import InvalidArgument
from clipdex.wire.address import check_address
from clipdex.wire.credentials import Credentials
from clipdex.wire.fake import FakeTransport
from clipdex.wire.servers.retry_policy import RetryPolicy
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.timing import RequestHook, RequestTiming
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
    """A transport for `HOST:PORT`, `dns:///NAME:PORT`, `unix:PATH` (gRPC), several of them, or `inproc:DIR`.

    Raises:
        InvalidArgument: the address is of none of these forms, or the credentials do not suit it.
    """
    addresses = _addresses(address)
    for name, given, kind in (("credentials", credentials, Credentials), ("retry", retry, RetryPolicy)):
        if not isinstance(given, (kind, type(None))):
            raise InvalidArgument(f"{name} is {type(given).__name__}; expected {kind.__name__}(...)")
    if on_request is not None and not callable(on_request):
        raise InvalidArgument(f"on_request is {type(on_request).__name__}; expected a function")
    transports: list[Transport]
    if addresses[0].startswith(INPROC):
        from clipdex.wire.runtimes.onnx_runtime import InprocTransport

        directory = addresses[0].removeprefix(INPROC)
        if not directory:
            raise InvalidArgument("inproc: needs a model repository, as in inproc:model_repository")
        transports = [InprocTransport(Path(directory))]
    else:
        for each in addresses:
            check_address(each)
        from clipdex.wire.triton import TritonTransport

        transports = [TritonTransport(each, credentials) for each in addresses]

    from clipdex.wire.servers.failover import ResilientTransport

    return ResilientTransport(transports, retry or RetryPolicy(), on_request)


def _addresses(address: str | Sequence[str]) -> list[str]:
    """`a:1,b:1`, or a list of addresses -> each of them. A path after `inproc:` may hold commas."""
    if isinstance(address, str) and address.startswith(INPROC):
        return [address]
    parts = address.split(",") if isinstance(address, str) else address
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise InvalidArgument(
            f"the address is {address!r}: give HOST:PORT in a string, as in 'localhost:8001', or a list of such"
        )
    addresses = [part.strip() for part in parts]
    if not addresses:
        raise InvalidArgument("the list of addresses is empty: give HOST:PORT, as in localhost:8001")
    if len(addresses) > 1 and any(each.startswith(INPROC) for each in addresses):
        raise InvalidArgument("inproc: runs the models in this process, and stands for no server beside others")
    twice = next((each for each in addresses if addresses.count(each) > 1), None)
    if twice is not None:
        raise InvalidArgument(f"{twice} is given twice; name each server once")
    return addresses
