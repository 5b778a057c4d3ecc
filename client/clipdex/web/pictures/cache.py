"""A cache of thumbnails on disk, of bounded size, that several processes may share.

    DIRECTORY/ab/ab0123…-320.jpg     a hash of 16 bytes, then the JPEG

A file is written under another name and renamed, and its hash is checked when it is read, so that neither a kill
nor a power cut leaves a broken picture. Reading a file makes it young again; the oldest are removed first.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["ThumbnailCache"]

_DIGEST = 16
_LARGEST = 16 << 20  # bytes of one
_TEMPORARY = ".part"
_KEPT = 0.8  # of the bound, after the oldest were removed
_AGAIN = 0.1  # of the bound: after so much was written, other processes may have written, too
_YOUNG_S = 60.0  # a file that was read since then is young enough
_LEFT_S = 3600.0  # a temporary file that is older was left by a process that was killed


class ThumbnailCache:
    """Thumbnails by content hash and side. Safe to share between threads and processes.

    Where the disk is full or cannot be written, nothing is cached, and nothing fails.
    """

    def __init__(self, directory: Path, most_bytes: int) -> None:
        """directory: created when the first thumbnail is cached. most_bytes: of all files."""
        self._directory = directory
        self._most = most_bytes
        self._lock = threading.Lock()
        self._written = 0
        self._total: int | None = None  # at the last look, and what was written since

    def get(self, content_hash: bytes, side: int) -> bytes | None:
        """Return a thumbnail, and make it young; None if it is not cached."""
        path = self._path(content_hash, side)
        try:
            with open(path, "rb", opener=_open_to_read) as file:
                found = os.fstat(file.fileno())
                data = file.read(_LARGEST) if found.st_size <= _LARGEST else b""
        except OSError:
            return None
        jpeg = data[_DIGEST:]
        if not jpeg or _digest(jpeg) != data[:_DIGEST]:
            with suppress(OSError):
                path.unlink()
            return None
        if time.time() - found.st_mtime > _YOUNG_S:
            with suppress(OSError):
                os.utime(path)
        return jpeg

    def put(self, content_hash: bytes, side: int, jpeg: bytes) -> None:
        """Cache a thumbnail, and remove the oldest if there are too many."""
        size = _DIGEST + len(jpeg)
        if size > min(_LARGEST, self._most):
            return
        path = self._path(content_hash, side)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=_TEMPORARY)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_digest(jpeg) + jpeg)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError:
            return
        self._note(size)

    def _note(self, size: int) -> None:
        with self._lock:
            self._written += size
            if self._total is not None:
                self._total += size
            if self._total is None or self._total > self._most or self._written > _AGAIN * self._most:
                self._total = self._evicted()
                self._written = 0

    def _evicted(self) -> int:
        """Look at all files, and remove the oldest if they are too large together -> the bytes that are left."""
        found: list[tuple[float, int, str]] = []
        for entry in _files(self._directory):
            with suppress(OSError):
                info = entry.stat(follow_symlinks=False)
                if not entry.name.endswith(_TEMPORARY):
                    found.append((info.st_mtime, info.st_size, entry.path))
                elif time.time() - info.st_mtime > _LEFT_S:
                    os.unlink(entry.path)
        total = sum(size for _, size, _ in found)
        if total > self._most:
            for _, size, path in sorted(found):
                if total <= _KEPT * self._most:
                    break
                with suppress(OSError):
                    os.unlink(path)
                total -= size
        return total

    def _path(self, content_hash: bytes, side: int) -> Path:
        name = content_hash.hex()
        return self._directory / name[:2] / f"{name}-{side}.jpg"


def _files(directory: Path) -> list[os.DirEntry[str]]:
    """List the files of the cache's folders, whose names have two letters."""
    found: list[os.DirEntry[str]] = []
    with suppress(OSError), os.scandir(directory) as folders:
        for folder in folders:
            if len(folder.name) == 2 and folder.is_dir(follow_symlinks=False):
                with suppress(OSError), os.scandir(folder.path) as files:
                    found += [each for each in files if each.is_file(follow_symlinks=False)]
    return found


def _digest(jpeg: bytes) -> bytes:
    return hashlib.blake2b(jpeg, digest_size=_DIGEST).digest()


def _open_to_read(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
