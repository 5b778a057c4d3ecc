"""Translation of gRPC statuses to clipdex's errors."""

from __future__ import annotations

import grpc

from clipdex.base.errors import (
    AccessDenied,
    Cancelled,
    ClipdexError,
    DeadlineExceeded,
    ModelNotFound,
    RequestRefused,
    ServerBusy,
    ServerFault,
    ServerUnreachable,
)
from clipdex.wire.address import host_of, proxy_hint

__all__ = ["ERROR_OF_STATUS", "cause_of", "is_restricted", "translate"]

_S = grpc.StatusCode

ERROR_OF_STATUS: dict[grpc.StatusCode, type[ClipdexError]] = {
    _S.OK: ServerFault,  # an error that claims success
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

# What gRPC's own details contain if the name of the host has no address. Resolvers differ in their words.
_NO_HOST = (
    "errors resolving",
    "DNS resolution failed",
    "lookup failed",
    "Domain name not found",
    "Name or service not known",
    "name resolution",
    "nodename nor servname",
)

# What they contain if no server received the request.
_NOT_GRPC = "Expected SETTINGS frame"  # HTTP/1, or another protocol
_NO_CONNECTION = (
    "failed to connect",
    "Socket closed",
    "connections to all backends",
)

# What they contain if the connection broke during a request.
_CONNECTION_LOST = ("Stream removed", "recvmsg", "sendmsg", "GOAWAY")

# Triton's words for a full queue of a model, and for a request that waited in it past its timeout.
_QUEUE_FULL = "maximum queue size"
_WAITED_TOO_LONG = "request timeout expired"

# The client's own gRPC, about an answer above its size limit.
_ANSWER_TOO_LARGE = "CLIENT: Received message larger than max"

# Triton's words for a call that only holders of its key may make.
_RESTRICTED = "protocol is restricted"

# Details of UNAVAILABLE errors that are about credentials -> the message to give. The first match counts.
_DENIED = {
    "WRONG_VERSION_NUMBER": "the server at {} does not use TLS: connect without it",
    "Hostname Verification": "the server's certificate is not for {}: if it is the right one, give its name "
    "(--tls-name, Credentials(server_name=...))",
    "CERTIFICATE_VERIFY_FAILED": "the certificate of the server at {} is not signed by a trusted authority: give "
    "its authority's certificate (--tls-ca, Credentials(ca_file=...))",
    _RESTRICTED: "the server at {} requires a header: {}",
}


def is_restricted(error: grpc.RpcError) -> bool:
    """Return whether a call was refused because only holders of the server's key may make it."""
    return _RESTRICTED in (error.details() or "")


def cause_of(told: ClipdexError, error: grpc.RpcError) -> grpc.RpcError | None:
    """Return the cause to chain to an error: gRPC's own, or None if it adds nothing."""
    return None if isinstance(told, (ServerUnreachable, DeadlineExceeded)) else error


def translate(error: grpc.RpcError, address: str) -> ClipdexError:
    """Return the clipdex error for a failed call to `address`; raise it from its `cause_of`."""
    # A grpc.RpcError raised by a call is also a grpc.Call, which has code() and details().
    code: grpc.StatusCode = error.code()
    details = " ".join((error.details() or "no details given").split())
    kind = ERROR_OF_STATUS[code]
    if code is _S.RESOURCE_EXHAUSTED and _ANSWER_TOO_LARGE in details:
        return ServerFault(f"the answer of the server at {address} is larger than expected: {details}")
    if kind is ServerUnreachable and _QUEUE_FULL in details.lower():
        return ServerBusy(f"the queue of the server at {address} is full: {details}")
    if kind is ServerUnreachable and _WAITED_TOO_LONG in details.lower():
        return DeadlineExceeded(f"the request waited too long in the queue of the server at {address}")
    if kind is ServerUnreachable:
        denied = next((text for sign, text in _DENIED.items() if sign in details), None)
        if denied is not None:
            return AccessDenied(denied.format(address, details))
        if any(sign in details for sign in _NO_HOST):
            hint = proxy_hint(address)
            return kind(f"cannot find the host {host_of(address)!r}: check the spelling of --server{hint}")
        if any(sign in details for sign in _NO_CONNECTION):
            if _NOT_GRPC in details:
                return kind(
                    f"what answers at {address} does not use gRPC: "
                    f"give Triton's gRPC port, 8001 unless it was changed; 8000 is for HTTP{proxy_hint(address)}"
                )
            # A server that requires TLS or a client certificate hangs up on clients without.
            hint = "; does it require TLS?" if details.endswith("Socket closed") else ""
            return kind(
                f"no server answers at {address} ({details.rpartition(': ')[2]}{hint}): "
                f"start one with  clipdex serve  or give the right address{proxy_hint(address)}"
            )
        if any(sign in details for sign in _CONNECTION_LOST):
            return kind(f"the connection to {address} was lost: {details}{proxy_hint(address)}")
        return kind(f"the server at {address} cannot take the request now: {details}{proxy_hint(address)}")
    if kind is DeadlineExceeded:
        return kind(f"the server at {address} did not answer in time{proxy_hint(address)}")
    if code is _S.UNIMPLEMENTED:
        return kind(f"the server at {address} uses gRPC but is not a Triton server: {details}")
    return kind(f"the server at {address} answered {code.name}: {details}")
