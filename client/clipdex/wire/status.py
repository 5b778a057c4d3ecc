"""Every gRPC status becomes one error of clipdex's own, in this one place."""

from __future__ import annotations

import grpc

from clipdex.errors import (
    AccessDenied,
    Cancelled,
    ClipdexError,
    DeadlineExceeded,
    ModelNotFound,
    RequestRefused,
    ServerFault,
    ServerUnreachable,
)

__all__ = ["ERROR_OF_STATUS", "translate"]

_S = grpc.StatusCode

ERROR_OF_STATUS: dict[grpc.StatusCode, type[ClipdexError]] = {
    _S.OK: ServerFault,  # an error that calls itself a success
    _S.CANCELLED: Cancelled,
    _S.UNKNOWN: ServerFault,
    _S.INVALID_ARGUMENT: RequestRefused,
    _S.DEADLINE_EXCEEDED: DeadlineExceeded,
    _S.NOT_FOUND: ModelNotFound,
    _S.ALREADY_EXISTS: RequestRefused,
    _S.PERMISSION_DENIED: AccessDenied,
    _S.RESOURCE_EXHAUSTED: RequestRefused,  # a message size limit, which no retry changes
    _S.FAILED_PRECONDITION: RequestRefused,
    _S.ABORTED: ServerFault,
    _S.OUT_OF_RANGE: RequestRefused,
    _S.UNIMPLEMENTED: RequestRefused,
    _S.INTERNAL: ServerFault,
    _S.UNAVAILABLE: ServerUnreachable,  # Triton's queue-full too
    _S.DATA_LOSS: ServerFault,
    _S.UNAUTHENTICATED: AccessDenied,
}

# How gRPC's own details begin when no server took the request at all.
_NO_CONNECTION = (
    "failed to connect",
    "DNS resolution failed",
    "Socket closed",
    "connections to all backends",
)


def translate(error: grpc.RpcError, address: str) -> ClipdexError:
    """The clipdex error for a failed call to `address`; raise it `from error`."""
    # A grpc.RpcError raised by a call is also a grpc.Call, which has code() and details().
    code: grpc.StatusCode = error.code()
    details = " ".join((error.details() or "no details given").split())
    kind = ERROR_OF_STATUS[code]
    if kind is ServerUnreachable:
        if any(sign in details for sign in _NO_CONNECTION):
            return kind(
                f"no server answers at {address} ({details.rpartition(': ')[2]}): "
                "start one with  clipdex serve  or give the right address"
            )
        return kind(f"the server at {address} cannot take the request now: {details}")
    if kind is DeadlineExceeded:
        return kind(f"the server at {address} did not answer in time")
    if code is _S.UNIMPLEMENTED:
        return kind(f"the server at {address} speaks gRPC but is not a Triton server: {details}")
    return kind(f"the server at {address} answered {code.name}: {details}")
