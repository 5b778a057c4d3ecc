"""Finding duplicates: what counts as one, which is kept, and that a chain is no group."""

import json
import os
import re
import shutil
import sqlite3
import tarfile
import tracemalloc

import numpy as np
import pytest
from conftest import unit_vectors
from PIL import Image, ImageDraw

import clipdex
from clipdex.apps.duplicates import cells, find, find_duplicates, groups, projection, sign_index
from clipdex.apps.duplicates.candidate_pairs import candidate_pairs
from clipdex.apps.duplicates.groups import close_pairs, components, stars
from clipdex.apps.duplicates.projection import projection_of
from clipdex.index import Index, IndexWriter, Manifest, Picture, verify_index
from clipdex.looks.compare import similarities
from clipdex.looks.frequencies import Looks
from clipdex.looks.signature import perceptual_signature
from clipdex.search.cosines import agree
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


def scene(seed, size=(320, 240)):
    """Things of many colours before a slope."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.uniform(0, 1, 2) * size
        r = rng.uniform(0.06, 0.2) * min(size)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image


def trimmed(image, left, top, share=0.05):
    """Without this share of its width and height, of which `left` and `top` say how much on these sides."""
    width, height = image.size
    x, y = round(width * share * left), round(height * share * top)
    return image.crop((x, y, x + round(width * (1 - share)), y + round(height * (1 - share))))


def draw(made):
    """Six scenes, with copies of the first three."""
    (made / "copies").mkdir(parents=True)
    for i in range(6):
        scene(i).save(made / f"{i}.png")
    (made / "copies" / "same.png").write_bytes((made / "0.png").read_bytes())
    scene(0).resize((160, 120)).save(made / "copies" / "small.png")
    scene(1).save(made / "copies" / "worse.jpg", quality=40)
    trimmed(scene(2), 1, 0.5).save(made / "copies" / "trimmed.png")
    for age, path in enumerate(sorted(made.rglob("*.*"))):
        os.utime(path, (10**9 + age, 10**9 + age))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder and its index, for tests that change neither."""
    place = tmp_path_factory.mktemp("drawn")
    draw(place / "photos")
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, place / "photos", place / "x.clipdex", workers=1)
    return place


@pytest.fixture
def index(drawn):
    return drawn / "x.clipdex"


@pytest.fixture
def own(drawn, tmp_path):
    """An index of the same folder, to be changed."""
    shutil.copytree(drawn / "x.clipdex", tmp_path / "own.clipdex")
    return tmp_path / "own.clipdex"


def named(groups):
    """Keeper -> its duplicates and how they are related, by their names."""
    return {
        os.path.basename(group.keeper.path): {os.path.basename(o.path): o.relation for o in group.others}
        for group in groups
    }


def test_the_same_bytes(index):
    found = find_duplicates(index, "exact")
    assert named(found.groups) == {"0.png": {"same.png": "exact"}}
    assert (found.pictures, found.unsigned) == (10, 0)


def test_the_same_looks(index):
    assert named(find_duplicates(index).groups) == {
        "0.png": {"same.png": "exact", "small.png": "near"},
        "1.png": {"worse.jpg": "near"},
        "2.png": {"trimmed.png": "near"},
    }


def test_a_higher_threshold_finds_less(index):
    assert named(find_duplicates(index, threshold=1.0).groups) == {"0.png": {"same.png": "exact"}}


@pytest.mark.parametrize(
    ("kind", "threshold"), [("similar", None), ("near", 0), ("near", 1.5), ("exact", 0.9)], ids=str
)
def test_what_cannot_be_asked_for(index, kind, threshold):
    with pytest.raises(clipdex.InvalidArgument):
        find_duplicates(index, kind, threshold=threshold)


def test_an_empty_index_has_none(tmp_path):
    IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "demo", 4)).close()
    for kind in ("exact", "near", "semantic"):
        assert find_duplicates(tmp_path / "x", kind).groups == []


def test_dead_rows_are_no_duplicates(own, drawn):
    with IndexWriter(own) as writer:
        writer.remove(os.fsencode(drawn / "photos" / "copies" / "same.png"))
    assert "same.png" not in str(named(find_duplicates(own).groups))


# Which is kept


def written(tmp_path, pictures, vectors=None):
    vectors = unit_vectors(len(pictures), 8) if vectors is None else vectors
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "demo", 8, dtype="float32")) as writer:
        writer.append(pictures, vectors)
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("pictures", "kept"),
    [
        ([("/a", 10, 1), ("/b", 20, 2)], "/b"),  # the larger
        ([("/a", 10, 2), ("/b", 10, 1)], "/b"),  # the older
        ([("/long/a", 10, 1), ("/b", 10, 1)], "/b"),  # the shorter
        ([("/b", 10, 1), ("/a", 10, 1)], "/a"),  # the first by name, so that it is always the same
    ],
    ids=["larger", "older", "shorter", "first"],
)
def test_the_keeper(tmp_path, pictures, kept):
    rows = [Picture(path.encode(), 1, age, bytes(16), side, side) for path, side, age in pictures]
    (group,) = find_duplicates(written(tmp_path, rows), "exact").groups
    assert group.keeper.path == kept
    assert group.keeper.relation == "keeper" and [o.relation for o in group.others] == ["exact"]


# Groups


def test_components_hang_together():
    pairs = np.array([[0, 1], [1, 2], [5, 4], [7, 8], [8, 9], [9, 7]])
    assert [part.tolist() for part in components(pairs, 10)] == [[0, 1, 2], [4, 5], [7, 8, 9]]


def test_components_of_a_long_chain():
    order = np.random.default_rng(0).permutation(5000)
    pairs = np.stack([order[:-1], order[1:]], axis=1)
    (part,) = components(pairs, 5000)
    assert part.tolist() == list(range(5000))


def test_a_chain_is_cut_into_groups_around_its_best():
    def neighbours(one, others):
        return abs(others - one) <= 1

    assert [star.tolist() for star in stars(np.arange(7), neighbours)] == [[0, 1], [2, 3], [4, 5]]


def test_a_chain_of_vectors_is_no_group(tmp_path):
    """Each is close to the next, but the last far from the first."""
    angles = np.arange(5) * 0.25
    vectors = np.zeros((5, 8), dtype=np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    rows = [Picture(b"/%d" % i, 1, i, bytes([i] * 16), 9, 9) for i in range(5)]
    groups = find_duplicates(written(tmp_path, rows, vectors), "semantic", threshold=0.96).groups
    assert named(groups) == {"0": {"1": "semantic"}, "2": {"3": "semantic"}}


def test_the_similarity_of_vectors_is_their_cosine(tmp_path):
    vectors = unit_vectors(4, 8)
    vectors[3] = vectors[1] + 0.1 * vectors[0]
    vectors[3] /= np.linalg.norm(vectors[3])
    rows = [Picture(b"/%d" % i, 1, i, bytes([i] * 16), 9, 9) for i in range(4)]
    (group,) = find_duplicates(written(tmp_path, rows, vectors), "semantic").groups
    assert (group.keeper.row, group.others[0].row) == (1, 3)
    assert group.others[0].similarity == pytest.approx(float(vectors[1] @ vectors[3]), abs=1e-6)


@pytest.mark.parametrize("cosine", [0.999, pytest.param(0.995, marks=pytest.mark.slow)])
def test_close_pairs_hang_together_what_all_of_the_whole_product_do(cosine):
    rng = np.random.default_rng(3)
    vectors = unit_vectors(5000, 4, seed=1)
    rows = np.sort(rng.permutation(5000)[:4500])
    pairs = close_pairs(vectors, rows, cosine)
    near = np.triu(agree(vectors[rows] @ vectors[rows].T, cosine), 1)
    sets = components(np.argwhere(near), len(rows))
    assert [part.tolist() for part in components(pairs, len(rows))] == [part.tolist() for part in sets]
    assert near[tuple(np.sort(pairs).T)].all()
    assert len(pairs) == sum(len(part) - 1 for part in sets) > 100


def unit(vector):
    return vector / np.linalg.norm(vector)


def with_cells(monkeypatch, worth=np.inf):
    """Have few points be compared by cells."""
    monkeypatch.setattr(cells, "_FEWEST", 0)
    monkeypatch.setattr(cells, "_WORTH", worth)


@pytest.mark.parametrize(
    ("dim", "least", "most_near"),
    [
        (3, 0.9999, 1 << 24),
        (3, 0.99, 1000),  # in many passes
        (8, 0.9, 1 << 24),
        pytest.param(2, 0.99999, 1 << 24, marks=pytest.mark.slow),
        pytest.param(30, 0.6, 1 << 24, marks=pytest.mark.slow),
    ],
)
def test_two_close_points_are_in_one_cell_or_one_is_near_the_border_of_the_others(
    dim, least, most_near, monkeypatch
):
    with_cells(monkeypatch)
    monkeypatch.setattr(cells, "_MOST_NEAR", most_near)
    points = unit_vectors(2000, dim, seed=dim)
    points[:300] = points[300:600]
    points[0] = np.nan  # close to nothing
    centres = unit_vectors(100, dim, seed=9)
    monkeypatch.setattr(cells, "_centres", lambda *_: centres)
    # As far from each other as close ones may be, either side of the plane between two centres.
    half = np.arccos(least * (1 + 1e-6)) / 2
    for i in range(600, 1600, 2):
        one = centres[i % 100]
        other = centres[np.argsort(centres @ one)[-2 - i // 100 % 5]]
        middle, aside = unit(one + other), unit(one - other)
        points[i], points[i + 1] = (np.cos(half) * middle + side * np.sin(half) * aside for side in (1, -1))
    made = cells.cells_of(points, least, 1e-6)
    assert made is not None
    assert sorted(made.order.tolist()) == list(range(2000))
    compared = np.zeros((2000, 2000), np.bool_)
    for first, end, near in made.compared():
        assert not ((near >= first) & (near < end)).any()
        compared[first:end, first:end] = True
        compared[first:end, near] = True
    wide = points[made.order].astype(np.float64)
    close = wide @ wide.T >= least
    assert close.sum() > 2600
    assert (compared | compared.T)[close].all()
    assert compared.mean() < (0.9 if dim == 30 else 0.5)


def test_vectors_of_any_direction_are_not_cut_into_cells(monkeypatch):
    with_cells(monkeypatch, worth=cells._WORTH)
    # Projected on 64 of 512 directions: what is left out is as long for all.
    points = np.concatenate(
        [0.35 * unit_vectors(3000, 64, seed=1), np.full((3000, 1), 0.9367, np.float32)], axis=1
    )
    assert cells.cells_of(points, 0.95, 1e-6) is None


@pytest.mark.parametrize("cosine", [0.95, 0.9999])
@pytest.mark.parametrize(
    ("dtype", "by_cells"),
    [
        (np.float16, False),
        (np.float32, False),
        (np.float16, True),
        pytest.param(np.float32, True, marks=pytest.mark.slow),
    ],
)
def test_close_pairs_found_by_bounds_are_those_of_the_whole_product(cosine, dtype, by_cells, monkeypatch):
    """Vectors of few directions, of which a third are near another, many just at the threshold."""
    rng = np.random.default_rng(4)
    vectors = unit_vectors(3000, 64, seed=2) * np.geomspace(1, 0.02, 64, dtype=np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(2000, 3000):
        aside = unit_vectors(1, 64, seed=i)[0]
        aside -= (aside @ vectors[i - 2000]) * vectors[i - 2000]
        angle = np.arccos(cosine) * rng.choice([0, 0.5, 0.999, 1, 1.001, 1.1])
        vectors[i] = np.cos(angle) * vectors[i - 2000] + np.sin(angle) * aside / np.linalg.norm(aside)
    vectors = vectors[rng.permutation(3000)].astype(dtype)
    made = []
    monkeypatch.setattr(groups, "_BLOCK", 512)
    monkeypatch.setattr(groups, "_SMALL", 200)
    monkeypatch.setattr(groups, "projection_of", lambda *args: made.append(projection_of(*args)) or made[-1])
    parts = []
    if by_cells:
        with_cells(monkeypatch)
        monkeypatch.setattr(groups, "cells_of", lambda *args: parts.append(cells.cells_of(*args)) or parts[-1])
    pairs = close_pairs(vectors, np.arange(3000), cosine)
    assert made[0] is not None
    assert not by_cells or (parts[0] is not None and len(parts[0].centres) > 100)
    wide = vectors.astype(np.float64)
    wide = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    true = np.triu(wide @ wide.T, 1)
    set_of = np.arange(3000)
    for i, part in enumerate(components(pairs, 3000)):
        set_of[part] = 3000 + i
    sure, other = np.nonzero(true >= cosine)
    assert (set_of[sure] == set_of[other]).all()
    assert len(sure) > 300
    assert (true[tuple(np.sort(pairs).T)] >= cosine - 2e-6).all()  # 1e-6 is allowed for rounding
    assert len(pairs) == sum(len(part) - 1 for part in components(pairs, 3000))


def test_bounds_of_cosines_hold():
    """Also where they are tight: vectors that the directions hold whole, and copies."""
    vectors = unit_vectors(600, 40, seed=5)
    vectors[:300, 20:] = 0
    vectors[300:350] = vectors[:50]
    turns = np.linspace(0, np.pi, 200)
    vectors[400:] = 0
    vectors[400:, 0], vectors[400:, 1] = np.cos(turns), np.sin(turns)  # apart in the first direction
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for width in (16, 32):
        basis = np.linalg.qr(unit_vectors(40, 40, seed=width))[0][:, :width] if width == 32 else np.eye(40, 16)
        made = projection._projected(600, lambda rows: vectors[rows], basis.astype(np.float32))
        true = vectors[made.order].astype(np.float64) @ vectors[made.order].T
        bound = made.points.astype(np.float64) @ made.points.T
        assert (true <= bound + made.slack).all()
        assert made.slack < 1e-3
        for first in range(0, 600, 37):
            close = np.flatnonzero(bound[first] >= 0.9)
            assert close.max() < made.reach(first, 0.9)


def test_vectors_that_are_all_alike_take_no_more_memory_than_a_block():
    vectors = unit_vectors(6000, 4, seed=1) * 0.01 + np.eye(4, dtype=np.float32)[0]
    tracemalloc.start()
    pairs = close_pairs(vectors, np.arange(6000), 0.95)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) == 5999
    assert peak < 160e6  # the cosines of 4,096 × 4,096 have 67 MB, and all 18 million pairs would have 288


@pytest.mark.parametrize("by_cells", [False, True])
def test_of_vectors_that_are_all_alike_few_are_compared_once_they_are_known_to_be(by_cells, monkeypatch):
    aside = unit_vectors(5000, 64, seed=1)
    aside[:, 0] = 0
    vectors = 0.05 * aside + np.eye(64, dtype=np.float32)[0]
    seen = []
    near = groups._Forest._near
    monkeypatch.setattr(groups._Forest, "_near", lambda *args: seen.append(near(*args)) or seen[-1])
    monkeypatch.setattr(groups, "_SMALL", 256)
    monkeypatch.setattr(projection, "_cost", lambda *_: 0.0)  # as if it were worth it
    if by_cells:
        with_cells(monkeypatch)
    assert len(close_pairs(vectors, np.arange(5000), 0.95)) == 4999
    assert seen
    assert sum(len(i) for i, _ in seen) < 5000 * 300  # of 12,500,000 pairs


@pytest.mark.parametrize("step", [0, 0.25], ids=["one group", "a chain of many"])
def test_the_pictures_of_a_group_are_gone_through_once(tmp_path, monkeypatch, step):
    """The work that a hundred look-alikes make: as much as there are, not its square."""
    seen = []

    class Star(np.ndarray):
        def tolist(self):
            seen.extend(super().tolist())
            return super().tolist()

    monkeypatch.setattr(find, "stars", lambda *args: [star.view(Star) for star in stars(*args)])
    turns = np.arange(1, 101) * step
    vectors = np.zeros((100, 8), dtype=np.float32)
    vectors[:, 0], vectors[:, 1], vectors[:, 2] = np.cos(turns), np.sin(turns), turns
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [Picture(b"/%d" % i, 1, i, bytes([i] * 16), 9, 9) for i in range(100)]
    groups = find_duplicates(written(tmp_path, rows, vectors), "semantic", threshold=0.99).groups
    assert sum(map(len, groups)) == len(set(seen)) > 50
    assert (len(groups) == 1) == (step == 0)
    assert len(seen) <= 300


# Looks


def looks_of(images):
    sizes = np.array([image.size for image in images], dtype=np.int64)
    return Looks.of(b"".join(perceptual_signature(image) for image in images), sizes)


def similarity(one, other):
    looks = looks_of([one, other])
    return float(similarities(looks, np.array([0]), np.array([1]), 1.0)[0])


@pytest.mark.parametrize("left", [0, 0.3, 1])
@pytest.mark.parametrize("top", [0, 0.6, 1])
def test_a_trimmed_copy_is_found_wherever_it_was_trimmed(left, top):
    for seed in range(8):
        whole = scene(seed)
        part = trimmed(whole, left, top)
        assert similarity(whole, part) == similarity(part, whole) > 0.96


def test_others_are_told_apart():
    for seed in range(20):
        assert similarity(scene(seed), scene(seed + 100)) < 0.8


@pytest.mark.parametrize(
    "other",
    [
        scene(1).resize((320, 200)),
        scene(1).point(lambda value: value * 0.8),
        Image.merge("RGB", scene(1).split()[::-1]),
        scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        scene(1).rotate(90),
    ],
    ids=["another shape", "darker", "other colours", "mirrored", "turned"],
)
def test_these_are_no_copies(other):
    assert similarity(scene(1), other) < 0.9


def test_plain_pictures_are_not_compared():
    looks = looks_of([Image.new("RGB", (60, 40), (200, 200, 200 + i % 2)) for i in range(20)])
    assert looks.plain.all()
    assert len(candidate_pairs(looks)) == 0


def test_candidates_hold_what_a_comparison_of_all_pairs_finds():
    """Banding loses nothing here: 60 scenes, each with a copy, compared all with all."""
    images = [scene(i) for i in range(60)]
    images += [trimmed(scene(i), i % 3 / 2, i % 5 / 4).resize((200 + i, 150 + i)) for i in range(60)]
    looks = looks_of(images)
    one, other = np.triu_indices(120, 1)
    all_alike = np.flatnonzero(similarities(looks, one, other, 0.96) >= 0.96)
    wanted = set(zip(one[all_alike].tolist(), other[all_alike].tolist(), strict=True))
    found = {tuple(pair) for pair in candidate_pairs(looks).tolist()}
    assert len(wanted) >= 60
    assert wanted <= found
    assert len(found) < 500


def test_thousands_that_look_exactly_the_same_are_one_group(tmp_path):
    signature = perceptual_signature(scene(0))
    rows = [Picture(b"/%05d" % i, 1, i, i.to_bytes(16, "big"), 640, 480, None, signature) for i in range(3000)]
    (group,) = find_duplicates(written(tmp_path, rows), "near").groups
    assert group.keeper.row == 0 and len(group) == 3000


# Rows without a signature


def unsigned(index):
    db = sqlite3.connect(index / "rows.sqlite")
    db.execute("DROP TABLE phashes")
    db.close()


def test_rows_without_a_signature_are_counted_and_compared_by_their_bytes(own):
    unsigned(own)
    found = find_duplicates(own)
    assert found.unsigned == 10
    assert named(found.groups) == {"0.png": {"same.png": "exact"}}


@pytest.mark.slow
def test_signing_reads_the_files_again(fake, tmp_path):
    draw(tmp_path / "photos")
    index = tmp_path / "x.clipdex"
    clipdex.index_pictures(fake, tmp_path / "photos", index, workers=1)
    whole = find_duplicates(index).groups
    unsigned(index)
    (tmp_path / "photos" / "5.png").unlink()
    scene(77).save(tmp_path / "photos" / "4.png")
    signed = sign_index(index, workers=1)
    assert (signed.signed, signed.left) == (8, 2)
    assert not verify_index(index).damages
    found = find_duplicates(index)
    assert found.unsigned == 2
    assert named(found.groups) == named(whole)
    assert sign_index(index, workers=1).signed == 0


@pytest.mark.slow
def test_signing_reaches_into_tars(fake, drawn, tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for path in sorted((drawn / "photos").rglob("*.png")):
            tar.add(path, path.name)
    index = tmp_path / "t.clipdex"
    clipdex.index_pictures(fake, tmp_path / "t.tar", index, workers=1)
    whole = named(find_duplicates(index).groups)
    unsigned(index)
    assert sign_index(index, workers=1).left == 0
    assert named(find_duplicates(index).groups) == whole != {}


# The command


def test_the_command_lists(run, index, drawn, monkeypatch):
    pytest.importorskip("typer")
    before = sorted(drawn.rglob("*.*"))
    monkeypatch.chdir(drawn)
    status, out, err = run("duplicates", index)
    assert (status, err) == (0, "")
    assert "keep photos/1.png (320 × 240, " in out
    assert "photos/copies/same.png" in out and "— same bytes" in out and "— near 0." in out
    assert "worse.jpg (320 × 240, " in out and out.count("; stays\n") == 3
    *_, counted, moving = out.splitlines()
    assert counted.startswith("3 groups among 10 pictures: 4 duplicates, ")
    assert moving.startswith("--move-to FOLDER would move 1 of them, those with the same bytes;")
    assert "--min-cosine" in moving
    assert sorted(drawn.rglob("*.*")) == before


def test_the_command_in_json(run, index):
    pytest.importorskip("typer")
    status, out, _ = run("duplicates", index, "--json", "--kind", "exact")
    assert status == 0
    (group,) = json.loads(out)
    assert group["keeper"]["path"].endswith("0.png")
    (other,) = group["duplicates"]
    assert (other["relation"], other["cosine"], other["stays"]) == ("exact", 1.0, None)


def test_the_command_in_json_says_why_a_look_alike_would_stay(run, index):
    pytest.importorskip("typer")
    status, out, _ = run("duplicates", index, "--json", "--min-cosine", "0.99")
    assert status == 0
    near = [other for group in json.loads(out) for other in group["duplicates"] if other["relation"] == "near"]
    assert len(near) == 3
    for other in near:
        assert re.fullmatch(r"the cosine to its keeper is -?0\.\d{6}, below 0\.99", other["stays"])
        assert -1 <= other["cosine"] < 0.99


def test_the_command_draws_a_contact_sheet(run, index, tmp_path):
    pytest.importorskip("typer")
    run("duplicates", index, "--html", tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<img ") == 7
    assert page.count('href="file:///') == 7
    assert page.count(">keep<") == page.count("<section>") == 3
    assert page.count(", same bytes<") == 1
    assert len(re.findall(r", near [01]\.\d{3}, cosine -?[01]\.\d{4}<", page)) == 3
    run("duplicates", index, "--html", tmp_path / "sheet.html", "--no-links")
    assert "href" not in (tmp_path / "sheet.html").read_text()


def test_the_command_signs(run, own):
    pytest.importorskip("typer")
    unsigned(own)
    _, out, err = run("duplicates", own)
    assert "10 of 10 pictures have no perceptual hash" in err and "--hash" in err
    _, out, err = run("duplicates", own, "--hash")
    assert err == "10 pictures were read\n"
    assert "3 groups" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is no index"),
        (["X", "--undo", "j"], "give it alone"),
        (["X", "--threshold", "2"], "the threshold is 2"),
        (["X", "--min-cosine", "1.5"], "the minimum cosine for a move is 1.5"),
        (["X", "--min-cosine", "nan"], "the minimum cosine for a move is nan"),
        (["X", "--kind", "exact", "--min-cosine", "0.9"], "--kind exact moves all"),
    ],
    ids=["no index", "undo and index", "threshold", "cosine", "no number", "cosine of exact"],
)
def test_mistakes_are_one_sentence(run, index, words, said):
    pytest.importorskip("typer")
    status, out, err = run("duplicates", *(index if word == "X" else word for word in words))
    assert (status, out) == (1, "")
    assert err.startswith("clipdex: ") and said in err and err.count("\n") == 1


def test_an_open_index_can_be_given(index):
    with Index.open(index) as opened:
        assert len(find_duplicates(opened).groups) == 3
