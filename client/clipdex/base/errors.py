"""Every error clipdex raises, as one tree.

ClipdexError
├── InvalidArgument          the caller passed something out of range or of the wrong type
├── Closed                   a client, an index or the like is used after it was closed
├── MissingExtra             an optional package is not installed, or cannot be imported; names the extra
├── ImageError               one picture cannot be read; it never ends a run over many
├── ModelError
│   ├── ModelNotFound        the server or directory is there, the model is not
│   ├── CardError            a model's card or assets are not what this version understands
│   └── FingerprintMismatch  vectors of one embedding space meet an index or a query of another
├── ServerError
│   ├── ServerUnreachable    nobody answers, or the server is starting or stopping
│   │   └── ServerBusy       its queue is full: the same request may be taken a moment later
│   ├── DeadlineExceeded     no answer within the time given
│   ├── Cancelled            the caller withdrew the request
│   ├── AccessDenied         the server asks for other credentials
│   ├── RequestRefused       the server says the request is wrong; sending it again will not help
│   └── ServerFault          the server broke while answering
├── IndexFault
│   ├── IndexNotFound        no index at that path
│   ├── IndexFormatError     not an index, or one of a format this version does not know
│   ├── IndexDamaged         the files disagree with what was committed
│   ├── IndexLocked          another process is writing to it
│   └── IndexWriteError      the disk refused a write; nothing committed is lost
├── SourceError              the folder or list of pictures cannot be read, or holds no picture
├── ExportError
│   ├── CheckpointError      the checkpoint is missing, incomplete or of an unknown kind
│   └── ParityError          the exported model does not give the checkpoint's own numbers
└── LocalServerError         a Triton on this machine could not be started, or ended by itself
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "Cancelled",
    "CardError",
    "CheckpointError",
    "ClipdexError",
    "Closed",
    "DeadlineExceeded",
    "ExportError",
    "FingerprintMismatch",
    "ImageError",
    "IndexDamaged",
    "IndexFault",
    "IndexFormatError",
    "IndexLocked",
    "IndexNotFound",
    "IndexWriteError",
    "InvalidArgument",
    "LocalServerError",
    "MissingExtra",
    "ModelError",
    "ModelNotFound",
    "ParityError",
    "RequestRefused",
    "ServerBusy",
    "ServerError",
    "ServerFault",
    "ServerUnreachable",
    "SourceError",
]


class ClipdexError(Exception):
    """The root. Its message is one sentence a person can act on: what, where, what was expected."""


class InvalidArgument(ClipdexError, ValueError):
    """The caller's fault: a value out of range or of the wrong type."""


class Closed(ClipdexError):
    """A client, an index, a writer or a batcher is used after it was closed, or closed while it was asked."""


class MissingExtra(ClipdexError, ImportError):
    """An optional package is not installed; or it is, and its import fails, for the `reason` given."""

    def __init__(self, package: str, extra: str, purpose: str, *, reason: str = "", version: str = "") -> None:
        if reason:
            name = f"{package} {version}".strip()
            message = (
                f"{purpose} needs {package}, and {name} is installed but cannot be imported ({reason}): install "
                f"versions that fit each other, as  pip install 'clipdex[{extra}]'  does in a new environment"
            )
        else:
            message = f"{purpose} needs {package}: run  pip install 'clipdex[{extra}]'"
        super().__init__(message)
        self.package = package
        self.extra = extra
        self.reason = reason


class ImageError(ClipdexError):
    """One picture cannot be used. `reason` is a code of the documented set (docs/failures.md)."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(ClipdexError):
    """Something is wrong with a model, not with the server that holds it."""


class ModelNotFound(ModelError):
    """The server or directory is there, the model is not."""


class CardError(ModelError):
    """A model's card or assets are missing, malformed, or of a newer format."""


class FingerprintMismatch(ModelError):
    """Vectors of one embedding space meet an index or a query of another."""


class ServerError(ClipdexError):
    """A request to a server did not succeed."""


class ServerUnreachable(ServerError):
    """Nobody answers at the address, or the server is starting or stopping. May pass."""


class ServerBusy(ServerUnreachable):
    """The server's queue is full. It is well, and may take the request a moment later."""


class DeadlineExceeded(ServerError):
    """The server did not answer within the time given. May pass."""


class Cancelled(ServerError):
    """The request was withdrawn before its answer came."""


class AccessDenied(ServerError):
    """The server asks for other credentials."""


class RequestRefused(ServerError):
    """The server says the request is wrong; sending it again will not help."""


class ServerFault(ServerError):
    """The server broke while answering."""


class IndexFault(ClipdexError):
    """Something is wrong with an index directory."""


class IndexNotFound(IndexFault):
    """There is no index at that path."""


class IndexFormatError(IndexFault):
    """Not an index, or one of a format that this version does not know."""


class IndexDamaged(IndexFault):
    """The files disagree with what was committed."""


class IndexLocked(IndexFault):
    """Another process is writing to the index."""


class IndexWriteError(IndexFault):
    """The disk refused a write. What was committed before is untouched."""


class SourceError(ClipdexError):
    """The folder or list of pictures cannot be read, or holds no picture."""


class ExportError(ClipdexError):
    """A model could not be exported. Nothing was installed."""


class CheckpointError(ExportError):
    """The checkpoint is missing, incomplete, or of a kind the exporter does not know."""


class ParityError(ExportError):
    """The exported model does not give the checkpoint's own numbers. `table` shows at which stage, a line each."""

    def __init__(self, message: str, table: str = "") -> None:
        super().__init__(message)
        self.table = table


class LocalServerError(ClipdexError):
    """A Triton on this machine could not be started, or ended by itself."""
