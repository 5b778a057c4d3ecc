"""Duplicates of the kind local: crops and collages in groups, with which region of which."""

import json
import os

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2")

from scenes import scene

import clipdex
from clipdex.apps.duplicates import find_duplicates, local_pairs, moves_of
from clipdex.client.client import Client
from clipdex.features import geometry, matching
from clipdex.features.build_neighbours import build_neighbours
from clipdex.features.transforms import area, overlap
from clipdex.pipeline.build_features import build_features
from clipdex.testing import FakeTransport


def drawn(folder):
    """Six scenes; a collage of the first two, a crop of the third, one turned, one mirrored, a copy."""
    folder.mkdir()
    for n in range(6):
        scene(n).save(folder / f"{n}.png")
    both = Image.new("RGB", (640, 240))
    both.paste(scene(0), (0, 0))
    both.paste(scene(1), (320, 0))
    both.save(folder / "collage.png")
    scene(2).crop((80, 60, 240, 200)).save(folder / "crop.jpg", quality=70)
    turned = scene(3).rotate(25, Image.Resampling.BICUBIC, expand=True)
    turned.crop((90, 80, 290, 260)).save(folder / "turned.png")
    scene(4).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((240, 180)).save(folder / "mirrored.png")
    (folder / "same.png").write_bytes((folder / "5.png").read_bytes())
    for age, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (10**9 + age, 10**9 + age))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    place = tmp_path_factory.mktemp("local")
    drawn(place / "pictures")
    clipdex.index_pictures(Client(FakeTransport()), place / "pictures", place / "x.clipdex", workers=1)
    build_features(place / "x.clipdex", workers=1)
    return place / "x.clipdex"


def groups_of(found):
    """Keeper -> its duplicates, by their names."""
    return {
        os.path.basename(group.keeper.path): {os.path.basename(each.path): each for each in group.others}
        for group in found.groups
    }


def names(groups):
    return {keeper: {name: each.relation for name, each in others.items()} for keeper, others in groups.items()}


EXPECTED = {
    "collage.png": {"0.png": "local", "1.png": "local"},
    "2.png": {"crop.jpg": "local"},
    "3.png": {"turned.png": "local"},
    "4.png": {"mirrored.png": "local"},
    "5.png": {"same.png": "exact"},
}


def box(corners):
    return np.round([*np.min(corners, axis=0), *np.max(corners, axis=0)], 2).tolist()


@pytest.mark.slow
def test_crops_collages_and_mirrored_pictures_are_in_groups_with_which_region_of_which(index):
    seen = []
    found = find_duplicates(index, "local", progress=lambda *each: seen.append(each))
    groups = groups_of(found)
    assert names(groups) == EXPECTED
    left, right = (groups["collage.png"][name].placement for name in ("0.png", "1.png"))
    assert np.allclose(box(left.of_keeper), (0, 0, 0.5, 1), atol=0.02)
    assert np.allclose(box(right.of_keeper), (0.5, 0, 1, 1), atol=0.02)
    assert np.allclose(box(left.of_duplicate), (0, 0, 1, 1), atol=0.02)
    crop = groups["2.png"]["crop.jpg"].placement
    assert np.allclose(box(crop.of_keeper), (0.25, 0.25, 0.75, 0.83), atol=0.02)
    assert not crop.mirrored and crop.points >= 8
    flipped = groups["4.png"]["mirrored.png"]
    assert flipped.placement.mirrored and 0 < flipped.similarity <= 1
    # Corresponding corners follow each other: left is right.
    here, there = np.array(flipped.placement.of_keeper), np.array(flipped.placement.of_duplicate)
    assert np.allclose(here[:, 0], 1 - there[:, 0], atol=0.05)
    assert groups["5.png"]["same.png"].placement is None
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_many_copies_of_a_picture_and_of_its_crop_are_one_group(tmp_path):
    """As many as a point has neighbours, so that neither would find anything but its own copies."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    scene(2).save(folder / "0.png")
    scene(2).crop((80, 60, 240, 200)).save(folder / "crop-0.png")
    scene(3).save(folder / "other.png")
    for n in range(1, 13):
        for name in ("", "crop-"):
            (folder / f"{name}{n}.png").write_bytes((folder / f"{name}0.png").read_bytes())
    clipdex.index_pictures(Client(FakeTransport()), folder, tmp_path / "x.clipdex", workers=1)
    build_features(tmp_path / "x.clipdex", workers=1)
    (others,) = groups_of(find_duplicates(tmp_path / "x.clipdex", "local")).values()
    assert len(others) == 25 and "other.png" not in others


@pytest.mark.slow
def test_local_duplicates_that_are_not_the_same_bytes_never_move(index):
    found = find_duplicates(index, "local")
    for group in found.groups:
        for move in moves_of(group, 0.01):
            assert move.moves == (move.picture.relation == "exact")


@pytest.mark.slow
def test_a_file_of_neighbours_finds_the_same_groups(index, tmp_path):
    import shutil

    pytest.importorskip("faiss")
    own = tmp_path / "x.clipdex"
    shutil.copytree(index, own)
    assert build_neighbours(own, fewest=1).file_bytes
    assert names(groups_of(find_duplicates(own, "local"))) == EXPECTED


@pytest.mark.slow
def test_many_pictures_without_a_file_of_neighbours_are_refused_and_not_compared_with_all(index, monkeypatch, run):
    monkeypatch.setattr(local_pairs, "FEWEST", 100)
    with pytest.raises(clipdex.IndexFault, match=r"11 pictures are in no file of neighbours.*features build"):
        find_duplicates(index, "local")
    status, out, err = run("duplicates", index, "--kind", "local")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.slow
def test_each_picture_is_compared_with_a_bounded_number_of_others(index, monkeypatch):
    monkeypatch.setattr(local_pairs, "_COMPARED", 1)
    compared = []
    plain = geometry.fit

    def counting(*given, **options):
        compared.append(given)
        return plain(*given, **options)

    monkeypatch.setattr(matching, "fit", counting)
    assert names(groups_of(find_duplicates(index, "local"))) == EXPECTED
    assert 5 <= len(compared) <= 2 * 10  # of 45 pairs, as they are and mirrored


@pytest.mark.slow
def test_the_command_lists_draws_and_has_in_json_which_region_of_which(index, run, tmp_path):
    html = tmp_path / "sheet.html"
    status, out, err = run("duplicates", index, "--kind", "local", "--html", html)
    assert status == 0, err
    lines = out.splitlines()
    (line,) = [line for line in lines if "0.png" in line]
    assert "points agree; all is 0-50 % × 0-100 % of the one to keep; stays" in line
    assert "mirrored; all is all of the one to keep" in next(each for each in lines if "mirrored.png" in each)
    assert "those with the same bytes; crops and collages stay" in lines[-1]
    # Both parts on the collage, and one region on each other picture of the four groups.
    assert html.read_text().count('<polygon class="seen"') == 2 + 2 + 3 * 2
    status, out, err = run("duplicates", index, "--kind", "local", "--json")
    groups = {os.path.basename(group["keeper"]["path"]): group for group in json.loads(out)}
    (crop,) = groups["2.png"]["duplicates"]
    assert crop["relation"] == "local" and crop["stays"] and crop["placement"]["mirrored"] is False
    assert np.shape(crop["placement"]["of_keeper"]) == (4, 2) and "placement" not in groups["2.png"]["keeper"]
    status, out, err = run("duplicates", index, "--kind", "local", "--min-cosine", "0.9")
    assert (status, out) == (1, "") and "local ones never move" in err


@pytest.mark.slow
def test_the_server_lists_them_with_which_region_of_which(index):
    pytest.importorskip("fastapi")
    from web_server import answering, settings_of

    with answering(settings_of(index)) as web:
        found = web.get("/v1/duplicates", params={"kind": "local"}).json()
    assert found["total"] == len(EXPECTED)
    groups = {group["pictures"][0]["name"]: group["pictures"][1:] for group in found["groups"]}
    placements = {each["name"]: each["placement"] for each in groups["collage.png"]}
    assert np.allclose(box(placements["1.png"]["of_keeper"]), (0.5, 0, 1, 1), atol=0.02)
    assert [each["placement"] for each in groups["5.png"]] == [None]


def test_the_overlap_of_two_pictures_is_the_region_that_both_show():
    shift = np.array([[1, 0, 60], [0, 1, -40], [0, 0, 1]], np.float64)
    region = overlap(shift, (100, 100), (120, 80))
    assert box(region) == [59.5, -0.5, 119.5, 59.5] and area(region) == 3600
    assert len(overlap(shift, (100, 100), (50, 50))) == 0 and area(np.empty((0, 2))) == 0
    behind = np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]], np.float64)
    assert len(overlap(behind, (100, 100), (100, 100))) == 0
