"""Pushing an index to a bucket: blocks that are not there yet, and then snapshot.json, which names them."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.apps.index_copies.snapshot_file import (
    BLOCK_BYTES,
    CopiedFile,
    Snapshot,
    block_key,
    place_of,
    snapshot_key,
)
from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import FingerprintMismatch, IndexDamaged, IndexFormatError
from clipdex.index.files import fault
from clipdex.index.manifest import Manifest
from clipdex.index.part_plan import manifest_of, whole_parts
from clipdex.index.snapshot import SnapshotFile, index_snapshot
from clipdex.sources.object_store import Bucket

__all__ = ["PushedCopy", "push_index"]

_AT_ONCE = 8  # blocks being sent


@dataclass(frozen=True)
class PushedCopy:
    """The result of a push: the snapshot's files and blocks, and the blocks sent. pruned: blocks deleted."""

    files: int
    bytes: int
    blocks: int
    sent_blocks: int
    sent_bytes: int
    pruned: int


def push_index(
    index: PathLike,
    url: str,
    *,
    prune: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PushedCopy:
    """Copy an index, or an index of parts, to a prefix of a bucket; what is there already is not sent again.

    A writer may go on meanwhile: the copy is of one commit (of each part). Until everything is sent, the copy
    pushed before stays the one that is pulled; after a kill, the next push sends what is missing.

    Args:
        url: `s3://BUCKET/PREFIX`, of this index alone; gs and az, too.
        prune: at the end, delete blocks that the copy does not need. No one else may push to, or pull from, the
            prefix meanwhile.
        progress: called with the number of bytes read so far, and of all bytes, which grow if a writer goes on.

    Raises:
        MissingExtra: obstore is not installed.
        SourceError: the store refuses a request, or cannot be reached.
        FingerprintMismatch: there is a copy of an index of another model.
        IndexFormatError: there is something else in its place.
        IndexFault: as reading the index raises it.
    """
    bucket, prefix = place_of(url)
    return push_to(bucket, prefix, as_path(index, "the path of an index"), prune=prune, progress=progress)


def push_to(
    bucket: Bucket,
    prefix: str,
    directory: Path,
    *,
    prune: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PushedCopy:
    """Copy an index to a bucket that is open; see `push_index`."""
    manifest = manifest_of(directory)
    _require_same(bucket, prefix, manifest)
    there = {listed.key: listed.size for listed in bucket.listed(block_key(prefix))}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="clipdex-push") as threads:
        sending = _Sending(bucket, prefix, there, threads, _bytes_of(directory), progress)
        try:
            with closing(index_snapshot(directory)) as files:
                copied = tuple(sending.file(each) for each in files)
            sending.wait(0)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)
    snapshot = Snapshot(manifest.fingerprint, manifest.model, int(time.time()), BLOCK_BYTES, copied)
    bucket.put(snapshot_key(prefix), snapshot.to_json())
    needed = {block_key(prefix, sha256) for sha256 in snapshot.sha256s()}
    stray = [key for key in there if key not in needed] if prune else []
    bucket.delete(stray)
    return PushedCopy(
        len(copied), snapshot.size, len(needed), sending.sent_blocks, sending.sent_bytes, pruned=len(stray)
    )


def _require_same(bucket: Bucket, prefix: str, manifest: Manifest) -> None:
    """Raise an error if there is a copy of an index of another model, or something else."""
    where = f"{bucket.url}/{prefix}".rstrip("/")
    try:
        old = Snapshot.read(bucket, prefix)
    except IndexDamaged:
        return  # it is replaced
    except IndexFormatError as exc:
        raise IndexFormatError(f"{exc}; nothing was sent: give another prefix") from exc
    if old is not None and old.fingerprint != manifest.fingerprint:
        raise FingerprintMismatch(
            f"{where} holds a copy of an index of the model {old.model} (fingerprint {old.fingerprint[:12]}), and "
            f"this index is of {manifest.model} (fingerprint {manifest.fingerprint[:12]}): give another prefix"
        )


def _bytes_of(directory: Path) -> int:
    """Add up the sizes of the files, for the progress: they may grow."""
    total = 0
    for part in whole_parts(directory):
        with os.scandir(part) as entries:
            total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_file())
    return total


@dataclass
class _Sending:
    """Blocks on their way; a bounded number of them is in memory."""

    bucket: Bucket
    prefix: str
    there: dict[str, int]
    threads: ThreadPoolExecutor
    total: int
    progress: Callable[[int, int], None] | None
    sent_blocks: int = 0
    sent_bytes: int = 0
    _read: int = 0
    _ahead: deque[tuple[Future[None], int]] = field(default_factory=deque)

    def file(self, each: SnapshotFile) -> CopiedFile:
        """Send the blocks of a file that are not there. Raises IndexFault if it cannot be read."""
        names: list[str] = []
        at = 0
        while at < each.size:
            size = min(BLOCK_BYTES, each.size - at)
            data = _block(each, at, size)
            sha256 = hashlib.sha256(data).hexdigest()
            names.append(sha256)
            key = block_key(self.prefix, sha256)
            if self.there.get(key) != size:
                self.there[key] = size
                self._ahead.append((self.threads.submit(self.bucket.put, key, data), size))
                self.wait(_AT_ONCE)
            at += size
            self._read += size
            if self.progress is not None:
                self.progress(self._read, max(self._read, self.total))
        return CopiedFile(each.name, each.size, tuple(names))

    def wait(self, most: int) -> None:
        """Wait until at most so many blocks are on their way."""
        while len(self._ahead) > most:
            future, size = self._ahead.popleft()
            future.result()
            self.sent_blocks, self.sent_bytes = self.sent_blocks + 1, self.sent_bytes + size


def _block(each: SnapshotFile, at: int, size: int) -> bytes:
    try:
        data = os.pread(each.file.fileno(), size, at)
        while len(data) < size and (more := os.pread(each.file.fileno(), size - len(data), at + len(data))):
            data += more
    except OSError as exc:
        raise fault(Path(each.name), exc) from exc
    if len(data) < size:
        raise IndexDamaged(f"{each.name}: ends in the middle of its {each.size:,} bytes")
    return data
