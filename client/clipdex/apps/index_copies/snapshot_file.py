"""snapshot.json: the files of an index in a bucket, and the blocks of each. docs/object-stores.md specifies it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clipdex.base.errors import ImageError, IndexDamaged, IndexFormatError, SourceError
from clipdex.base.json_text import parse_plain_json
from clipdex.index.manifest import json_crc32c
from clipdex.index.part_plan import MOST_PARTS
from clipdex.index.snapshot import SIDE_FILES, is_snapshot_name, required_files
from clipdex.sources.object_store import Bucket, parts_of

__all__ = ["BLOCK_BYTES", "PATIENCE", "Block", "CopiedFile", "Snapshot", "block_key", "place_of"]

FORMAT = "clipdex-snapshot"
FORMAT_VERSION = 1
SNAPSHOT = "snapshot.json"
BLOCKS = "blocks"
BLOCK_BYTES = 8 << 20
PATIENCE = "300s"  # for a request that sends or fetches a block

_LARGEST = 256 << 20  # bytes of snapshot.json: 20 TB of vectors have 170 MB
_LARGEST_BLOCK = 64 << 20
_LARGEST_FILE = 1 << 50
_MOST_FILES = (3 + len(SIDE_FILES)) * MOST_PARTS + 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Block:
    """A part of a file. sha256: of its bytes, in hexadecimal."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class CopiedFile:
    """A file of the index. name: as in `SnapshotFile`. blocks: the SHA-256 of each of its blocks, in order."""

    name: str
    size: int
    blocks: tuple[str, ...]

    def pieces(self, block_bytes: int) -> Iterator[Block]:
        """Yield its blocks with their places."""
        for number, sha256 in enumerate(self.blocks):
            offset = number * block_bytes
            yield Block(offset, min(block_bytes, self.size - offset), sha256)


@dataclass(frozen=True)
class Snapshot:
    """An index in a bucket. pushed_at: seconds since 1970. block_bytes: of each block but the last of a file."""

    fingerprint: str
    model: str
    pushed_at: int
    block_bytes: int
    files: tuple[CopiedFile, ...]

    @property
    def size(self) -> int:
        """The number of bytes of its files."""
        return sum(file.size for file in self.files)

    def sha256s(self) -> set[str]:
        """Return what its blocks are named by."""
        return {sha256 for file in self.files for sha256 in file.blocks}

    def to_json(self) -> bytes:
        """The bytes of snapshot.json."""
        data = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "pushed_at": self.pushed_at,
            "block_bytes": self.block_bytes,
            "files": [{"name": f.name, "bytes": f.size, "blocks": list(f.blocks)} for f in self.files],
        }
        return json.dumps(data | {"crc32c": json_crc32c(data)}).encode()

    @classmethod
    def read(cls, bucket: Bucket, prefix: str) -> Snapshot | None:
        """Read the snapshot at a prefix; None if there is none.

        Raises:
            IndexFormatError: it is something else, of a newer format, or names what no index has.
            IndexDamaged: its checksum does not match.
            SourceError: the store cannot be read.
        """
        where = f"{bucket.url}/{snapshot_key(prefix)}"
        try:
            raw = bucket.fetch(snapshot_key(prefix), _LARGEST)
        except ImageError as exc:
            raise IndexFormatError(f"{where}: is no snapshot of an index: {exc}") from exc
        if raw is None:
            return None
        try:
            data: Any = parse_plain_json(raw)
        except ValueError as exc:
            raise IndexFormatError(f"{where}: is not JSON: {exc}") from exc
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise IndexFormatError(f'{where}: is no snapshot of an index ("format": "{FORMAT}")')
        if type(data.get("format_version")) is not int or data["format_version"] != FORMAT_VERSION:
            raise IndexFormatError(
                f"{where}: has the format version {data.get('format_version')!r}, this clipdex reads "
                f"{FORMAT_VERSION}: install the clipdex that pushed it, or push the index again"
            )
        if data.pop("crc32c", None) != json_crc32c(data):
            raise IndexDamaged(f"{where}: its checksum does not match its content: push the index again")
        snapshot = _checked(data)
        if isinstance(snapshot, str):
            raise IndexFormatError(f"{where}: {snapshot}: it is not one that clipdex has pushed")
        return snapshot


def _checked(data: dict[str, Any]) -> Snapshot | str:
    """Make a snapshot of JSON, or say what is wrong with it: whoever can write to the bucket may have made it."""
    texts, numbers = ("fingerprint", "model"), ("pushed_at", "block_bytes")
    if not all(isinstance(data.get(each), str) for each in texts) or not all(
        type(data.get(each)) is int for each in numbers
    ):
        return "a field is missing or of another type"
    block_bytes, listed = data["block_bytes"], data.get("files")
    if not 1 <= block_bytes <= _LARGEST_BLOCK or not isinstance(listed, list) or len(listed) > _MOST_FILES:
        return "a field is out of range"
    files = []
    for each in listed:
        found = _file(each, block_bytes)
        if isinstance(found, str):
            return found
        files.append(found)
    names = frozenset(file.name for file in files)
    if len(names) != len(files):
        return "names a file twice"
    if lack := required_files(names):
        return f"lacks {lack}"
    return Snapshot(data["fingerprint"], data["model"], data["pushed_at"], block_bytes, tuple(files))


def _file(data: object, block_bytes: int) -> CopiedFile | str:
    if not isinstance(data, dict):
        return "a file is not an object"
    name, size, blocks = data.get("name"), data.get("bytes"), data.get("blocks")
    if not isinstance(name, str) or not is_snapshot_name(name):
        return f"names the file {name!r:.60}, which no index has"
    if type(size) is not int or not 0 <= size <= _LARGEST_FILE or not isinstance(blocks, list):
        return f"the size or the blocks of {name} are out of range"
    if len(blocks) != -(-size // block_bytes):
        return f"{name} has {len(blocks):,} blocks, which do not make its {size:,} bytes"
    if not all(isinstance(each, str) and _SHA256.fullmatch(each) for each in blocks):
        return f"a block of {name} is not named by a SHA-256"
    return CopiedFile(name, size, tuple(blocks))


def place_of(url: str) -> tuple[Bucket, str]:
    """Open the bucket of a copy's URL -> it, and the prefix.

    Raises:
        MissingExtra: obstore is not installed.
        SourceError: the URL names no bucket.
    """
    scheme, _, prefix = parts_of(url)
    if scheme == "hf":
        raise SourceError(f"{url}: is on the hub, whose datasets are only read as pictures; give a bucket")
    return Bucket.open(url, timeout=PATIENCE), prefix.strip("/")


def snapshot_key(prefix: str) -> str:
    """The key of snapshot.json."""
    return f"{prefix}/{SNAPSHOT}".lstrip("/")


def block_key(prefix: str, sha256: str = "") -> str:
    """The key of a block; without its SHA-256, of the folder of all blocks."""
    inside = f"/{sha256[:2]}/{sha256}" if sha256 else ""
    return f"{prefix}/{BLOCKS}{inside}".lstrip("/")
