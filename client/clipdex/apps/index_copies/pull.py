"""Pulling an index from a bucket: every block is checked, and the index takes its place when it is complete."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.apps.index_copies.snapshot_file import Block, CopiedFile, Snapshot, block_key, place_of
from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import (
    ImageError,
    IndexDamaged,
    IndexFault,
    IndexLocked,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
)
from clipdex.base.object_paths import object_meant
from clipdex.base.replacing import EXCHANGE, renameat2
from clipdex.index.create import aside, put_back, require_outside_indexes
from clipdex.index.file_system import locked
from clipdex.index.files import open_directory, open_to_read, open_to_write, sync_directory, write_at
from clipdex.index.manifest import MANIFEST, PLAN
from clipdex.index.merge import put
from clipdex.index.part_plan import is_parted, whole_parts
from clipdex.index.reader import Index
from clipdex.index.snapshot import complete_files
from clipdex.index.writer import IndexWriter
from clipdex.sources.object_store import Bucket

__all__ = ["Pulled", "pull_index"]

_AT_ONCE = 8  # blocks being fetched


@dataclass(frozen=True)
class Pulled:
    """The result of a pull. rows: live rows of the index. fetched: what was not there already."""

    rows: int
    files: int
    bytes: int
    fetched_blocks: int
    fetched_bytes: int


def pull_index(
    url: str,
    out: PathLike,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Copy an index that was pushed to a bucket to a directory, which gets its name when it is complete.

    Blocks are checked by their hash. They are written beside `out`, to `.NAME.pulling`: after a kill, the next
    pull fetches only what is missing.

    Args:
        url: as for `push_index`.
        replace: replace the index at `out`, whose blocks are not fetched again. What was added there is lost.
        progress: called with the number of bytes that are there so far, and of all.

    Raises:
        MissingExtra: obstore is not installed.
        IndexNotFound: there is no copy of an index at the URL.
        IndexFormatError: there is something else, or a copy of a newer format.
        IndexDamaged: a block is missing or not what it was, or the files are no index.
        InvalidArgument: there is something at `out`, and it is not to be replaced, or is no index.
        IndexLocked: another process pulls to `out`, or writes to the index there.
        IndexWriteError: the disk is full or failed; what was fetched is kept.
        SourceError: the store refuses a request, or cannot be reached.
    """
    if object_meant(os.fspath(out)) is not None:
        raise InvalidArgument(f"{out}: is in a bucket; expected a directory of this machine to pull to")
    bucket, prefix = place_of(url)
    return pull_from(bucket, prefix, as_path(out, "the path of an index"), replace=replace, progress=progress)


def pull_from(
    bucket: Bucket,
    prefix: str,
    out: Path,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Copy an index from a bucket that is open; see `pull_index`."""
    where = f"{bucket.url}/{prefix}".rstrip("/")
    out = Path(os.path.realpath(out))
    put_back(out)
    _require_place(out, replace)
    snapshot = Snapshot.read(bucket, prefix)
    if snapshot is None:
        raise IndexNotFound(f"{where}: holds no copy of an index; make one with  clipdex push-index INDEX {where}")
    made = out.with_name(f".{out.name}.pulling")
    with _translated(out, made), _held(made):
        fetching = _Fetching(
            bucket, prefix, where, made, out if os.path.lexists(out) else None, snapshot, progress
        )
        fetching.all()
        complete_files(made)
        for folder in (*(whole_parts(made) if is_parted(made) else ()), made):
            sync_directory(folder)
        rows = _require_index(made, where)
        _take_place(made, out)
        sync_directory(out.parent)
    return Pulled(rows, len(snapshot.files), snapshot.size, fetching.fetched_blocks, fetching.fetched_bytes)


def _require_place(out: Path, replace: bool) -> None:
    if not os.path.lexists(out):
        require_outside_indexes(out)
        return
    if not any((out / each).is_file() for each in (MANIFEST, PLAN)):
        raise InvalidArgument(f"{out} exists, and is no index; give another path")
    if not replace:
        raise InvalidArgument(
            f"{out} exists already; replace it, with all that was added to it, by --replace (replace=True), or "
            "give another path"
        )


@contextmanager
def _translated(out: Path, made: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        kept = f"; what was fetched is kept in {made}" if os.path.lexists(made) else ""
        raise IndexWriteError(f"{out}: cannot be written: {exc.strerror}{kept}") from exc


@contextmanager
def _held(made: Path) -> Iterator[None]:
    """Keep the directory of a pull for this process. Raises IndexLocked if another has it."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        made.mkdir()
    place = open_directory(made)
    try:
        if not locked(place, made):
            raise IndexLocked(f"{made}: another process pulls to it; wait for its end")
        yield
    finally:
        os.close(place)


def _require_index(made: Path, where: str) -> int:
    try:
        with Index.open(made) as index:
            return len(index)
    except IndexFault as exc:
        raise IndexDamaged(f"{where}: its files are no sound index: {exc}") from exc


def _take_place(made: Path, out: Path) -> None:
    if not os.path.lexists(out):
        put(made, out)
        return
    with ExitStack() as stack:
        for part in whole_parts(out):
            stack.enter_context(IndexWriter(part))  # no one may write to what is replaced
        if renameat2(os.fsencode(made), os.fsencode(out), EXCHANGE):
            old = made
        else:
            old = aside(out)
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
            made.rename(out)
    shutil.rmtree(old, ignore_errors=True)


@dataclass
class _Fetching:
    """Blocks on their way into the files of a directory; a bounded number of them is in memory."""

    bucket: Bucket
    prefix: str
    where: str
    made: Path
    old: Path | None  # an index whose blocks may be the same
    snapshot: Snapshot
    progress: Callable[[int, int], None] | None
    fetched_blocks: int = 0
    fetched_bytes: int = 0
    _there: int = 0
    _ahead: deque[tuple[int, Block, Future[bytes]]] = field(default_factory=deque)

    def all(self) -> None:
        """Write all files, and remove others. Raises IndexDamaged, IndexWriteError, SourceError and OSError."""
        self._sweep()
        self._require_room()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="clipdex-pull") as threads:
            try:
                for file in self.snapshot.files:
                    self._file(file, threads)
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _sweep(self) -> None:
        """Remove what a pull of an older copy left, and anything that is no regular file."""
        names = {file.name for file in self.snapshot.files}
        for folder, folders, files in os.walk(self.made, topdown=False):
            for each in files:
                path = Path(folder, each)
                if str(path.relative_to(self.made)) not in names or path.is_symlink():
                    path.unlink()
            for each in folders:
                path = Path(folder, each)
                if path.is_symlink():
                    path.unlink()
                elif not any(path.iterdir()):
                    path.rmdir()

    def _require_room(self) -> None:
        held = sum(os.stat(path).st_blocks * 512 for path in self.made.rglob("*") if path.is_file())
        needed, free = self.snapshot.size - held, shutil.disk_usage(self.made).free
        if needed > free:
            raise IndexWriteError(
                f"{self.made.parent}: has {free / 1e6:,.1f} MB free, and the index needs {needed / 1e6:,.1f} MB"
            )

    def _file(self, file: CopiedFile, threads: ThreadPoolExecutor) -> None:
        path = self.made / file.name
        path.parent.mkdir(exist_ok=True)
        descriptor = open_to_write(path, make=True)
        try:
            with _reusable(self.old and self.old / file.name) as old:
                os.truncate(descriptor, min(os.fstat(descriptor).st_size, file.size))
                for block in file.pieces(self.snapshot.block_bytes):
                    if _has(descriptor, block):
                        self._note(block)
                    elif old is not None and (data := _read(old, block)) is not None:
                        write_at(descriptor, data, block.offset)
                        self._note(block)
                    else:
                        self._ahead.append((descriptor, block, threads.submit(self._fetched, file, block)))
                    while len(self._ahead) > _AT_ONCE:
                        self._write()
                while self._ahead:
                    self._write()
            os.fsync(descriptor)
        finally:
            self._ahead.clear()
            os.close(descriptor)

    def _fetched(self, file: CopiedFile, block: Block) -> bytes:
        try:
            data = self.bucket.fetch(block_key(self.prefix, block.sha256), block.size)
        except ImageError:
            data = b""
        if data is None:
            raise IndexDamaged(
                f"{self.where}: a block of {file.name} is missing: pull again, as a newer copy may have replaced "
                "this one, or push the index again"
            )
        if len(data) != block.size or hashlib.sha256(data).hexdigest() != block.sha256:
            raise IndexDamaged(
                f"{self.where}: a block of {file.name} is not what was pushed: delete "
                f"{block_key(self.prefix, block.sha256)} there, and push the index again"
            )
        return data

    def _write(self) -> None:
        descriptor, block, future = self._ahead.popleft()
        write_at(descriptor, future.result(), block.offset)
        self.fetched_blocks, self.fetched_bytes = self.fetched_blocks + 1, self.fetched_bytes + block.size
        self._note(block)

    def _note(self, block: Block) -> None:
        self._there += block.size
        if self.progress is not None:
            self.progress(self._there, self.snapshot.size)


@contextmanager
def _reusable(path: Path | None) -> Iterator[int | None]:
    """Open a file whose blocks may be the same; None if there is none."""
    try:
        file = None if path is None else open_to_read(path)
    except (OSError, IndexDamaged):
        file = None
    try:
        yield None if file is None else file.fileno()
    finally:
        if file is not None:
            file.close()


def _has(descriptor: int, block: Block) -> bool:
    return _read(descriptor, block) is not None


def _read(descriptor: int, block: Block) -> bytes | None:
    """Read a block if a file has it at the same place."""
    if os.fstat(descriptor).st_size < block.offset + block.size:
        return None
    data = os.pread(descriptor, block.size, block.offset)
    return data if hashlib.sha256(data).hexdigest() == block.sha256 else None
