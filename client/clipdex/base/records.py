"""The records of rows.sqlite as dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, cast

from clipdex.base.exif import Exif

__all__ = [
    "NO_METADATA",
    "BrokenRecord",
    "Changes",
    "Extent",
    "Failure",
    "KnownFile",
    "Picture",
    "maker",
    "storable",
]

# Reasons that do not depend on the file's content: installed packages, permissions, a busy machine, a disk that
# was not mounted, a damaged index.
_MAY_PASS = (
    "damaged",
    "missing_extra",
    "out_of_memory",
    "refused",
    "timeout",
    "worker_died",
    "unreadable",
    "vanished",
)

NO_METADATA = "{}"

_MOST = (1 << 63) - 1


def storable(number: int) -> int:
    """Clamp a size or a time to the 64 bits that an index stores: times from 1677 to 2262."""
    return number if -_MOST <= number <= _MOST else max(-_MOST, min(_MOST, number))


_T = TypeVar("_T")


def maker(kind: type[_T]) -> Callable[..., _T]:
    """Return what makes a frozen dataclass of its fields in a fraction of the time; `__post_init__` is not called.

    `__init__` sets each field by a call, as assignment is refused. Here they are assigned while it is not, by a
    function that is written for the class, as dataclasses write theirs.
    """
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    defaults = {each.name: each.default for each in fields(kind) if each.default is not MISSING}  # type: ignore[arg-type]
    thawed = type(kind.__name__, (), {"__slots__": tuple(names)} if "__slots__" in vars(kind) else {})
    takes = ", ".join(f"{name}=defaults[{name!r}]" if name in defaults else name for name in names)
    sets = "; ".join(f"made.{name} = {name}" for name in names)
    code = f"def make({takes}):\n made = thawed(); {sets}; made.__class__ = kind; return made"
    scope: dict[str, Any] = {"thawed": thawed, "kind": kind, "defaults": defaults}
    exec(code, scope)  # noqa: S102 - the names of our own fields
    return cast("Callable[..., _T]", scope["make"])


@dataclass(frozen=True, slots=True)
class Picture:
    """One indexed file.

    metadata: JSON of an object; None if its source has no metadata.
    phash: its perceptual signature, or None.
    ctime_ns: when the file system last changed anything of the file, in nanoseconds since 1970; None if not known.
    exif: what its file says of it; None if that was not read.
    """

    path: bytes
    size: int
    mtime_ns: int
    content_hash: bytes
    width: int
    height: int
    metadata: str | None = None
    phash: bytes | None = field(default=None, repr=False, compare=False)
    ctime_ns: int | None = field(default=None, compare=False)
    exif: Exif | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One file in the ledger. ctime_ns: as in Picture."""

    path: bytes
    reason: str
    detail: str
    size: int
    mtime_ns: int
    ctime_ns: int | None = field(default=None, compare=False)

    @property
    def may_pass(self) -> bool:
        """Whether retrying may help although the file has not changed."""
        return self.reason in _MAY_PASS


@dataclass(frozen=True, slots=True)
class KnownFile:
    """The record of a path in an index: its size and times, and its row, or None if it failed.

    ctime_ns: None if not known. signed: whether the row has a perceptual signature. reason: why it failed.
    """

    size: int
    mtime_ns: int
    row: int | None
    content_hash: bytes | None
    ctime_ns: int | None = None
    signed: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Extent:
    """Rows committed together, and the CRC-32C of their bytes in the vectors file."""

    first_row: int
    row_count: int
    crc32c: int


@dataclass(frozen=True)
class BrokenRecord:
    """A record whose checksum does not match. row: the row it belongs to, by its own key, or None."""

    what: str
    row: int | None


@dataclass
class Changes:
    """The changes of one commit. No path occurs twice.

    pictures: new rows, in the order of their vectors. failures: new lines of the ledger.
    removed: paths that vanished. touched: files with another time, but the same content.
    annotated: path and metadata of unchanged files with new metadata.
    signed: path and perceptual signature of files whose rows had none.
    dated: path and ctime of unchanged files whose ctime was not known.
    """

    pictures: list[Picture] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    removed: list[bytes] = field(default_factory=list)
    touched: list[Picture] = field(default_factory=list)
    annotated: list[tuple[bytes, str]] = field(default_factory=list)
    signed: list[tuple[bytes, bytes]] = field(default_factory=list)
    dated: list[tuple[bytes, int]] = field(default_factory=list)

    def __len__(self) -> int:
        files = len(self.pictures) + len(self.failures) + len(self.removed) + len(self.touched)
        return files + len(self.annotated) + len(self.signed) + len(self.dated)
