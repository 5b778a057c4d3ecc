"""Building vectors.ann, and measuring its recall."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from clipdex.ann.ann_index import AnnIndex, import_faiss
from clipdex.base.arrays import Array, Vectors
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.index.files import write_at
from clipdex.index.reader import Index
from clipdex.index.side.ann_file import (
    AGAIN,
    ANN_FILE,
    HEADER_BYTES,
    KINDS,
    AnnHeader,
    AnnRecall,
)
from clipdex.index.side.building import building, digest, install
from clipdex.search.estimates import RowNorms
from clipdex.search.topk import top_k

__all__ = ["BuiltAnn", "build_ann"]

# HNSW: links per node, candidates that they are chosen from, candidates kept while searching.
_LINKS, _CHOSEN_FROM, _KEPT = 16, 80, 128
# IVF-PQ: dimensions per byte of a code; lists searched.
_NUMBERS_A_BYTE, _PROBED = 8, 64
_FEWEST_FOR_PQ = 9984  # 39 for each of a byte's 256 values: below, FAISS warns of poor codes
_TRAINED_ON = 262_144

_ROWS_AT_ONCE = 16_384
_SAMPLED = 200


@dataclass(frozen=True)
class BuiltAnn:
    """The result of building. seconds: time to build, without measuring. file_bytes: size of the file."""

    header: AnnHeader
    seconds: float
    file_bytes: int


def build_ann(
    directory: Path,
    kind: str = "hnsw",
    *,
    links: int = _LINKS,
    chosen_from: int = _CHOSEN_FROM,
    effort: int | None = None,
    queries: Vectors | None = None,
    source: str = "queries given",
    progress: Callable[[int, int], None] | None = None,
) -> BuiltAnn:
    """Build `vectors.ann` for all committed rows of an index, and measure its recall.

    Readers and a writer may continue meanwhile. Rows committed later are searched exactly until this is called
    again.

    Args:
        kind: "hnsw" or "ivf_pq".
        links, chosen_from: M and efConstruction of HNSW.
        effort: default effort of searches: efSearch (default 128) or nprobe (default 64).
        queries: float (Q, D), of norm 1, to measure recall with (default: pictures of the index).
        source: a name for the origin of the queries.
        progress: called with the number of rows added so far and of all rows.

    Raises:
        MissingExtra: FAISS is not installed.
        InvalidArgument: there is no such kind, a number is out of range, there are too few rows, or the queries
            are empty, of another width, or not finite.
        IndexDamaged: a live row is not finite or not of norm 1.
        IndexLocked: another process is building one, or the index was compacted meanwhile.
        IndexWriteError: the disk is full or failed; the index is unchanged.
    """
    faiss = import_faiss()
    if kind not in KINDS:
        raise InvalidArgument(f"the kind of approximate index is {kind!r}; expected {' or '.join(KINDS)}")
    if not 2 <= links <= 512 or chosen_from < 1 or (effort is not None and effort < 1):
        raise InvalidArgument(
            f"links {links}, chosen_from {chosen_from} and effort {effort} are out of range; "
            "expected 2 to 512, and 1 or more"
        )
    busy = f"{directory / ANN_FILE}.building is being written by another process; wait for it, or stop it"
    with Index.open(directory) as index, building(directory, ANN_FILE, busy=busy, overtaken=busy) as fd:
        began = time.monotonic()
        index.refresh()  # a compaction may have come between: the file goes where its rows are
        vectors = index.vectors
        rows = len(vectors)
        extents = [extent for extent in index.extents() if extent.first_row < rows]
        if rows < (_FEWEST_FOR_PQ if kind == "ivf_pq" else 1):
            least = _FEWEST_FOR_PQ if kind == "ivf_pq" else 1
            raise InvalidArgument(
                f"{directory} has {counted(rows, 'row')}; {kind} needs {least:,}: search it exactly"
            )
        index.require_sound(np.delete(np.arange(rows), index.tombstones))
        asked = _sampled(vectors) if queries is None else _checked(queries, index)
        made, parameters = _hnsw(faiss, index, links, chosen_from) if kind == "hnsw" else _ivf_pq(faiss, vectors)
        parameters["effort"] = effort or parameters["effort"]
        for start in range(0, rows, _ROWS_AT_ONCE):
            made.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE], dtype=np.float32))
            if progress is not None:
                progress(min(rows, start + _ROWS_AT_ONCE), rows)
        writer = faiss.VectorIOWriter()
        faiss.write_index(made, writer, faiss.IO_FLAG_SKIP_STORAGE if kind == "hnsw" else 0)
        blob = faiss.vector_to_array(writer.data)
        seconds = time.monotonic() - began
        manifest = index.manifest
        header = AnnHeader(
            kind,
            manifest.fingerprint,
            manifest.embedding_dim,
            manifest.dtype,
            rows,
            digest(extents),
            parameters,
            None,
            len(blob),
            int(google_crc32c.value(blob)),
        )
        source = "pictures of the index" if queries is None else source
        ann = AnnIndex(faiss, header, made)
        header = replace(header, recall=_recall(ann, index, asked, source))
        write_at(fd, header.to_bytes(), 0)
        write_at(fd, blob.data, HEADER_BYTES)
        install(fd, directory, ANN_FILE, AGAIN)
    return BuiltAnn(header, seconds, HEADER_BYTES + len(blob))


def _hnsw(faiss: Any, index: Index, links: int, chosen_from: int) -> tuple[Any, dict[str, int]]:
    dim = index.manifest.embedding_dim
    if index.manifest.dtype == "float32":
        made = faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
    else:
        made = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, links, faiss.METRIC_INNER_PRODUCT)
        made.train(np.zeros((1, dim), dtype=np.float32))  # FAISS wants it called; there is nothing to learn
    made.hnsw.efConstruction = chosen_from
    return made, {"M": links, "efConstruction": chosen_from, "effort": _KEPT}


def _ivf_pq(faiss: Any, vectors: Array) -> tuple[Any, dict[str, int]]:
    rows, dim = vectors.shape
    lists = max(1, min(int(2 * rows**0.5), rows // 39))
    codes = next(m for m in range(max(1, dim // _NUMBERS_A_BYTE), 0, -1) if dim % m == 0)
    made = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    made.cp.niter = 10  # the later rounds of FAISS's 25 change little
    sample = np.random.default_rng(0).permutation(rows)[: max(_FEWEST_FOR_PQ, min(_TRAINED_ON, 64 * lists))]
    made.train(np.ascontiguousarray(vectors[np.sort(sample)], dtype=np.float32))
    return made, {"nlist": lists, "m": codes, "nbits": 8, "effort": _PROBED}


def _sampled(vectors: Array) -> Vectors:
    """Sample rows to measure with; each finds itself first, which is not counted."""
    chosen = np.random.default_rng(1).permutation(len(vectors))[:_SAMPLED]
    return np.asarray(vectors[np.sort(chosen)], dtype=np.float32)


def _checked(queries: Vectors, index: Index) -> Vectors:
    """Check the queries to measure with before anything is built -> float32 (Q, D)."""
    wide = np.atleast_2d(np.asarray(queries, dtype=np.float32))
    if wide.ndim != 2 or len(wide) == 0 or wide.shape[1] != index.manifest.embedding_dim:
        raise InvalidArgument(
            f"the queries to measure with have shape {np.shape(queries)}; "
            f"{index.directory} needs one or more of {index.manifest.embedding_dim} numbers"
        )
    if not np.isfinite(wide).all():
        raise InvalidArgument("a query to measure with contains NaN or infinity")
    return wide


def _recall(ann: AnnIndex, index: Index, queries: Vectors, source: str) -> AnnRecall:
    own = source == "pictures of the index"
    k = 11 if own else 10
    vectors, dead, codes, norms = index.vectors, index.tombstones, index.codes(), RowNorms()
    # Compare with a search as users run it: with codes if there are any, and not the first one, which is slower.
    top_k(vectors, queries[:1], k, codes=codes, dead=dead, norms=norms)
    shares, times, exact_times = [], [], []
    for query in queries:
        began = time.perf_counter()
        (found,) = ann.rank(vectors, query[None], k, dead=dead)
        middle = time.perf_counter()
        (exact,) = top_k(vectors, query[None], k, codes=codes, dead=dead, norms=norms)
        exact_times.append(time.perf_counter() - middle)
        times.append(middle - began)
        best = exact.rows[1:] if own else exact.rows
        if len(best):
            shares.append(len(np.intersect1d(found.rows, best)) / len(best))
    recall = statistics.fmean(shares) if shares else 1.0
    return AnnRecall(
        round(recall, 4),
        len(shares),
        source,
        round(1e3 * statistics.median(times), 3),
        round(1e3 * statistics.median(exact_times), 3),
    )
