"""The network behind one small interface. The only importer of tritonclient, grpc and onnxruntime.

`open_transport` picks by address; everything above it speaks `Transport`.
"""

from __future__ import annotations

from pathlib import Path

from clipdex.errors import InvalidArgument
from clipdex.wire.fake import FakeTransport
from clipdex.wire.transport import ModelConfig, ServerInfo, Transport

__all__ = ["FakeTransport", "ModelConfig", "ServerInfo", "Transport", "open_transport"]

INPROC = "inproc:"


def open_transport(address: str) -> Transport:
    """A transport for `HOST:PORT`, `dns:///NAME:PORT` (gRPC) or `inproc:DIR` (no server).

    Raises:
        InvalidArgument: the address is of none of these forms.
    """
    if address.startswith(INPROC):
        from clipdex.wire.inproc import InprocTransport

        directory = address.removeprefix(INPROC)
        if not directory:
            raise InvalidArgument("inproc: needs a model repository, as in inproc:model_repository")
        return InprocTransport(Path(directory))

    if "://" in address and not address.startswith("dns://"):
        raise InvalidArgument(
            f"{address!r} is no gRPC address: give HOST:PORT without a scheme, as in localhost:8001"
        )
    port = address.rpartition(":")[2]
    if ":" not in address or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{address!r} names no port: give HOST:PORT, as in localhost:8001")

    from clipdex.wire.triton import TritonTransport

    return TritonTransport(address)
