"""What the proofs write: an endless list of steps, and what an index that holds the first n of them must be.

Step i adds one row, most with metadata, a signature and local features, now and then replaces an earlier path,
removes one, says something new of one, or puts a line into the ledger. Everything about a step follows from its
number, which the row keeps as its mtime: an index tells by itself how far it is.
"""

from __future__ import annotations

import functools
import json
import mmap
import sqlite3
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from clipdex.index import Failure, Index, IndexWriter, Manifest, Picture, verify_index
from clipdex.index.side.feature_file import FEATURES_FILE, make_features
from clipdex.looks.local_features import LocalFeatures, Recipe

DIM = 32
BATCH = 64  # steps in a commit, at most
MANIFEST = Manifest("f" * 64, "demo", DIM)
RECIPE = Recipe("sift", 4, 64)

_LATE = 4 * BATCH  # from here on the paths that a step names are far enough apart for one commit


def path_of(step: int) -> bytes:
    """The picture that a step indexes; every fifth is an earlier one, changed."""
    return b"/photos/%08d.jpg" % (step // 2 if step % 5 == 0 and step > _LATE else step)


def removed_by(step: int) -> bytes | None:
    return b"/photos/%08d.jpg" % (step // 4) if step % 13 == 0 and step > _LATE else None


def said_by(step: int) -> tuple[str | None, bytes | None]:
    """The metadata and the signature of the row that a step writes; some have none."""
    return (f'{{"step":{step}}}' if step % 3 else None), (b"%0158d" % step if step % 4 else None)


def content_of(step: int) -> bytes:
    return b"%016d" % step


@functools.cache
def features_by(step: int) -> LocalFeatures | None:
    """The local features of what a step writes; some have none, and some no point."""
    if step % 4 == 0:
        return None
    rng = np.random.default_rng(step)
    floats = rng.uniform(0, 400, (step % 4 - 1, 4)).astype(np.float32)
    descriptors = rng.integers(0, 256, (len(floats), RECIPE.width), dtype=np.uint8)
    return LocalFeatures(floats[:, :2], floats[:, 2], floats[:, 3], descriptors, (640, 480))


def annotated_by(step: int) -> bytes | None:
    """The earlier picture of which a step says something else, and which it signs anew."""
    return b"/photos/%08d.jpg" % (step // 3) if step % 17 == 0 and step > _LATE else None


def failed_by(step: int) -> bytes | None:
    return b"/photos/bad/%08d.jpg" % step if step % 11 == 0 else None


def vectors_of(steps: np.ndarray) -> np.ndarray:
    """Unit vectors, (n, DIM) float32, drawn from the steps' numbers by splitmix64."""
    x = steps.astype(np.uint64)[:, None] * np.uint64(DIM) + np.arange(DIM, dtype=np.uint64)
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values = (x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - 1
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def stage(writer: IndexWriter, first: int, end: int) -> None:
    """Hand the steps of one commit to a writer, in two appends."""
    middle = (first + end) // 2
    for part in (range(first, middle), range(middle, end)):
        if part:
            pictures = [Picture(path_of(i), 1000 + i, i, content_of(i), 640, 480, *said_by(i)) for i in part]
            writer.append(pictures, vectors_of(np.array(part)))
    for i in range(first, end):
        if (features := features_by(i)) is not None:
            writer.keep_features(content_of(i), RECIPE, features)
        if failed := failed_by(i):
            writer.fail(Failure(failed, "truncated", f"step {i}", 5, i))
        if removed := removed_by(i):
            writer.remove(removed)
        if annotated := annotated_by(i):
            metadata, phash = _anew(i)
            writer.annotate(annotated, metadata)
            writer.sign(annotated, phash)


def _anew(step: int) -> tuple[str, bytes]:
    return f'{{"again":{step}}}', b"%0158d" % -step


class Expected:
    """The live rows after n steps; asking for growing n costs each step once."""

    def __init__(self) -> None:
        self._steps = 0
        self._live: dict[bytes, int] = {}
        self._said: dict[bytes, tuple[str | None, bytes | None]] = {}

    def live(self, steps: int) -> dict[bytes, int]:
        """Path -> the step that wrote it, in the order of the rows."""
        if steps < self._steps:
            self._steps, self._live, self._said = 0, {}, {}
        # A commit buries before it inserts; no path is named twice in one, so single steps come to the same.
        for i in range(self._steps, steps):
            self._live.pop(path_of(i), None)
            self._live[path_of(i)] = i
            self._said[path_of(i)] = said_by(i)
            if removed := removed_by(i):
                self._live.pop(removed, None)
            if (annotated := annotated_by(i)) in self._live:
                self._said[annotated] = _anew(i)
        self._steps = steps
        return self._live

    def said(self, steps: int) -> list[tuple[str | None, bytes | None]]:
        """The metadata and the signature of each live row, in the order of the rows."""
        return [self._said[path] for path in self.live(steps)]


def held(index: Path) -> tuple[int, list[tuple[int, bytes, int]]]:
    """How many steps an index holds, and its live (row, path, step): read as docs/index-format.md says."""
    rows = _read(index, "SELECT row, path, mtime_ns FROM rows WHERE deleted_at IS NULL ORDER BY row")
    return (rows[-1][2] + 1 if rows else 0), rows


def _read(index: Path, sql: str, name: str = "rows.sqlite") -> list[Any]:
    db = sqlite3.connect(f"file:{index / name}?mode=ro", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def check(index: Path, acknowledged: int, expected: Expected) -> int:
    """Compare an index with the steps it must hold -> how many it holds.

    Everything up to `acknowledged`, an exact prefix of the steps, each path once, each vector the one that was
    written for it, as are its metadata, signature and local features, and nothing for `verify` to find.
    AssertionError, or what opening raises, if not.
    """
    steps, rows = held(index)
    assert steps >= acknowledged, f"{acknowledged} steps were acknowledged, {steps} are there"
    live = expected.live(steps)
    assert [(path, step) for _, path, step in rows] == list(live.items()), f"not the first {steps} steps"
    said = _read(
        index,
        "SELECT json, phash FROM rows LEFT JOIN metadata USING (row) LEFT JOIN phashes USING (row) "
        "WHERE deleted_at IS NULL ORDER BY row",
    )
    assert said == expected.said(steps), "metadata or a signature is not the one written"
    _check_features(index, live.values())
    dim = json.loads((index / "manifest.json").read_text())["embedding_dim"]
    vectors = np.fromfile(index / "vectors.f16", dtype="<f2")
    vectors = vectors[: len(vectors) // dim * dim].reshape(-1, dim)
    written = vectors_of(np.array([step for _, _, step in rows], dtype=np.int64)).astype("<f2")
    assert np.array_equal(vectors[[row for row, _, _ in rows]], written), "a vector is not the one written"
    with Index.open(index) as opened:
        assert len(opened) == len(live)
        failed = [path for i in range(0, steps, 11) if (path := failed_by(i))]
        assert [failure.path for failure in opened.failures()] == failed
        if rows:
            row, path, step = rows[len(rows) // 2]
            (hit,) = opened.search(vectors_of(np.array([step])), top_k=1)[0]
            assert (hit.row, hit.path.encode()) == (row, path)
    report = verify_index(index)
    assert not report.damages, [damage.what for damage in report.damages]
    return steps


def _check_features(index: Path, live: Collection[int]) -> None:
    """Compare the local features with those of the steps: each live one is there, and no other is a torn one."""
    if not live:
        return
    sql = "SELECT content_hash, width, height, points, keypoints, descriptors FROM features"
    found = {int(content): record for content, *record in _read(index, sql, FEATURES_FILE)}
    missing = [step for step in live if step not in found and features_by(step) is not None]
    assert not missing, f"the local features of steps {missing} are lost"
    for step, record in found.items():
        written = features_by(step)
        assert written is not None, f"step {step} had no local features"
        whole = [*written.size, len(written), written.keypoints(), written.descriptors.tobytes()]
        assert record == whole, f"the local features of step {step} are not those written"


class Shared:
    """Numbers that a child process leaves where its parent finds them, however it ends."""

    FIELDS = ("begun", "acknowledged", "phase", "compactions", "turns")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self.FIELDS))

    def get(self, field: str) -> int:
        return struct.unpack_from("q", self._memory, 8 * self.FIELDS.index(field))[0]

    def set(self, field: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * self.FIELDS.index(field), value)
        if field == "phase":
            self.turn()

    def turn(self) -> None:
        """Count a turn of the work: by turns it goes as far on a busy machine as on an idle one."""
        self.set("turns", self.get("turns") + 1)

    def after(self, turns: int) -> Callable[[], bool]:
        """Return what says whether so many turns have passed from now on."""
        until = self.get("turns") + turns
        return lambda: self.get("turns") >= until


PHASES = ("opening", "appending", "committing", "closing", "compacting")


def write(
    index: Path,
    rng: Random,
    shared: Shared,
    *,
    commits: int,
    largest: int = BATCH,
    between: Callable[[], None] = lambda: None,
) -> None:
    """One run: open, go on from what the index holds, commit some batches, close."""
    shared.set("phase", PHASES.index("opening"))
    with IndexWriter.open_or_create(index, MANIFEST) as writer:
        make_features(index, RECIPE)
        step, _ = held(index)
        for _ in range(commits):
            shared.set("phase", PHASES.index("appending"))
            end = step + rng.randint(1, largest)
            stage(writer, step, end)
            shared.set("begun", end)
            shared.set("phase", PHASES.index("committing"))
            writer.commit()
            shared.set("acknowledged", end)
            step = end
            between()
        shared.set("phase", PHASES.index("closing"))
