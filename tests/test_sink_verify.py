"""Comparing a collection with the index that was pushed into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_index import LIVE, drawn_index, index_with_dead_rows
from numpy_sink import NumpySink

from clipdex.base.errors import FingerprintMismatch, SinkError
from clipdex.index import Index
from clipdex.sinks.payloads import point_id
from clipdex.sinks.push import push
from clipdex.sinks.sink import Found
from clipdex.sinks.verify import verify

pytestmark = [pytest.mark.thin, pytest.mark.once]

ONE = point_id(b"/p/005.jpg")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(index_with_dead_rows(tmp_path / "x.clipdex")) as opened:
        yield opened


@pytest.fixture
def sink(index: Index) -> NumpySink:
    made = NumpySink()
    push(index, made)
    return made


def test_what_was_pushed_is_the_same_and_finds_all(index, sink):
    found = verify(index, sink, queries=7, condition="width > 100")
    assert found.is_same and found.different == ()
    assert (found.pictures, found.points, found.sampled, found.queries) == (len(LIVE),) * 3 + (7,)
    assert (found.recall, found.filtered_recall) == (1.0, 1.0)
    assert verify(index, sink).filtered_recall is None
    assert verify(index, sink, sample=9).sampled == 9


@pytest.mark.parametrize("change", ["missing", "turned", "another digest"])
def test_a_point_that_is_missing_or_not_the_same_is_named(index, sink, change):
    point = sink.points[ONE]
    if change == "missing":
        del sink.points[ONE]
    elif change == "turned":
        sink.points[ONE] = replace(point, vector=np.roll(point.vector, 1))
    else:
        sink.points[ONE] = replace(point, payload={**point.payload, "digest": "0"})
    found = verify(index, sink)
    assert not found.is_same and found.different == ("/p/005.jpg",)
    assert found.points == len(LIVE) - (change == "missing")


def test_a_point_too_many_is_not_the_same_though_all_others_are(index, sink):
    sink.points[point_id(b"/nowhere")] = sink.points[ONE]
    found = verify(index, sink)
    assert not found.is_same and found.different == () and found.points == len(LIVE) + 1


def test_recall_is_the_share_of_the_best_that_is_found(index, sink, monkeypatch):
    """A database that finds every second hit, and with a condition none."""

    def half(vector, top_k, condition=None) -> list[Found]:
        found = NumpySink.query(sink, vector, top_k, condition)
        return found[::2] if condition is None else []

    monkeypatch.setattr(sink, "query", half)
    found = verify(index, sink, condition="width > 100")
    assert (found.recall, found.filtered_recall) == (0.5, 0.0)


def test_an_empty_index_is_the_same_as_an_empty_collection(tmp_path):
    with Index.open(drawn_index(tmp_path / "e.clipdex", vectors=np.zeros((0, 8), np.float32))) as index:
        sink = NumpySink()
        push(index, sink)
        found = verify(index, sink)
        assert found.is_same and (found.sampled, found.queries, found.recall) == (0, 0, 1.0)


def test_without_a_collection_or_with_another_models_there_is_nothing_to_compare(index, sink, tmp_path):
    with pytest.raises(SinkError, match="does not exist; push an index into it first"):
        verify(index, NumpySink())
    with (
        Index.open(drawn_index(tmp_path / "o.clipdex", fingerprint="e" * 64)) as other,
        pytest.raises(FingerprintMismatch),
    ):
        verify(other, sink)
