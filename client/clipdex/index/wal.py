"""Checking rows.sqlite-wal by its own checksums (https://www.sqlite.org/fileformat2.html, section 4).

SQLite takes the first frame whose checksum does not match for the end of the log, as it must after a crash. If a
bit of a frame has flipped, all commits from there on are lost silently.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import IndexDamaged
from clipdex.index.files import fault, open_to_read

__all__ = ["wal_damage"]

_HEADER, _FRAME = 32, 24
_MAGIC = {0x377F0682: "<u4", 0x377F0683: ">u4"}  # the byte order of the words that a checksum covers
_FRAMES_AT_ONCE = 1024

_Words = npt.NDArray[np.uint32]


def wal_damage(database: Path) -> str | None:
    """Describe the damage to the WAL beside a database, if there is one and it lost commits.

    A writer may be at work. A frame that it had not yet written completely is complete at the second look, and a
    log that it restarts has other salts: only damage found twice is reported.

    Raises:
        IndexDamaged: it is not a regular file.
        IndexFault: the system refuses to read it.
    """
    path = database.with_name(database.name + "-wal")
    before = None
    while True:
        try:
            with open_to_read(path) as file:
                found = _walk(file)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if not isinstance(found_fault := fault(path, exc), IndexDamaged):
                raise found_fault from exc
            return f"{path.name}: cannot be read: {exc.strerror}"
        if found is None or found == before:
            break
        before = found
    return (
        None
        if found is None
        else f"{path.name}: {found[0]}: SQLite takes it for the end, and all later commits are lost"
    )


def _walk(file: BinaryIO) -> tuple[str, bytes] | None:
    """Check the log -> (what is damaged, the log's salts), or None."""
    header = file.read(_HEADER)
    rest = file.read(1)
    if len(header) < _HEADER or not rest or not any(header):
        return None  # started, without a commit yet
    magic, _, page_bytes, _, *sums = struct.unpack(">4I8x2I", header)
    salts = header[16:24]
    order = _MAGIC.get(magic, "<u4")
    if (
        magic not in _MAGIC
        or _checksum(np.frombuffer(header[:24], order)[None], np.zeros((1, 2), np.uint32)) != sums
    ):
        return "its header is not what was written", salts
    first: int | None = None  # the frame that SQLite takes for the end
    commit = False  # whether there is a commit at or after it
    one_bit = False
    last = np.array([sums], np.uint32)  # the checksum that the next frame goes on from
    for number, heads, bodies in _frames(file, page_bytes):
        fields = heads.view(">u4").astype(np.uint32)  # page, size after commit, salts, checksum
        same = (heads[:, 8:16] == np.frombuffer(salts, np.uint8)).all(axis=1)
        if first is None:
            words = np.concatenate([heads[:, :8], bodies], axis=1).view(order).astype(np.uint32)
            seeds = np.concatenate([last, fields[:-1, 4:6]])
            fits = (_checksums(words, seeds) == fields[:, 4:6]).all(axis=1)
            bad = np.flatnonzero(~(fits & same))
            last = fields[-1:, 4:6]
            if not len(bad):
                continue
            at = int(bad[0])
            first = number + at
            one_bit = _one_bit(words[at], seeds[at], fields[at], salts, bool(same[at]))
            same[:at] = False
            same[at] |= one_bit
        for i in np.flatnonzero(same):
            if commit:  # more was written after the commit, so it had been synced
                return f"frame {first} is not what was written", salts
            commit = bool(fields[i, 1])
    # A power cut may have torn the last commit before it was acknowledged. A tear is never a single bit.
    if commit and one_bit:
        return f"frame {first} is not what was written", salts
    return None


def _frames(file: BinaryIO, page_bytes: int) -> Iterator[tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Read complete frames in batches -> (number of the first, headers (n, 24), pages (n, P))."""
    length, number = _FRAME + page_bytes, 0
    file.seek(_HEADER)
    while True:
        data = file.read(_FRAMES_AT_ONCE * length)
        n = len(data) // length
        if n == 0:
            return
        frames = np.frombuffer(data, np.uint8, n * length).reshape(n, length)
        yield number, np.ascontiguousarray(frames[:, :_FRAME]), frames[:, _FRAME:]
        number += n


def _checksums(words: _Words, seeds: _Words) -> _Words:
    """Continue SQLite's checksum over each line of words (n, W), from each seed (n, 2) -> (n, 2).

    For each pair of words: a += word + b, then b += next word + a. That is linear, modulo 2^32.
    """
    weights, of_seed = _weights(words.shape[1])
    return (words @ weights + seeds @ of_seed).astype(np.uint32)


def _checksum(words: npt.NDArray[Any], seeds: _Words) -> list[int]:
    return [int(value) for value in _checksums(words.astype(np.uint32), seeds)[0]]


@lru_cache(maxsize=4)
def _weights(words: int) -> tuple[_Words, _Words]:
    """Compute each word's contribution to the two sums, (W, 2), and the seed's, (2, 2)."""
    weights = np.zeros((words, 2), np.uint32)
    a, b = (
        np.array([1, 0], np.uint32),
        np.array([0, 1], np.uint32),
    )  # the current sums' contribution to the final ones
    for i in range(words - 2, -1, -2):
        weights[i + 1] = b  # of a pair, the second word goes to b; the first goes to a, and through a to b
        weights[i] = a + b
        a, b = a + b, a + b + b
    return weights, np.stack([a, b])


def _one_bit(words: _Words, seed: _Words, fields: _Words, salts: bytes, same_salts: bool) -> bool:
    """Return whether a frame is one flipped bit away from a valid one."""
    sums, written = _checksums(words[None], seed[None])[0], fields[4:6]
    apart = int.from_bytes((sums ^ written).astype(">u4").tobytes(), "big")
    if not same_salts:
        strange = int.from_bytes(fields[2:4].astype(">u4").tobytes(), "big") ^ int.from_bytes(salts, "big")
        return apart == 0 and bin(strange).count("1") == 1
    if bin(apart).count("1") == 1:
        return True
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    # A set bit subtracts its value when it flips, modulo 2^32.
    change = np.where(words[:, None] & bits, np.uint32(0) - bits, bits)
    weights, _ = _weights(len(words))
    changes = weights[:, None, :] * change[:, :, None]  # (W, 32, 2): what each flip adds to the two sums
    return bool((changes == written - sums).all(axis=2).any())
