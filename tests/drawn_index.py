"""A small index of vectors that no model made, for tests of what is asked of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import unit_vectors

from clipdex.base.exif import Exif
from clipdex.index import IndexWriter, Manifest, Picture

DAY_NS = 86_400 * 10**9


def drawn_index(
    directory: Path,
    rows: int = 40,
    dim: int = 8,
    vectors: np.ndarray | None = None,
    fingerprint: str = "f" * 64,
    **columns,
) -> Path:
    """Row i is /p/even or odd/NNN.jpg, 100 + i bytes, 10 × (i + 1) by 20 pixels, of day i since 1970.

    columns: other values of a Picture's fields, one for each row.
    """
    vectors = unit_vectors(rows, dim, seed=1) if vectors is None else vectors
    pictures = []
    for i in range(len(vectors)):
        fields: dict[str, Any] = {
            "path": b"/p/%s/%03d.jpg" % (b"odd" if i % 2 else b"even", i),
            "size": 100 + i,
            "mtime_ns": i * DAY_NS,
            "content_hash": i.to_bytes(16, "big"),
            "width": 10 * (i + 1),
            "height": 20,
            "metadata": json.dumps({"caption": f"picture {i}", "tags": ["third"] if i % 3 == 0 else []}),
        }
        pictures.append(Picture(**fields | {name: values[i] for name, values in columns.items()}))
    with IndexWriter.open_or_create(directory, Manifest(fingerprint, "drawn", vectors.shape[1])) as writer:
        writer.append(pictures, vectors)
    return directory


def drawn_exif(i: int) -> Exif | None:
    """What the file of picture i says of itself; of every third, nothing."""
    if i % 3 == 2:
        return None
    place = {"latitude": 48 + i / 100, "longitude": -11.5 - i / 7} if i % 4 else {}
    return Exif.of(
        taken=f"{2000 + i % 25}-{1 + i % 12:02}-{1 + i % 28:02}T{i % 24:02}:30:{i % 60:02}",
        taken_offset="+02:00" if i % 2 else None,
        make="Maker",
        camera="Pixel 7" if i % 6 else 'D850 "é"',
        lens="50 mm" if i % 5 == 0 else None,
        rating=i % 7 - 1,
        keywords=["beach", f"k{i % 4}"] if i % 3 else [],
        title="title of 'this'",
        description="long " * (400 if i == 7 else 1),
        **place,
    )


ODD = b'/p/caf\xe9, "x"\n.jpg'
DEAD = [3, 39]
LIVE = [row for row in range(40) if row not in DEAD]


def index_with_dead_rows(directory: Path) -> Path:
    """Forty rows of which two are dead; the path of row 0 is ODD, which is not UTF-8, the others /p/NNN.jpg."""
    paths = [ODD, *(b"/p/%03d.jpg" % row for row in range(1, 40))]
    drawn_index(directory, path=paths)
    with IndexWriter.open_or_create(directory, Manifest.read(directory)) as writer:
        for row in DEAD:
            writer.remove(paths[row])
    return directory
