"""Damaging an index on purpose, and seeing what `verify` finds."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
from conftest import unit_vectors

import clipdex
from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, verify_index
from clipdex.index.side.feature_file import FEATURES_FILE, FeatureFile
from clipdex.index.side.neighbour_footer import NEIGHBOURS_FILE
from clipdex.looks.local_features import LocalFeatures, Recipe

ROWS, DIM = 300, 16
SAID = (
    None,
    clipdex.Exif(camera="R5", rating=3),
    clipdex.Exif("2024-06-01T17:30:00", latitude=48.1371, longitude=11.5754, keywords=("sea", "Käse"), title="T"),
)


def write_killed_index(path: Path) -> None:
    """The same, as a SIGKILL leaves it: its records are in the WAL."""
    alive = path.with_name("alive.clipdex")
    write_index(alive, killed=path)
    shutil.rmtree(alive)


def write_index(path: Path, killed: Path | None = None) -> None:
    """300 rows in three commits, with a tombstone and a ledger; copied to `killed` before it is closed."""
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
                    metadata=f'{{"caption":"drawing {i}"}}' if i % 2 else None,
                    phash=bytes([i % 251]) * 158,
                    ctime_ns=10**18 + 2 * i,
                    exif=SAID[i % 3],
                )
                for i in range(start, start + 100)
            ]
            writer.append(pictures, vectors[start : start + 100])
            writer.commit()
        writer.remove(b"/photos/0007.jpg")
        writer.fail(Failure(b"/photos/bad.jpg", "truncated", "half of it is missing", 5, 6, 7))
        writer.commit()
        if killed is not None:
            shutil.copytree(path, killed, ignore=shutil.ignore_patterns("*-shm"))


def write_features(path: Path, killed: Path | None = None) -> None:
    """Local features of the first twenty contents; copied to `killed` before the file is closed."""
    rng = np.random.default_rng(1)
    with closing(FeatureFile.open_or_make(path, Recipe())) as file:
        for start in range(0, 20, 5):
            floats = rng.uniform(0, 500, (30, 4)).astype(np.float32)
            descriptors = rng.integers(0, 256, (30, 128), dtype=np.uint8)
            made = LocalFeatures(floats[:, :2], floats[:, 2], floats[:, 3], descriptors, (640, 480))
            file.add({bytes([i] * 16): made for i in range(start, start + 5)})
        if killed is not None:
            shutil.copytree(path, killed, ignore=shutil.ignore_patterns("*-shm"))


def write_neighbours(path: Path) -> None:
    """The file that finds the nearest of these local features."""
    from clipdex.features.build_neighbours import build_neighbours  # which needs FAISS

    assert build_neighbours(path, fewest=1).file_bytes
    for left in (*path.glob("*-wal"), *path.glob("*-shm")):  # by its readers, of logs without content
        assert left.name.endswith("-shm") or left.stat().st_size == 0
        left.unlink()


def features_of(index: Path) -> object:
    """What a reader gets of the features that `write_features` wrote; None if it says that they are damaged."""
    try:
        file = FeatureFile.open(index)
        if file is None:
            return None
        with closing(file):
            found = file.several([bytes([i] * 16) for i in range(20)])
            return file.recipe, {key: each.to_bytes() for key, each in found.items()}
    except clipdex.ClipdexError:
        return None


def dump(index: Path) -> object:
    """What rows.sqlite holds: SQLite leaves parts of its pages unused, where a flipped bit changes nothing."""
    try:
        db = sqlite3.connect(index / "rows.sqlite")
        db.text_factory = bytes
        try:
            tables = [
                db.execute(f"SELECT * FROM {t} ORDER BY 1").fetchall()
                for t in ("rows", "extents", "failures", "metadata", "phashes", "ctimes", "failure_ctimes", "exif")
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
    """Damage a copy again and again -> what verify did not find of what falls in the data.

    Free space has no checksum, nor have SQLite's own counters. Where there is a WAL it is what is damaged; not by
    cuts, as it does not say how long it was.
    """
    names = ["vectors.f16"] * 2 + ["rows.sqlite"] * 2 + ["manifest.json"]
    if (sound / FEATURES_FILE).exists():
        names += [FEATURES_FILE] * 2
    if (sound / NEIGHBOURS_FILE).exists():
        names += [NEIGHBOURS_FILE] * 2
    wal = "rows.sqlite-wal"
    if logs := [name for name in (wal, f"{FEATURES_FILE}-wal") if (sound / name).exists()]:
        assert not cuts
        names = logs
    shutil.copytree(sound, copy)
    whole = {path.name: path.read_bytes() for path in sound.iterdir()}
    before = copy.with_name("dumped.clipdex")
    shutil.copytree(sound, before)
    held, features = dump(before), features_of(before)
    shutil.rmtree(before)
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
        if not damages and not _harmless(name, copy, held, features):
            missed.append(what)
        for left in (*copy.glob("*-wal"), *copy.glob("*-shm")):
            left.unlink()
        for file, content in whole.items():
            (copy / file).write_bytes(content)
    return missed


def _harmless(name: str, copy: Path, held: object, features: object) -> bool:
    """Whether what a file holds is what it held."""
    if name.startswith(FEATURES_FILE):
        return features_of(copy) == features
    return name.startswith("rows.sqlite") and dump(copy) == held
