"""What it costs an exact search to refuse rows that are not of norm 1.

    python benchmarks/norm_check.py [ROWS]      (200,000 rows × 512, float16; one query, and 64)

The bounds of the norms are needed in any case; the check reads the same numbers. First: a search of rows that were
never searched. Later: with the bounds of the first kept, as an open index keeps them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from search_data import alternating, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "client"))

from clipdex.search.estimates import RowNorms
from clipdex.search.topk import top_k

DIM, K, ROUNDS = 512, 10, 15


def drawn(count: int, rng: np.random.Generator) -> np.ndarray:
    rows = rng.standard_normal((count, DIM), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    rng = np.random.default_rng(0)
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    vectors = np.concatenate(
        [drawn(min(20_000, rows - at), rng).astype(np.float16) for at in range(0, rows, 20_000)]
    )
    for count in (1, 64):
        queries = drawn(count, rng)
        kept = {unit: RowNorms(unit=unit) for unit in (False, True)}
        print(f"{rows:,} × {DIM} float16, {count} queries, top {K}:")
        sides: dict[str, Callable[[], object]] = {
            "checked": lambda: top_k(vectors, queries, K, norms=RowNorms(unit=True)),  # noqa: B023
            "not checked": lambda: top_k(vectors, queries, K, norms=RowNorms()),  # noqa: B023
            "checked, later": lambda: top_k(vectors, queries, K, norms=kept[True]),  # noqa: B023
            "not checked, later": lambda: top_k(vectors, queries, K, norms=kept[False]),  # noqa: B023
        }
        show(alternating(sides, ROUNDS), ours="checked")


if __name__ == "__main__":
    main()
