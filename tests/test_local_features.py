"""Local features: what is found in a picture, and what comes back from bytes."""

import numpy as np
import pytest
from conftest import noise
from PIL import Image, ImageDraw

import clipdex
from clipdex.looks.local_features import KINDS, LocalFeatures, Recipe, extract

pytest.importorskip("cv2")

KIND = pytest.mark.parametrize("kind", KINDS)


def scene(seed: int, size: tuple[int, int] = (320, 240), things: int = 40) -> Image.Image:
    """Discs and boxes of many colours and sizes: corners and edges everywhere."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(c) for c in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    for i in range(things):
        x, y = rng.uniform(0, 1, 2) * size
        r, s = rng.uniform(0.02, 0.12, 2) * min(size)
        draw = pen.ellipse if i % 2 else pen.rectangle
        draw((x - r, y - s, x + r, y + s), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image


def same(a: LocalFeatures, b: LocalFeatures) -> bool:
    names = ("points", "scales", "angles", "descriptors")
    return a.size == b.size and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@KIND
def test_features_are_arrays_of_the_stated_shapes_and_units(kind):
    found = extract(scene(1), kind=kind, most=100)
    assert 50 < len(found) <= 100 and found.size == (320, 240)
    assert found.points.shape == (len(found), 2) and found.points.dtype == np.float32
    assert (found.scales.shape, found.angles.shape) == ((len(found),), (len(found),))
    assert found.descriptors.shape == (len(found), KINDS[kind]) and found.descriptors.dtype == np.uint8
    assert np.all(found.points >= -0.5) and np.all(found.points <= np.array([320, 240]))
    assert np.all(found.angles >= 0) and np.all(found.angles < 6.2832) and np.all(found.scales > 0)


@KIND
def test_the_same_picture_gives_the_same_features_and_bytes_give_them_back(kind):
    found = extract(scene(1), kind=kind, most=60)
    assert same(found, extract(scene(1), kind=kind, most=60))
    assert same(found, LocalFeatures.from_bytes(found.to_bytes(), KINDS[kind]))
    for wrong in (b"", found.to_bytes()[:-1], found.to_bytes() + b"\0"):
        with pytest.raises(ValueError, match=r"header|expected"):
            LocalFeatures.from_bytes(wrong, KINDS[kind])


def test_rootsift_has_the_norm_of_a_root_of_shares():
    norms = np.linalg.norm(extract(scene(1), most=100).descriptors.astype(float), axis=1)
    assert np.all(np.abs(norms - 512) < 8)


@pytest.mark.slow
def test_points_are_in_pixels_of_the_full_picture_however_small_it_was_made():
    """Two discs in a large picture: their centres are found where they are, whatever `side` is."""
    image = Image.new("RGB", (1600, 1200), (40, 40, 40))
    pen = ImageDraw.Draw(image)
    for x, y in ((400, 300), (1200, 900)):
        pen.ellipse((x - 60, y - 60, x + 60, y + 60), fill=(230, 230, 230))
    for given, size in ((image, None), (image.resize((800, 600)), (1600, 1200))):
        for side in (400, 800):
            found = extract(given, side=side, size=size)
            assert found.size == (1600, 1200)
            for x, y in ((400, 300), (1200, 900)):
                nearest = np.abs(found.points - (x, y)).max(axis=1).min()
                assert nearest < 3, (side, size, nearest)


@pytest.mark.slow
def test_points_are_spread_so_that_a_weak_part_has_its_share():
    """A loud left half and a faint right half: the strongest points alone would all be on the left."""
    loud, faint = np.asarray(noise(1, (240, 240))), np.asarray(scene(2, (240, 240)), np.float32)
    faint = (128 + (faint - 128) * 0.35).astype(np.uint8)
    found = extract(Image.fromarray(np.hstack([loud, faint])), most=100)
    assert np.sum(found.points[:, 0] > 240) >= 5


@KIND
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (12, 12), (13, 900), (40, 30)])
def test_a_picture_of_any_size_is_taken(kind, size):
    assert extract(noise(0, size), kind=kind).size == size


@KIND
def test_a_blank_picture_has_no_features(kind):
    found = extract(Image.new("RGB", (200, 100), (7, 7, 7)), kind=kind)
    assert len(found) == 0 and found.descriptors.shape == (0, KINDS[kind])
    assert same(found, LocalFeatures.from_bytes(found.to_bytes(), KINDS[kind]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "surf"}, "kind is 'surf'; expected sift or orb"),
        ({"most": 0}, "most is 0; expected a whole number from 1 to 10,000"),
        ({"most": 10_001}, "most is 10001; expected a whole number from 1 to 10,000"),
        ({"side": 10}, "side is 10; expected a whole number from 64 to 4,096"),
        ({"side": True}, "side is True; expected a whole number from 64 to 4,096"),
    ],
)
def test_a_recipe_out_of_range_is_refused_in_one_sentence(wrong, said):
    for use in (lambda: Recipe(**wrong), lambda: extract(noise(0), **wrong)):
        with pytest.raises(clipdex.InvalidArgument) as caught:
            use()
        assert str(caught.value) == said


def test_another_kind_is_made_at_its_own_size_unless_one_is_given():
    """Of the numbers a caller leaves out, only the size differs by kind; what an index has is kept."""
    assert Recipe().but("orb", None, None) == Recipe("orb", 500, 1024)
    assert Recipe("sift", 60, 1024).but("sift", None, None) == Recipe("sift", 60, 1024)
    assert Recipe("orb", 60, 1024).but("sift", 70, None) == Recipe("sift", 70, 640)
    assert Recipe().but("orb", None, 300).side == 300
    large = noise(3, (1300, 200))
    for kind, side in (("sift", 640), ("orb", 1024)):
        assert same(extract(large, kind=kind, most=50), extract(large, kind=kind, most=50, side=side))
        assert not same(extract(large, kind=kind, most=50), extract(large, kind=kind, most=50, side=side - 100))
