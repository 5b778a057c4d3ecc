"""Moving one file: checked first, over nothing, and whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import suppress

__all__ = ["Left", "content_of", "move_file", "sync_folder"]

_BLOCK = 1 << 20


class Left(Exception):
    """Why one file stays where it is. Never leaves this package."""


def move_file(source: bytes, place: bytes, content_hash: bytes) -> None:
    """Move a file with this content to where nothing is. Raises Left, or OSError where the disk refuses."""
    try:
        if content_of(source) != content_hash:
            raise Left("it has changed since it was indexed")
    except OSError as exc:
        raise Left(f"it cannot be read: {exc.strerror}") from exc
    os.makedirs(os.path.dirname(place), exist_ok=True)
    try:
        # The name is taken before the file comes, so that nothing can be overwritten.
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as exc:
        raise Left(f"there is something at {os.fsdecode(place)} already") from exc
    try:
        try:
            os.rename(source, place)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            _copy_over(source, place, content_hash)
            os.unlink(source)
    except BaseException as exc:
        with suppress(OSError):
            if os.path.lexists(source):
                os.unlink(place)  # ours: nothing, or a copy
        if isinstance(exc, PermissionError):
            raise Left(f"it may not be moved: {exc.strerror}") from exc
        raise


def _copy_over(source: bytes, place: bytes, content_hash: bytes) -> None:
    """To another file system: the copy is whole and on disk before it has its name."""
    temporary = place + b".clipdex-moving"
    try:
        hashed = hashlib.blake2b(digest_size=16)
        with open(source, "rb") as reader, open(temporary, "wb") as writer:
            while block := reader.read(_BLOCK):
                hashed.update(block)
                writer.write(block)
            if hashed.digest() != content_hash:
                raise Left("it changed while it was copied")
            writer.flush()
            os.fsync(writer.fileno())
        shutil.copystat(source, temporary)
        os.rename(temporary, place)
        sync_folder(os.path.dirname(place))
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def content_of(path: bytes) -> bytes:
    """The content hash of a file, as the index has it: BLAKE2b, 16 bytes."""
    hashed = hashlib.blake2b(digest_size=16)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
    return hashed.digest()


def sync_folder(path: bytes) -> None:
    """Put the names in a folder on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
