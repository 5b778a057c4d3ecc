"""Recall of FAISS's HNSW behind a filter that is applied to the graph's candidates, as Milvus Lite applies it.

.venv-stores/bin/python benchmarks/filtered_graph.py

The vectors are those of prove_stores.py; the graph has Milvus Lite's parameters as clipdex would set them.
"""

from __future__ import annotations

import argparse
from typing import Any

import faiss
import numpy as np
from prove_stores import vectors
from rounds import where

_TOP_K, _EFFORT = 10, 128
untyped: Any = faiss  # its stubs lack the parameters of a search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    drawn = vectors(rng, rng.standard_normal((48, asked.dim), dtype=np.float32), asked.pictures)
    graph = faiss.IndexHNSWFlat(asked.dim, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 200
    graph.add(drawn)
    print(where(), flush=True)
    for share in (1, 0.08, 0.01, 0.002):
        passes = rng.random(asked.pictures) < share
        passes[0] = True  # at least one
        chosen = untyped.SearchParametersHNSW(
            sel=untyped.IDSelectorBatch(np.flatnonzero(passes)), efSearch=_EFFORT
        )
        recalls = []
        for row in range(0, asked.pictures, max(1, asked.pictures // asked.queries)):
            scores = np.where(passes, drawn @ drawn[row], -2)
            best = set(np.argsort(-scores)[: min(_TOP_K, int(passes.sum()))].tolist())
            _, found = graph.search(drawn[row : row + 1], _TOP_K, params=chosen)
            recalls.append(len(best & set(found[0].tolist())) / len(best))
        print(f"{asked.pictures:,} × {asked.dim}, {share:.1%} pass: recall@10 {np.mean(recalls):.2f}", flush=True)


if __name__ == "__main__":
    main()
