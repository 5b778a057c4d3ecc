"""The errors that clipdex raises, as one tree.

ClipdexError
├── InvalidArgument          the caller passed a value out of range or of the wrong type
├── Closed                   a client, an index or the like was used after it was closed
├── MissingExtra             an optional package is not installed, or cannot be imported; names the extra
├── ImageError               one picture cannot be read; it never ends a run over many
├── ItemNotFound             a collection has no item of that id
├── AddFailed                some of the items given to a collection could not be added; the others were
├── EngineUnreachable        there is no cluster of the engine at that address, or it cannot be used
├── PartFailed               an engine could not make a part of an index; the message names it, and says why
│   └── PartLost             the process or machine that made it is gone
├── ModelError
│   ├── ModelNotFound        the server or directory is there, the model is not
│   ├── CardError            a model's card or assets are missing, malformed, or of a newer format
│   └── FingerprintMismatch  vectors of different embedding spaces would be mixed
├── ServerError
│   ├── ServerUnreachable    nothing answers, or the server is starting or stopping
│   │   └── ServerBusy       its queue is full: the same request may succeed a moment later
│   ├── DeadlineExceeded     no answer before the timeout
│   ├── Cancelled            the caller withdrew the request
│   ├── AccessDenied         the server does not accept the credentials
│   ├── RequestRefused       the server rejects the request as invalid; retrying will not help
│   └── ServerFault          the server failed while answering
├── IndexFault
│   ├── IndexNotFound        no index at that path
│   ├── IndexFormatError     not an index, or one in a format this version does not know
│   ├── IndexDamaged         the files disagree with what was committed
│   ├── IndexLocked          another process is writing to the index
│   ├── IndexWriteError      a write to disk failed; nothing committed is lost
│   └── NoLocalFeatures      the index has no local features, which matching needs
├── SourceError              the folder or list of pictures cannot be read, or contains no picture
├── SinkError                a vector database cannot be reached, refused a request, or lacks the collection
├── ExportError
│   ├── CheckpointError      the checkpoint is missing, incomplete or of an unknown kind
│   └── ParityError          the exported model does not reproduce the checkpoint's results
└── LocalServerError         a Triton on this machine could not be started, or exited on its own
"""

from __future__ import annotations

from clipdex.base.installation import extra_command

__all__ = [
    "AccessDenied",
    "AddFailed",
    "Cancelled",
    "CardError",
    "CheckpointError",
    "ClipdexError",
    "Closed",
    "DeadlineExceeded",
    "EngineUnreachable",
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
    "ItemNotFound",
    "LocalServerError",
    "MissingExtra",
    "ModelError",
    "ModelNotFound",
    "NoLocalFeatures",
    "ParityError",
    "PartFailed",
    "PartLost",
    "RequestRefused",
    "ServerBusy",
    "ServerError",
    "ServerFault",
    "ServerUnreachable",
    "SinkError",
    "SourceError",
]


class ClipdexError(Exception):
    """The base class. Its message is one sentence to act on: what was wrong, where, what was expected."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own would call the class with the message alone, which is not what all of them take. An error
        # that cannot be unpickled breaks a whole pool of processes; one that cannot be copied is told to nobody.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[ClipdexError], args: tuple[object, ...]) -> ClipdexError:
    return kind.__new__(kind, *args)


class InvalidArgument(ClipdexError, ValueError):
    """The caller passed a value out of range or of the wrong type."""


class Closed(ClipdexError):
    """A client, an index, a writer or a batcher was used after it was closed, or closed while in use."""


class MissingExtra(ClipdexError, ImportError):
    """An optional package is not installed, or its import fails for the given `reason`."""

    def __init__(self, package: str, extra: str, purpose: str, *, reason: str = "", version: str = "") -> None:
        if reason:
            name = f"{package} {version}".strip()
            message = (
                f"{purpose} needs {package}, but the installed {name} cannot be imported ({reason}): install "
                f"compatible versions, as the extra {extra!r} does in a new environment:  {extra_command(extra)}"
            )
        else:
            message = f"{purpose} needs {package}: run  {extra_command(extra)}"
        super().__init__(message)
        self.package = package
        self.extra = extra
        self.reason = reason


class ImageError(ClipdexError):
    """One picture cannot be used. `reason` is one of the codes in docs/failures.md."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ItemNotFound(ClipdexError, LookupError):
    """A collection has no item of that id."""


class AddFailed(ClipdexError):
    """Some items could not be added; all others were. `failures` has the error of each, by id; `added` counts."""

    def __init__(self, message: str, failures: dict[str, ClipdexError], added: int) -> None:
        super().__init__(message)
        self.failures = failures
        self.added = added


class EngineUnreachable(ClipdexError):
    """There is no cluster of the engine at that address, or it cannot be used. No part was started."""


class PartFailed(ClipdexError):
    """An engine could not make a part of an index. What the parts have committed is kept."""


class PartLost(PartFailed):
    """The process or machine that made a part is gone. Another may go on with it."""


class ModelError(ClipdexError):
    """Something is wrong with a model, not with the server that holds it."""


class ModelNotFound(ModelError):
    """The server or directory is there, the model is not."""


class CardError(ModelError):
    """A model's card or assets are missing, malformed, or of a newer format."""


class FingerprintMismatch(ModelError):
    """Vectors of one embedding space would be mixed with an index or a query of another."""


class ServerError(ClipdexError):
    """A request to a server failed."""


class ServerUnreachable(ServerError):
    """Nothing answers at the address, or the server is starting or stopping. May be temporary."""


class ServerBusy(ServerUnreachable):
    """The server's queue is full. It is healthy, and may accept the request a moment later."""


class DeadlineExceeded(ServerError):
    """The server did not answer before the timeout. May be temporary."""


class Cancelled(ServerError):
    """The request was withdrawn before its answer came."""


class AccessDenied(ServerError):
    """The server does not accept the credentials."""


class RequestRefused(ServerError):
    """The server rejects the request as invalid; retrying will not help."""


class ServerFault(ServerError):
    """The server failed while answering."""


class IndexFault(ClipdexError):
    """Something is wrong with an index directory."""


class IndexNotFound(IndexFault):
    """There is no index at that path."""


class IndexFormatError(IndexFault):
    """The directory is not an index, or is one in a format that this version does not know."""


class IndexDamaged(IndexFault):
    """The files disagree with what was committed."""


class IndexLocked(IndexFault):
    """Another process is writing to the index."""


class IndexWriteError(IndexFault):
    """A write to disk failed. Everything committed before is intact."""


class NoLocalFeatures(IndexFault):
    """The index has no local features, which matching needs; `clipdex features build` makes them."""


class SourceError(ClipdexError):
    """The folder or list of pictures cannot be read, or contains no picture."""


class SinkError(ClipdexError):
    """A vector database cannot be reached, refused a request, or lacks the collection that was asked for."""


class ExportError(ClipdexError):
    """A model could not be exported. Nothing was installed."""


class CheckpointError(ExportError):
    """The checkpoint is missing, incomplete, or of a kind the exporter does not know."""


class ParityError(ExportError):
    """The exported model does not reproduce the checkpoint's results. `table` compares them, a line per stage."""

    def __init__(self, message: str, table: str = "") -> None:
        super().__init__(message)
        self.table = table


class LocalServerError(ClipdexError):
    """A Triton on this machine could not be started, or exited on its own."""
