"""Move one file: checked first, never over another one, and completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_json
from clipdex.base.replacing import NOREPLACE, renameat2
from clipdex.index.files import sync_directory

__all__ = ["Left", "content_of", "make_folders", "move_file", "read_journal", "rename_to_nothing", "write_journal"]

_BLOCK = 1 << 20


class Left(Exception):
    """The reason why one file stays where it is. Never leaves this package."""


def move_file(source: bytes, place: bytes, content_hash: bytes) -> None:
    """Move a file with this content to a free place. Raises Left, or OSError if the disk refuses."""
    try:
        if content_of(source) != content_hash:
            raise Left("it has changed since it was indexed")
    except OSError as exc:
        raise Left(f"it cannot be read: {exc.strerror}") from exc
    make_folders(os.path.dirname(place))
    try:
        try:
            rename_to_nothing(source, place)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            _move_across(source, place, content_hash)
    except FileExistsError as exc:
        raise Left(f"{os.fsdecode(place)} exists already") from exc
    except PermissionError as exc:
        raise Left(f"it may not be moved: {exc.strerror}") from exc


def _move_across(source: bytes, place: bytes, content_hash: bytes) -> None:
    """Move to another file system: the copy is on disk before it gets its name, and the old file goes last."""
    if os.path.lexists(place):  # checked first, so that no gigabytes are copied for nothing
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place)
    temporary = place + b".clipdex-moving"
    placed = False
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
        rename_to_nothing(temporary, place)
        placed = True
        sync_directory(os.path.dirname(place))
        os.unlink(source)
    except BaseException:
        with suppress(OSError):
            if placed and os.path.lexists(source):
                os.unlink(place)
        with suppress(OSError):
            os.unlink(temporary)
        raise


def rename_to_nothing(source: bytes, place: bytes) -> None:
    """Rename a file; FileExistsError if the place is taken. Atomic if the kernel and file system support it."""
    if renameat2(source, place, NOREPLACE):
        return
    # Otherwise reserve the name first. A kill between the two steps leaves the empty file.
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.rename(source, place)
    except BaseException:
        with suppress(OSError):
            if os.path.lexists(source):
                os.unlink(place)
        raise


def make_folders(path: bytes) -> None:
    """Create a folder and those above it, each with its name on disk before anything is in it."""
    if not os.path.isdir(path):
        above = os.path.dirname(path)
        make_folders(above)
        os.makedirs(path, exist_ok=True)
        sync_directory(above)


def content_of(path: bytes) -> bytes:
    """Return the content hash of a file, as the index stores it: BLAKE2b, 16 bytes."""
    hashed = hashlib.blake2b(digest_size=16)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
    return hashed.digest()


_FORMAT = "clipdex-moved"


def write_journal(target: bytes, plan: Iterable[tuple[bytes, bytes, bytes]]) -> Path:
    """Write a plan of (from, to, content hash) into a new file in the folder -> its path."""
    stem = time.strftime("moved-%Y%m%d-%H%M%S")
    names = (stem + (f"-{number}" if number else "") + ".jsonl" for number in range(1000))
    path = next(p for p in (Path(os.fsdecode(target)) / name for name in names) if not p.exists())
    with path.open("x", encoding="ascii") as file:
        file.write(json.dumps({"format": _FORMAT, "format_version": 1}) + "\n")
        for old, new, content_hash in plan:
            line = {"from": os.fsdecode(old), "to": os.fsdecode(new), "content_hash": content_hash.hex()}
            file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_directory(target)
    return path


def read_journal(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """Read a journal's plan of (from, to, content hash).

    Raises:
        InvalidArgument: the file cannot be read, or is not a journal.
    """
    try:
        first, *lines = [parse_json(line) for line in path.read_text("ascii").splitlines()]
        if first["format"] != _FORMAT or first["format_version"] != 1:
            raise ValueError("another format")
        return [(os.fsencode(x["from"]), os.fsencode(x["to"]), bytes.fromhex(x["content_hash"])) for x in lines]
    except OSError as exc:
        raise InvalidArgument(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise InvalidArgument(f"{path}: is not a journal of  clipdex duplicates --move-to") from exc
