"""From the slots of a tray to one request, and from its answers to rows."""

import numpy as np
import pytest

from clipdex.base.records import Picture
from clipdex.pipeline.batch import Batch

pytestmark = pytest.mark.thin

ROWS = 8


def tray_of_numbers():
    """Every slot filled with its own number, uint8 (8, 2, 2, 3)."""
    return np.repeat(np.arange(ROWS, dtype=np.uint8), 12).reshape(ROWS, 2, 2, 3)


def picture(number):
    return Picture(b"/%d" % number, 1, 2, bytes(16), 3, 4)


def answers_for(pixels):
    """The model's answer here: the number in the slot, and its square."""
    numbers = pixels[:, 0, 0, 0].astype(np.float32)
    return np.stack([numbers, numbers**2], axis=1)


@pytest.mark.parametrize(
    ("slots", "moved"),
    [
        (range(ROWS), 0),
        ([0, 1, 2], 0),
        ([1, 2, 3, 4, 5, 6, 7], 1),
        ([0, 2, 4, 6], 2),
        ([5, 6, 7], 3),
        ([7], 1),
        ([0, 1, 3, 4, 7], 1),
    ],
    ids=str,
)
def test_holes_are_filled_from_behind_and_vectors_keep_the_order(slots, moved):
    tray = tray_of_numbers()
    batch = Batch(tray)
    for slot in slots:
        batch.embed(picture(slot), slot)
    pixels = batch.pixels()
    assert np.shares_memory(pixels, tray)
    assert pixels.flags.c_contiguous
    assert sorted(pixels[:, 0, 0, 0]) == list(slots)
    assert np.count_nonzero(tray[:, 0, 0, 0] != np.arange(ROWS)) == moved
    vectors = batch.vectors(answers_for(pixels), never, 2)
    assert vectors.tolist() == [[slot, slot**2] for slot in slots]


def test_every_subset_of_a_tray():
    for bits in range(1, 2**ROWS):
        slots = [slot for slot in range(ROWS) if bits >> slot & 1]
        batch = Batch(tray_of_numbers())
        for slot in slots:
            batch.embed(picture(slot), slot)
        assert batch.vectors(answers_for(batch.pixels()), never, 2)[:, 0].tolist() == slots


def test_what_the_index_has_takes_its_rows_vector():
    batch = Batch(tray_of_numbers())
    batch.embed(picture(0), 0)
    batch.copy(picture(1), 41)
    batch.embed(picture(2), 2)
    assert [p.path for p in batch.pictures] == [b"/0", b"/1", b"/2"]
    assert batch.recognised == 1
    vectors = batch.vectors(answers_for(batch.pixels()), lambda row: np.array([row, -1.0]), 2)
    assert vectors.tolist() == [[0, 0], [41, -1], [2, 4]]


def never(row):
    raise AssertionError(f"row {row} is asked for")


def test_a_tray_without_a_picture_needs_no_request():
    batch = Batch(tray_of_numbers())
    assert len(batch.pixels()) == 0
    assert batch.vectors(None, never, 2).shape == (0, 2)


def test_what_is_refused_is_taken_out_and_the_others_keep_their_answers():
    batch = Batch(tray_of_numbers())
    for number, slot in enumerate([1, 2, 4, 6, 7]):
        batch.embed(picture(slot), slot)
        if number == 2:
            batch.copy(picture(99), 41)
    pixels = batch.pixels()
    numbers = pixels[:, 0, 0, 0].tolist()
    dropped = batch.drop([numbers.index(2), numbers.index(7)])
    assert [p.path for p in dropped] == [b"/2", b"/7"]
    assert [p.path for p in batch.pictures] == [b"/1", b"/4", b"/99", b"/6"]
    vectors = batch.vectors(answers_for(pixels), lambda row: np.array([row, 0.0]), 2)
    assert vectors[:, 0].tolist() == [1, 4, 41, 6]
