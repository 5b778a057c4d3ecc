"""The boundary of every cosine that makes two pictures one: at it they are, just below it they are not."""

import numpy as np
import pytest
from conftest import noise

from clipdex import Grouping
from clipdex.apps.duplicates import find_duplicates, moves_of
from clipdex.index import IndexWriter, Manifest, Picture
from clipdex.looks.signature import perceptual_signature
from clipdex.search.cosines import agree
from clipdex.search.grouping import Traits

pytestmark = pytest.mark.thin

JUST = 1e-5  # more than float32's rounding in a product of unit vectors, less than anybody's least cosine means
LOOKS = perceptual_signature(noise(1, (64, 48)))
OTHER_LOOKS = perceptual_signature(noise(2, (64, 48)))


def two(cosine):
    """float32 (2, 8): unit vectors with this cosine."""
    return np.array([[1] + 7 * [0], [cosine, np.sqrt(1 - cosine**2), *6 * [0]]], dtype=np.float32)


def grouped(cosine, grouping, looks=(LOOKS, LOOKS)):
    """Whether two pictures of other bytes, whose vectors have this cosine, are one hit."""
    traits = Traits([b"a", b"b"], list(looks), np.full((2, 2), 64), two(cosine))
    first, second = traits.like(traits.at(0), grouping)
    assert first
    return bool(second)


def index_of(tmp_path, cosine, looks=(LOOKS, LOOKS)):
    rows = [Picture(b"/%d" % i, 1, i, bytes([i] * 16), 64, 48, None, looks[i]) for i in range(2)]
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "demo", 8, dtype="float32")) as writer:
        writer.append(rows, two(cosine))
    return tmp_path / "x"


def test_agreement_begins_at_the_least_cosine_less_its_rounding():
    last = np.float32(0.9375 - 1e-6)
    given = np.array([1, 0.9375, last, np.nextafter(last, np.float32(0)), 0.9375 - JUST, np.nan], np.float32)
    assert agree(given, 0.9375).tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("least", [0.9375, 0.98, 1.0])
def test_groups_by_a_cosine_begin_at_it(least):
    grouping = Grouping(similarity=None, cosine=least)
    assert grouped(least, grouping)
    assert not grouped(least - JUST, grouping)


def test_look_alikes_are_one_hit_from_a_cosine_of_09():
    assert grouped(0.9, Grouping())
    assert not grouped(0.9 - JUST, Grouping())
    assert not grouped(0.9, Grouping(), (LOOKS, OTHER_LOOKS))


@pytest.mark.parametrize("least", [None, 0.9375, 1.0])
def test_semantic_duplicates_begin_at_the_threshold(tmp_path, least):
    """It is 0.95 where none is given."""
    at = 0.95 if least is None else least
    (tmp_path / "at").mkdir()
    (group,) = find_duplicates(index_of(tmp_path / "at", at), "semantic", threshold=least).groups
    assert group.others[0].similarity == pytest.approx(at, abs=1e-6)
    assert group.others[0].cosine == pytest.approx(at, abs=1e-6)
    assert find_duplicates(index_of(tmp_path, at - JUST), "semantic", threshold=least).groups == []


@pytest.mark.parametrize("kind", ["near", "semantic"])
@pytest.mark.parametrize("least", [0.9375, 0.98, 1.0])
def test_moving_begins_at_the_least_cosine(tmp_path, kind, least):
    (tmp_path / "at").mkdir()
    for place, cosine, moves in ((tmp_path / "at", least, True), (tmp_path, least - JUST, False)):
        (group,) = find_duplicates(index_of(place, cosine), kind, threshold=0.9).groups
        (move,) = moves_of(group, least)
        assert move.moves is moves
        assert not moves_of(group)[0].moves
