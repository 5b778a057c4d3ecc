"""Real runs over drawn pictures, with a fake server: what they must leave in the index."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image
from proofs.workload import Shared

import clipdex
from clipdex.index import Index, IndexWriter, verify_index
from clipdex.pipeline import run
from clipdex.wire import FakeTransport


def draw(folder: Path, count: int, dim: int) -> dict[bytes, np.ndarray]:
    """Draw pictures -> the vector, float16 (dim,), that belongs to each path, in the order of the scan."""
    folder.mkdir()
    rng, paths = np.random.default_rng(0), []
    for i in range(count):
        paths.append(folder / f"{i:05d}.png")
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(paths[-1])
    with clipdex.Client(FakeTransport(embedding_dim=dim)) as client:
        return dict(zip(map(os.fsencode, paths), client.embed_images(paths).astype("<f2"), strict=True))


def commit_often_and_note_it(rows: int, shared: Shared) -> None:
    """Let this process's runs commit every so many rows, and note how many each commit says are there."""
    run._COMMIT_ROWS = rows
    commit = IndexWriter.commit

    def noted(writer: IndexWriter) -> int:
        committed = commit(writer)
        shared.set("acknowledged", committed)
        return committed

    IndexWriter.commit = noted  # type: ignore[method-assign, assignment]


def check_run(index: Path, written: dict[bytes, np.ndarray], acknowledged: int) -> int:
    """Compare an index with a prefix of the folder, at least as long as acknowledged -> its rows."""
    with Index.open(index) as opened:
        rows = opened.live_paths()
        assert len(rows) >= acknowledged, f"{acknowledged} rows were acknowledged, {len(rows)} are there"
        assert [path for _, path in rows] == list(written)[: len(rows)], "not the first files of the folder"
        assert [row for row, _ in rows] == list(range(len(rows)))
        for row, path in rows:
            assert np.array_equal(opened.vectors[row], written[path]), f"{path!r} has another picture's vector"
    report = verify_index(index)
    assert not report.damages, [damage.what for damage in report.damages]
    return len(rows)
