"""Damaging an index on purpose, and seeing what `verify` finds."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from random import Random

from conftest import unit_vectors

import clipdex
from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, verify_index

ROWS, DIM = 300, 16


def write_index(path: Path) -> None:
    """300 rows in three commits, with a tombstone and a ledger."""
    vectors = unit_vectors(ROWS, DIM)
    with IndexWriter.open_or_create(path, Manifest("f" * 64, "demo", DIM)) as writer:
        for start in range(0, ROWS, 100):
            pictures = [
                Picture(
                    b"/photos/%04d.jpg" % i,
                    1000 + i,
                    10**18 + i,
                    bytes([i % 256] * 16),
                    640,
                    480,
                    phash=bytes([i % 251]) * 158,
                )
                for i in range(start, start + 100)
            ]
            writer.append(pictures, vectors[start : start + 100])
            writer.commit()
        writer.remove(b"/photos/0007.jpg")
        writer.fail(Failure(b"/photos/bad.jpg", "truncated", "half of it is missing", 5, 6))


def dump(index: Path) -> object:
    """What rows.sqlite holds: SQLite leaves parts of its pages unused, where a flipped bit changes nothing."""
    try:
        db = sqlite3.connect(index / "rows.sqlite")
        db.text_factory = bytes
        try:
            tables = [
                db.execute(f"SELECT * FROM {t} ORDER BY 1").fetchall()
                for t in ("rows", "extents", "failures", "phashes")
                if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (t,)).fetchone()
            ]
            return (
                tables,
                db.execute("PRAGMA user_version").fetchall(),
                db.execute("PRAGMA application_id").fetchall(),
            )
        finally:
            db.close()
    except (sqlite3.Error, OverflowError):
        return None


def damage_and_verify(sound: Path, copy: Path, rng: Random, *, flips: int, cuts: int) -> list[str]:
    """Damage a copy again and again -> what verify did not find of what falls in the data."""
    names = ["vectors.f16"] * 2 + ["rows.sqlite"] * 2 + ["manifest.json"]
    shutil.copytree(sound, copy)
    whole = {name: (sound / name).read_bytes() for name in set(names)}
    held = dump(sound)
    missed = []
    for i in range(flips + cuts):
        name = rng.choice(names)
        data = bytearray(whole[name])
        if i < flips:
            at, bit = rng.randrange(len(data)), rng.randrange(8)
            data[at] ^= 1 << bit
            what = f"bit {bit} of byte {at} of {name}"
        else:
            at = rng.randrange(len(data))
            del data[at:]
            what = f"{name} cut to {at} bytes"
        (copy / name).write_bytes(data)
        damages = verify_index(copy).damages
        try:
            with Index.open(copy) as opened:
                opened.search(unit_vectors(1, DIM), top_k=1)
        except clipdex.ClipdexError:
            assert damages, f"{what}: not found, yet the index cannot be used"
        if not damages and (name != "rows.sqlite" or dump(copy) != held):
            missed.append(what)
        for left in (*copy.glob("*-wal"), *copy.glob("*-shm")):
            left.unlink()
        (copy / name).write_bytes(whole[name])
    return missed
