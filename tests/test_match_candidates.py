"""Which rows a query is compared with: by the votes of its points, and by where their neighbours are."""

import numpy as np
import pytest
from scenes import scene

pytest.importorskip("cv2")

from clipdex.features import geometry, matching, transforms
from clipdex.features.candidates import likely, votes
from clipdex.features.copies import Copies, nearest_apart
from clipdex.features.decision import Rule
from clipdex.features.geometry import fit, roughly_agreeing
from clipdex.features.matching import matches
from clipdex.features.neighbours import POINTS_A_ROW, Exact, numbered
from clipdex.features.pairs import Pairs
from clipdex.looks.local_features import LocalFeatures, extract

POINTS = 30


def test_a_copy_of_the_query_does_not_hide_the_next_rows():
    """A copy's points are as near as can be; those of what it was cut from are hardly nearer than others'."""
    rows = [7, 3, 0, 1, 2, 4]
    ids = np.array([[row * POINTS_A_ROW + point for row in rows] for point in range(40)])
    distances = np.broadcast_to(np.array([0.0, 0.97, 0.999, 0.9995, 0.9999, 1.0]), ids.shape) * 1e5
    assert votes((distances, ids)).tolist() == [7, 3, 0, 1]


def test_a_point_votes_once_for_a_row_and_dead_rows_have_no_votes():
    ids = np.array([[0, 1, POINTS_A_ROW], [POINTS_A_ROW + 1, 5, -1]])
    distances = np.array([[1, 1, 4], [1, 2, np.inf]], np.float32)
    assert votes((distances, ids)).tolist() == [1, 0] or votes((distances, ids)).tolist() == [0, 1]
    assert votes((distances, ids), np.array([True, False])).tolist() == [0]
    assert votes((distances, np.full_like(ids, -1))).tolist() == []


def scattered(seed, points=POINTS):
    """Features of points anywhere in a picture; their descriptors are all alike."""
    rng = np.random.default_rng([9, seed])
    return LocalFeatures(
        rng.uniform(0, 300, (points, 2)).astype(np.float32),
        rng.uniform(3, 12, points).astype(np.float32),
        rng.uniform(-3, 3, points).astype(np.float32),
        np.zeros((points, 128), np.uint8),
        (300, 300),
    )


def changed(features, zoom, turn, some):
    """The same picture, larger and turned; of its points, only the first few are where they should be."""
    held = scattered(99)
    c, s = zoom * np.cos(turn), zoom * np.sin(turn)
    moved = features.points @ np.array([[c, s], [-s, c]], np.float32) + 20
    there = np.arange(len(features)) < some
    return LocalFeatures(
        np.where(there[:, None], moved, held.points).astype(np.float32),
        np.where(there, features.scales * np.float32(zoom), held.scales),
        np.where(there, features.angles + np.float32(turn), held.angles),
        features.descriptors,
        features.size,
    )


class Rows:
    """The features of rows, by their number."""

    def __init__(self, held):
        self.held, self.read = held, []

    def of(self, row):
        self.read.append(row)
        return self.held[row]


def test_points_agree_that_lie_to_each_other_as_their_neighbours_do_and_count_once_a_place():
    query = scattered(0)
    same = Pairs(np.arange(POINTS), np.arange(POINTS))
    assert roughly_agreeing(query, changed(query, 1.3, 0.6, 12), same) >= 12
    assert roughly_agreeing(query, scattered(1), same) <= 2
    query.points[:12] = query.points[0]
    assert roughly_agreeing(query, changed(query, 1.3, 0.6, 12), same) <= 2
    assert roughly_agreeing(query, query, Pairs(np.arange(0), np.arange(0))) == 0


def test_no_transform_is_fitted_to_fewer_points_than_can_come_to_the_least(monkeypatch):
    fitted = []
    plain = transforms.fitted
    monkeypatch.setattr(geometry, "fitted", lambda *given: fitted.append(given) or plain(*given))
    query = scattered(0)
    same = Pairs(np.arange(POINTS), np.arange(POINTS))
    for there, least, tried in ((5, 8, False), (5, 4, True), (7, 8, True), (7, 12, False)):
        fitted.clear()
        found = geometry.fit(query, changed(query, 1.3, 0.6, there), same, rule=Rule(0.0), least=least)
        assert bool(fitted) == tried, there
        assert (found is not None) == (tried and there >= least)
    few = Pairs(np.arange(7), np.arange(7))
    monkeypatch.setattr(geometry, "_hypotheses", lambda *_: pytest.fail("there are too few pairs"))
    assert geometry.fit(query, query, few, least=8) is None


def test_after_the_first_two_only_rows_are_compared_whose_points_lie_as_the_querys_do():
    query = scattered(0)
    rows = Rows([scattered(n) for n in range(1, 9)])
    rows.held[6] = changed(query, 0.8, 2.0, 8)
    order = [5, 4, 3, 2, 1, 0, 7, 6]
    ids = np.array([[row * POINTS_A_ROW + point for row in range(8)] for point in range(POINTS)])
    assert [row for row, _ in likely(query, ids, order, rows)] == [5, 4, 6]
    assert [row for row, _ in likely(query, ids[:, :6], order, rows)] == [5, 4]
    assert rows.read[-6:] == order[:6]  # two with no neighbours need not be read


def test_neighbours_that_a_row_does_not_have_and_rows_without_features_do_not_matter():
    query = scattered(0)
    rows = Rows([changed(query, 1.0, 0.1, POINTS), None, scattered(2), scattered(3), scattered(4), scattered(5)])
    ids = np.array([[row * POINTS_A_ROW + point for row in range(6)] + [-1] for point in range(POINTS)])
    ids[:, 0] += 1000
    order = [1, 2, 3, 4, 5, 0]
    assert [row for row, _ in likely(query, ids, order, rows)] == [2]
    ids[:9, 0] -= 1000
    assert [row for row, _ in likely(query, ids, order, rows)] == [2, 0]


def pool(held):
    """The features of rows, as neighbours and by their number."""
    rows = np.concatenate([np.full(len(each), row) for row, each in enumerate(held)])
    return Exact([numbered(rows, np.concatenate([each.descriptors for each in held]))]), Rows(held)


@pytest.mark.parametrize("copies", [1, 6, 40])
def test_copies_of_a_picture_hide_no_match_and_are_all_found(copies):
    """Their votes are those of one, and they take up the place of one among the neighbours."""
    others = [extract(scene(n, (160, 120)), most=100) for n in range(4)]
    whole = extract(scene(17, (160, 120)), most=100)
    part = extract(scene(17, (160, 120)).crop((20, 10, 130, 100)).resize((150, 123)), most=60)
    neighbours, rows = pool([*others, *[whole] * copies, part, others[0]])
    found = matches(neighbours, rows, whole, 100)
    assert [each.row for each in found] == [*range(4, 4 + copies), 4 + copies]
    assert len({each.fit.inliers for each in found[:copies]}) == 1
    live = np.ones(6 + copies, np.bool_)
    live[4] = False
    found = matches(neighbours, rows, whole, 3, live=live)
    assert [each.row for each in found] == list(range(5, 5 + copies))[:3]


def test_neighbours_of_copies_are_those_that_are_found_without_them():
    held = [extract(scene(n, (160, 120)), most=100) for n in range(8)]
    query = extract(scene(17, (160, 120)), most=100).descriptors
    alone, _ = pool(held)
    distances, ids = alone.search(query, 12)
    crowded, _ = pool([*held, *[each for each in held for _ in range(30)]])
    found = nearest_apart(crowded, query, 12, Copies.alike, Copies().one_id)
    assert np.array_equal(found[0], distances) and np.array_equal(found[1], ids)
    crowded, _ = pool([held[0]] * 500)
    _, ids = nearest_apart(crowded, query[:5], 12, Copies.alike, Copies().one_id)
    assert ((ids // POINTS_A_ROW)[:, :2] == 0).all() and (ids[:, 2:] == -1).all()  # 768 are two points of 500 rows


def test_what_only_looks_like_a_copy_by_the_points_found_is_compared_on_its_own():
    rng = np.random.default_rng(8)
    whole, half = (extract(scene(n, (160, 120)), most=100) for n in (17, 18))
    for each in (whole, half):
        each.descriptors[12:] = rng.integers(200, 256, each.descriptors[12:].shape)
    half.descriptors[:12] = whole.descriptors[:12]
    half.points[:12], half.scales[:12] = whole.points[:12] / 2 + 10, whole.scales[:12] / 2
    half.angles[:12] = whole.angles[:12]
    query = LocalFeatures(
        whole.points[:12], whole.scales[:12], whole.angles[:12], whole.descriptors[:12], whole.size
    )
    neighbours, rows = pool([whole, half])
    copies = Copies()
    copies.one_id(neighbours.search(query.descriptors, 12))
    assert copies.of(0) == [1]
    found = matches(neighbours, rows, query, 5, rule=Rule(0.0), min_inliers=5)
    zooms = {each.row: round(float(each.fit.transform[0, 0]), 2) for each in found}
    assert zooms == {0: 1.0, 1: 0.5}


def test_rows_that_have_another_point_found_or_are_left_out_are_no_copies():
    ids = np.array([[row * POINTS_A_ROW + point for row in range(4)] + [-1] for point in range(5)])
    distances = np.tile(np.array([1, 1, 1, 1, np.inf], np.float32), (5, 1)) * 10
    distances[:, 3] = 20  # the farthest, of which some may not have been found

    def copies_of(row, live=None):
        copies = Copies(live)
        copies.one_id((distances, ids))
        return copies.of(row)

    assert copies_of(0) == [1, 2]
    assert copies_of(0, np.array([True, False, True, True])) == [2]
    assert copies_of(1, np.array([False, True, True, True])) == [2]
    ids[4, 2] += 1
    assert copies_of(0) == [1]
    ids[:, 1] = -1
    assert copies_of(0) == []


def test_a_picture_that_is_not_there_is_compared_with_few_and_one_that_is_with_its_own(monkeypatch):
    compared = 0

    def counting(*given, **options):
        nonlocal compared
        compared += 1
        return fit(*given, **options)

    monkeypatch.setattr(matching, "fit", counting)
    held = [extract(scene(n, (160, 120)), most=100) for n in range(40)]
    neighbours, _ = pool(held)
    assert matches(neighbours, Rows(held), extract(scene(50, (160, 120)), most=100), 1) == []
    assert 4 <= compared <= 12  # of 64: 32 as it is, 32 mirrored
    crop = extract(scene(17, (160, 120)).crop((20, 10, 130, 100)))
    assert [each.row for each in matches(neighbours, Rows(held), crop, 1)] == [17]
