"""Conditions evaluated on the columns of an index, beside the same ones evaluated by SQLite."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipdex.index import Index


def hide_columns(index: Any) -> None:
    """Have SQLite evaluate each condition."""
    index.columns = lambda: None


def found(path: Path, condition: str, params: Mapping[str, Any] | None, *, by_columns: bool) -> list[int]:
    """Return the rows that a condition finds, asked with the columns or without."""
    with Index.open(path) as index:
        if not by_columns:
            hide_columns(index)
        return index.where(condition, params).tolist()


def find_the_same(
    path: Path, drawn: Callable[[random.Random], str], params: Mapping[str, Any], seed: int, count: int
) -> None:
    """Draw conditions, and assert that each finds the same rows with the columns and without."""
    rng = random.Random(seed)
    with Index.open(path) as index, Index.open(path) as plain:
        hide_columns(plain)
        for _ in range(count):
            condition = drawn(rng)
            expected = plain.where(condition, params).tolist()
            assert index.where(condition, params).tolist() == expected, condition
