"""Searches that are hard to get right, and what their answers are, found by summing every row exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np

from clipdex.index import Index, Manifest, optimize_index
from clipdex.index.checksum import record_crc32c
from clipdex.index.create import create_index
from clipdex.index.rows import ROWS_FILE
from clipdex.index.schema import connect
from clipdex.index.side.int8_file import INT8_FILE
from clipdex.search import candidates, topk
from clipdex.search.estimates import RowNorms
from clipdex.search.quantize import CodeBlock, Codes, MemoryCodes
from clipdex.search.topk import top_k


@dataclass
class Case:
    """One search of some queries, and how it was drawn."""

    kind: str
    vectors: np.ndarray
    queries: np.ndarray
    k: int
    codes: Codes | None
    allowed: np.ndarray | None
    dead: np.ndarray
    minimum: float

    def search(self):
        return top_k(
            self.vectors,
            self.queries,
            self.k,
            codes=self.codes,
            allowed=self.allowed,
            dead=self.dead,
            minimum=self.minimum,
        )

    def __str__(self) -> str:
        covered = 0 if self.codes is None else self.codes.rows
        return (
            f"{self.kind}: {self.vectors.dtype} {self.vectors.shape}, {len(self.queries)} queries, k {self.k}, "
            f"{covered} coded, {len(self.dead)} dead, minimum {self.minimum}, "
            f"{'a' if self.allowed is not None else 'no'} filter"
        )


KINDS = (
    "random",
    "near ties",
    "duplicates",
    "zero rows",
    "dominant dimension",
    "clusters",
    "all equal",
    "grid",
    "tiny",
    "huge",
    "one far row",
    "not finite",
    "permuted",
)


NARROW, WIDE = (1, 2, 7, 16, 33, 64, 96), (512, 1500)  # 1500: int8 sums are no longer exact in float32
MANY = 70  # queries: more than are multiplied at once


def drawn_case(
    seed: int, queries: int | None = None, rows: int = 400, dims: Sequence[int] = NARROW, fewest: int = 1
) -> Case:
    """A case of any kind; seed // len(KINDS) draws the rest."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    n, dim = int(rng.integers(fewest, rows)), int(rng.choice(dims))
    dtype = np.dtype(rng.choice(["float16", "float32"]))
    vectors = _vectors(kind, n, dim, dtype, rng)
    count = int(rng.choice([1, 1, 2, 5, MANY])) if queries is None else queries
    asked = _queries(kind, vectors, count, rng)
    k = int(rng.choice([1, 3, 10, n, n + 5]))
    dead = np.flatnonzero(rng.random(n) < rng.choice([0, 0, 0.1, 0.9, 1]))
    allowed = None
    if rng.random() < 0.4:
        allowed = rng.random(n) < rng.choice([0, 0.02, 0.3, 0.9])
        if rng.random() < 0.5:
            allowed = np.flatnonzero(allowed)
    minimum = -np.inf
    if rng.random() < 0.3:
        row = vectors[rng.integers(n)].astype(np.float64)
        minimum = math.fsum((row * asked[0].astype(np.float64)).tolist())  # exactly some row's score
        minimum = minimum if math.isfinite(minimum) else 0.0
    return Case(kind, vectors, asked, k, _codes(vectors, rng), allowed, dead, minimum)


def _vectors(kind, n, dim, dtype, rng):
    x = rng.standard_normal((n, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if kind == "near ties":
        x[:] = x[0]
    elif kind == "duplicates":
        x = x[rng.integers(0, max(1, n // 20), n)]
    elif kind == "zero rows":
        x[rng.random(n) < 0.5] = 0
    elif kind == "dominant dimension":
        x[:, 0] = 8 + x[:, 0] / 100
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    elif kind == "clusters":
        x = x[rng.integers(0, 5, n) % n] + 0.002 * x
    elif kind == "all equal":
        x[:] = x[0]
    elif kind == "grid":
        x = rng.integers(-1, 2, (n, dim)) / 2
    elif kind == "tiny":
        x *= 10.0 ** rng.integers(-7 if dtype == np.float16 else -40, 0, (n, 1))
    elif kind == "huge":
        x *= 10.0 ** rng.integers(0, 5 if dtype == np.float16 else 38, (n, 1))
    elif kind == "one far row":
        x[rng.integers(n)] *= 1000
    elif kind == "permuted":
        x = np.array([rng.permutation(x[0]) for _ in range(n)])
    with np.errstate(over="ignore"):
        vectors = x.astype(dtype)
    if kind == "near ties":
        some = rng.random((n, dim)) < 1.5 / dim
        vectors[some] = np.nextafter(vectors[some], dtype.type(1))
    if kind == "not finite":
        bad = np.flatnonzero(rng.random(n) < 0.1)
        vectors[bad, rng.integers(0, dim, len(bad))] = rng.choice([np.nan, np.inf, -np.inf], len(bad))
    return vectors


def _queries(kind, vectors, count, rng):
    n, dim = vectors.shape
    queries = rng.standard_normal((count, dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for q in range(count):
        how = rng.integers(0, 8)
        row = vectors[rng.integers(n)].astype(np.float32)
        if how == 0:
            queries[q] = 0
            queries[q, rng.integers(dim)] = 1
        elif how <= 2 and np.isfinite(row).all():
            queries[q] = row
        elif how == 3:
            queries[q] = 1
        elif how == 4:
            queries[q, rng.integers(dim)] = 30
        elif how == 5 and rng.random() < 0.3:
            queries[q] *= np.float32(10.0) ** rng.integers(-37, 30)
        elif how == 6 and rng.random() < 0.2:
            queries[q] = 0
    return queries


def _codes(vectors, rng):
    if rng.random() < 0.3:
        return None
    covered = int(rng.choice([len(vectors), max(1, len(vectors) // 2)]))
    codes = MemoryCodes.of(vectors[:covered], block_rows=int(rng.choice([64, 128, 32_768])))
    if rng.random() < 0.2:  # some block was found to be damaged
        blocks: list[CodeBlock | None] = list(codes.blocks)
        blocks[int(rng.integers(len(blocks)))] = None
        codes = MemoryCodes(codes.basis, blocks, codes.rows, codes.block_rows)
    return codes


def on_disk(case: Case, directory: Path, *, damaged: bool = False) -> Case:
    """The same case with its rows in an index, and the codes that `optimize` writes there, if it had any.

    Where some rows had none, they are committed after `optimize`.
    damaged: flip a bit in the file's last block.
    """
    n, dim = case.vectors.shape
    covered = n if case.codes is None else case.codes.rows
    create_index(directory, Manifest("f" * 64, "drawn", dim, str(case.vectors.dtype)))
    manifest = Manifest.read(directory)
    _commit(directory, manifest, 0, case.vectors[:covered])
    if case.codes is not None:
        optimize_index(directory)
    if covered < n:
        _commit(directory, manifest, covered, case.vectors[covered:])
    with Index.open(directory) as index:
        if damaged and (codes := index.codes()) is not None:
            with (directory / INT8_FILE).open("r+b") as file:
                file.seek(codes.header.start_of(codes.header.blocks - 1))
                (byte,) = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 4]))
        return replace(case, vectors=index.vectors, codes=index.codes())


def _commit(directory: Path, manifest: Manifest, first: int, vectors: np.ndarray) -> None:
    """Append rows as a writer does, but for the pictures, whatever the numbers are."""
    data = vectors.astype(manifest.numpy_dtype).tobytes()
    with (directory / manifest.vectors_file).open("ab") as file:
        file.write(data)
    extent = (first, len(vectors), google_crc32c.value(data), 0)
    db = connect(directory / ROWS_FILE, write=True)
    db.execute("INSERT INTO extents VALUES (?, ?, ?, ?, ?)", (*extent, record_crc32c(*extent)))
    db.close()


def truth(case: Case) -> list[tuple[list[float], list[int]]]:
    """For each query the scores and rows, from the true sum of each allowed row, rounded once."""
    rows = set(range(len(case.vectors))) - set(case.dead.tolist())
    if case.allowed is not None:
        flags = case.allowed.dtype == bool
        rows &= set((np.flatnonzero(case.allowed) if flags else case.allowed).tolist())
    wide = case.vectors.astype(np.float64)
    left = [row for row in sorted(rows) if np.isfinite(wide[row]).all()]
    answers = []
    for query in case.queries.astype(np.float64):
        scores = list(map(math.fsum, (wide[left] * query).tolist()))
        best = sorted((-score, row) for score, row in zip(scores, left, strict=True) if score >= case.minimum)
        answers.append(([-score for score, _ in best[: case.k]], [row for _, row in best[: case.k]]))
    return answers


def small_pieces(monkeypatch) -> None:
    """Let a few hundred rows be many spans, for all threads."""
    monkeypatch.setattr(topk, "_ROWS_SCORED", 200)
    monkeypatch.setattr(topk, "_SEED_ROWS", 32)
    monkeypatch.setattr(topk, "_SEED_PAIRS", 64)
    monkeypatch.setattr(topk, "_ROWS_FOR_ONE", 64)
    monkeypatch.setattr(topk, "_ROWS_FOR_MANY", 32)
    monkeypatch.setattr(topk, "_WORTH_THREADS", 1)
    monkeypatch.setattr(topk, "_REFINE_FROM", 20)
    monkeypatch.setattr(topk, "_SCORED_FIRST", 8)
    monkeypatch.setattr(RowNorms, "ROWS", 32)
    monkeypatch.setattr(candidates, "_FEW", 16)
    monkeypatch.setattr(candidates, "_FEW_OF_ONE", 24)
    monkeypatch.setattr(candidates, "_MOST", 64)


def wrong(case: Case) -> str | None:
    """What is not as it should be in a case's answers, if anything."""
    for i, (found, (scores, rows)) in enumerate(zip(case.search(), truth(case), strict=True)):
        if found.rows.tolist() != rows:
            return f"{case}: query {i}: {found.rows.tolist()[:20]} instead of {rows[:20]}"
        if found.scores.tolist() != scores:
            return f"{case}: query {i}: scores {found.scores[:5]} instead of {scores[:5]}"
    return None
