"""What rows.sqlite says of files, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["NO_METADATA", "BrokenRecord", "Changes", "Extent", "Failure", "KnownFile", "Picture", "storable"]

# Reasons that lie outside the file: what is installed, permissions, a busy machine, a disk that was not mounted, a
# damaged index.
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
    """A size or a time as an index holds it, in 64 bits: of the times before 1677 and after 2262, the nearest."""
    return max(-_MOST, min(_MOST, number))


@dataclass(frozen=True)
class Picture:
    """One indexed file.

    metadata: JSON of an object; None where its source says nothing of it.
    phash: its perceptual signature; None where there is none.
    ctime_ns: when the file system last changed anything of the file, in nanoseconds since 1970; None if not known.
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


@dataclass(frozen=True)
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
        """Whether another try may help although the file has not changed."""
        return self.reason in _MAY_PASS


@dataclass(frozen=True)
class KnownFile:
    """What the index knows of a path: the size and times it had, and its row, or None if it failed.

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
    """A record whose checksum does not fit. row: whose it says it is; None where it is of no row."""

    what: str
    row: int | None


@dataclass
class Changes:
    """What one commit does. No path stands in it twice.

    pictures: new rows, in the order of their vectors. failures: new lines of the ledger.
    removed: paths that vanished. touched: files that have another time, but the same content.
    annotated: path and metadata of files that are the same, but what is said of them is not.
    signed: path and perceptual signature of files whose rows had none.
    dated: path and ctime of files that are the same, whose ctime was not known.
    """

    pictures: list[Picture] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    removed: list[bytes] = field(default_factory=list)
    touched: list[Picture] = field(default_factory=list)
    annotated: list[tuple[bytes, str]] = field(default_factory=list)
    signed: list[tuple[bytes, bytes]] = field(default_factory=list)
    dated: list[tuple[bytes, int]] = field(default_factory=list)

    def __len__(self) -> int:
        files = (self.pictures, self.failures, self.removed, self.touched)
        notes = (self.annotated, self.signed, self.dated)
        return sum(len(changes) for changes in (*files, *notes))
