"""Reading ahead, and letting go behind, changes how fast a search is and nothing else."""

import itertools
import mmap
import os
import resource
import threading
import time

import numpy as np
import pytest
from conftest import unit_vectors

from clipdex.search import readahead, topk
from clipdex.search.quantize import MemoryCodes
from clipdex.search.readahead import Readahead, in_memory, memory_limit, want_rows
from clipdex.search.topk import top_k

pytestmark = pytest.mark.thin


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "rows"
    unit_vectors(40_000, 64).astype(np.float16).tofile(path)
    return np.memmap(path, np.float16, mode="r", shape=(40_000, 64))


@pytest.fixture(params=["populate", "touch"])
def cold(request, monkeypatch):
    """As if nothing were in memory, and there were little of it; on a new kernel or an old one."""
    asked = []
    monkeypatch.setattr(readahead, "in_memory", lambda array: False)
    monkeypatch.setattr(topk, "in_memory", lambda array: False)
    monkeypatch.setattr(readahead, "memory_limit", lambda: 1 << 20)
    monkeypatch.setattr(readahead, "_PIECE", 1 << 16)
    monkeypatch.setattr(readahead, "_AHEAD", 1 << 18)
    monkeypatch.setattr(readahead, "_BEHIND", 1 << 16)
    advise = readahead._advise

    def advised(advice, start, end):
        asked.append((advice, start, end))
        if request.param == "touch" and advice == readahead._MADV_POPULATE_READ:
            return -1
        return advise(advice, start, end)

    monkeypatch.setattr(readahead, "_advise", advised)
    return asked


@pytest.mark.parametrize("coded", [False, True])
def test_the_answers_are_the_same(stored, cold, coded):
    queries = unit_vectors(3, 64, seed=1)
    right = [found.rows.tolist() for found in top_k(np.array(stored), queries, 10)]
    codes = MemoryCodes.of(stored) if coded else None
    assert [found.rows.tolist() for found in top_k(stored, queries, 10, codes=codes)] == right
    assert cold
    assert not [thread for thread in threading.enumerate() if thread.name == "clipdex-readahead"]


def test_it_reads_all_in_order_just_ahead_and_lets_go_of_all_behind(stored, cold):
    part = stored[10_000:]
    base, length = part.ctypes.data, part.nbytes

    def those(kind):
        return [(start - base, end - base) for advice, start, end in cold if advice == kind]

    with Readahead(part) as ahead:
        for here in (*range(0, length, 50_000), length):
            ahead.reading(here)
            wanted = min(length, here + readahead._AHEAD)
            patience = time.monotonic() + 10
            while (those(readahead._MADV_POPULATE_READ) or [(0, 0)])[-1][1] < wanted:
                assert time.monotonic() < patience
                time.sleep(0.0005)
            # No further than a piece beyond what is wanted, and nothing is let go of that others may be at.
            assert those(readahead._MADV_POPULATE_READ)[-1][1] < wanted + readahead._PIECE
            assert all(end <= max(0, here - readahead._BEHIND) for _, end in those(mmap.MADV_DONTNEED))
    read, gone = those(readahead._MADV_POPULATE_READ), those(mmap.MADV_DONTNEED)
    assert read[0][0] == 0 and read[-1][1] == length
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(read))
    assert gone[0][0] == 0 and len(gone) > 10
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(gone[:-1]))
    assert gone[-1] == (0, length)
    assert np.isfinite(stored).all()


def test_a_scan_that_fails_ends_the_thread(stored, cold):
    with pytest.raises(ZeroDivisionError), Readahead(stored):
        raise ZeroDivisionError
    assert not [thread for thread in threading.enumerate() if thread.name == "clipdex-readahead"]


def test_what_is_in_memory_is_left_alone(stored):
    assert np.isfinite(np.asarray(stored)).all()
    assert in_memory(np.asarray(stored))
    assert in_memory(np.ones(5))
    want_rows(np.ones((5, 2)), np.array([1]))
    with Readahead(np.asarray(stored)) as ahead:
        ahead.reading(5)
        assert ahead._thread is None


def test_of_a_file_of_another_user_nothing_is_known(stored, monkeypatch):
    """Linux would call all of it resident."""
    array, other = np.asarray(stored), os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not in_memory(array)
    with Readahead(array) as ahead:
        assert ahead._thread is not None
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.W_OK)
    assert in_memory(array)


def test_what_was_in_memory_is_asked_about_again_after_a_second_and_at_once_of_another_part(stored, monkeypatch):
    asked, now = [], [100.0]
    monkeypatch.setattr(readahead, "_resident", lambda start, size: asked.append(size) or len(asked) < 4)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    array = np.asarray(stored)
    whole, half = array.nbytes, array.nbytes // 2
    assert in_memory(array) and in_memory(array) and asked == [whole]
    assert in_memory(array[20_000:]) and asked == [whole, half]
    assert in_memory(array) and in_memory(array) and asked == [whole, half, whole]
    now[0] += 1.01
    assert not in_memory(array) and not in_memory(array)
    assert asked == [whole, half, whole, whole, whole]


def test_of_a_file_that_is_gone_nothing_is_known(stored):
    os.unlink(stored.filename)
    assert not in_memory(np.asarray(stored))


def test_a_limit_of_the_process_counts(monkeypatch):
    assert memory_limit() > 1 << 28
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (123_456_789, resource.RLIM_INFINITY))
    assert memory_limit() <= 123_456_789
