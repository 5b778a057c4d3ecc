"""What was to be moved, on disk before it is begun: a line of JSON for each file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from clipdex.base.errors import InvalidArgument
from clipdex.base.untrusted_json import parse_json
from clipdex.index.vectors import sync_directory

__all__ = ["read_journal", "write_journal"]

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
    """The plan of (from, to, content hash).

    Raises:
        InvalidArgument: it cannot be read, or is no journal.
    """
    try:
        first, *lines = [parse_json(line) for line in path.read_text("ascii").splitlines()]
        if first["format"] != _FORMAT or first["format_version"] != 1:
            raise ValueError("another format")
        return [(os.fsencode(x["from"]), os.fsencode(x["to"]), bytes.fromhex(x["content_hash"])) for x in lines]
    except OSError as exc:
        raise InvalidArgument(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise InvalidArgument(f"{path}: is no journal of  clipdex duplicates --move-to") from exc
