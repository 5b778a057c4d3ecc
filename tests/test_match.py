"""Matching by local features: what is found of copies, what is not made up, and the file of neighbours."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import present, unit_vectors
from PIL import Image, ImageDraw
from scenes import scene

pytest.importorskip("cv2")

import clipdex
from clipdex.cli import connection_options as connection
from clipdex.client.client import Client
from clipdex.features import Matcher, build_neighbours, match, matching
from clipdex.features.build_neighbours import FEWEST, write_lists
from clipdex.features.decision import PARTS, SAME, Fit
from clipdex.features.geometry import fit
from clipdex.features.matching import mirrored
from clipdex.features.neighbour_file import FOOTER_BYTES, NEIGHBOURS_FILE, NeighbourFooter
from clipdex.features.neighbours import POINTS_A_ROW, nearest, numbered
from clipdex.features.pairs import numbers
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import extract
from clipdex.pipeline.build_features import build_features
from clipdex.testing import FakeTransport


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Six scenes, indexed with their local features."""
    place = tmp_path_factory.mktemp("match")
    (place / "pictures").mkdir()
    for n in range(6):
        scene(n).save(place / "pictures" / f"{n}.png")
    clipdex.index_pictures(Client(FakeTransport()), place / "pictures", place / "x.clipdex", workers=1)
    build_features(place / "x.clipdex", workers=1)
    return place / "x.clipdex"


def name(found):
    return os.path.basename(found.path)


def test_a_crop_is_found_with_its_region_and_the_transform_that_maps_it(index):
    crop = scene(2).crop((80, 60, 240, 200))
    with clipdex.Index.open(index) as opened:
        (found,) = match(opened, crop)
    assert name(found) == "2.png" and found.inliers >= 20
    assert np.abs(found.verified.region - [(79.5, 59.5), (239.5, 59.5), (239.5, 199.5), (79.5, 199.5)]).max() < 1.5
    assert np.abs(found.verified.fractions[2] - (240 / 320, 200 / 240)).max() < 0.01
    assert np.abs(found.verified.transform - [[1, 0, 80], [0, 1, 60], [0, 0, 1]]).max() < 1.5


@pytest.mark.slow
def test_a_picture_that_is_not_there_has_no_match_and_a_condition_leaves_pictures_out(index):
    with clipdex.Index.open(index) as opened:
        assert match(opened, scene(77)) == []
        row = opened.row(index.parent / "pictures" / "2.png")
        with Matcher(opened) as matcher:
            assert [each.row for each in matcher.match(scene(2))] == [row]
            assert matcher.match(scene(2), where=f"row != {row}") == []


@pytest.mark.slow
def test_a_turned_and_halved_crop_and_a_mirrored_one_are_found(index):
    image = scene(4)
    turned = image.rotate(25, Image.Resampling.BICUBIC, expand=True).crop((90, 80, 290, 260))
    with clipdex.Index.open(index) as opened, Matcher(opened) as matcher:
        (found,) = matcher.match(turned)
        assert (name(found), found.verified.mirrored) == ("4.png", False)
        flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        (found,) = matcher.match(flipped)
    assert (name(found), found.verified.mirrored) == ("4.png", True)
    # The upper left of the query is the upper right of the picture.
    assert np.abs(found.verified.region[0] - (319.5, -0.5)).max() < 2


@pytest.mark.slow
def test_a_collage_finds_all_that_are_in_it(index):
    made = Image.new("RGB", (640, 480))
    for k in range(4):
        made.paste(scene(k), (320 * (k % 2), 240 * (k // 2)))
    with clipdex.Index.open(index) as opened:
        assert {name(found) for found in match(opened, made)} == {f"{k}.png" for k in range(4)}


def test_the_features_of_a_mirrored_picture_follow_from_its_own():
    image = scene(1)
    other = extract(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert fit(other, extract(image)) is None
    found = fit(mirrored(extract(image)), other)
    assert found is not None and found.inliers > 0.5 * len(other)


def test_points_that_would_need_a_fold_or_lie_on_one_line_are_no_match():
    features = extract(scene(3))
    line = features.points[:, 1].copy()
    flat = type(features)(
        np.column_stack([features.points[:, 0], 0 * line + 50]).astype(np.float32),
        features.scales, features.angles, features.descriptors, features.size,
    )  # fmt: skip
    assert fit(flat, flat) is None
    itself = fit(features, features)
    assert itself is not None and itself.inliers > 100


def with_part(n, part, at):
    """A scene with a part of another picture pasted in."""
    image = scene(n)
    image.paste(part, at)
    return image


def test_pictures_that_share_only_a_part_are_no_match_unless_asked_for():
    icon = scene(30).crop((60, 60, 180, 150))
    one, other = (extract(with_part(n, icon, at)) for n, at in ((20, (10, 10)), (21, (30, 20))))
    assert fit(one, other) is None
    found = fit(one, other, rule=PARTS)
    assert found is not None and found.inliers >= 12 and found.share >= SAME.min_share
    assert found.spread < SAME.min_agreement < found.inlier_ratio and found.contained >= SAME.min_contained
    # The icon itself, and a collage with the whole of one of them, are matches.
    for query in (icon, with_part(22, with_part(21, icon, (30, 20)).resize((240, 180)), (40, 30))):
        assert fit(extract(query), other) is not None


def test_two_crops_that_overlap_in_a_corner_only_are_no_match_unless_asked_for():
    whole = scene(31, (640, 480))
    one, other = extract(whole.crop((0, 0, 400, 300))), extract(whole.crop((220, 170, 640, 480)))
    assert fit(one, other) is None
    found = fit(one, other, rule=PARTS)
    assert found is not None and found.contained < SAME.min_contained and found.agreement >= SAME.min_agreement


def test_pictures_that_share_things_but_most_of_them_elsewhere_are_no_match():
    """As two screens with icons of one set: those in one place are all over the picture, and the others moved."""
    icons = [scene(40 + n).resize((56, 56)) for n in range(24)]
    places = [(8 + 64 * (n % 6), 8 + 64 * (n // 6)) for n in range(24)]
    moved = [n for n in range(24) if n not in {1, 4, 6, 9, 14, 17, 19, 22}]
    there = dict(zip(moved, np.random.default_rng(0).permutation(moved).tolist(), strict=True))

    def screen(colour, place_of):
        made = Image.new("RGB", (396, 268), colour)
        for n, icon in enumerate(icons):
            made.paste(icon, places[place_of.get(n, n)])
        return extract(made)

    one, other = screen((40, 60, 90), {}), screen((90, 80, 40), there)
    found = fit(one, other, rule=PARTS)
    assert found is not None and found.inliers >= 20 and found.contained > 0.95
    assert found.inlier_ratio < SAME.min_agreement < found.spread
    assert (found.inliers * found.share) ** 0.5 >= SAME.min_roots and found.share >= SAME.min_share
    assert fit(one, other) is None
    assert fit(one, screen((90, 80, 40), {})) is not None


def test_few_points_that_agree_of_many_are_no_match():
    there = ("affine", np.eye(3))
    assert SAME.accepts(Fit(12, 12 / 80, *there)) and not SAME.accepts(Fit(12, 12 / 240, *there))
    assert SAME.accepts(Fit(20, 20 / 400, *there)) and not SAME.accepts(Fit(20, 20 / 640, *there))


def test_a_banner_over_a_quarter_of_a_picture_leaves_it_a_match():
    image = scene(32)
    ImageDraw.Draw(image).rectangle((0, 90, 320, 150), fill=(200, 30, 30))
    found = fit(extract(image), extract(scene(32)))
    assert found is not None and found.contained > 0.95


def test_the_nearest_by_blocks_are_those_of_a_plain_comparison():
    rng = np.random.default_rng(3)
    rows = np.repeat(np.arange(40), 30)
    held = rng.integers(0, 256, (len(rows), 128)).astype(np.uint8)
    ids, _ = numbered(rows, held)
    assert ids[31] == POINTS_A_ROW + 1
    asked = held[::100]
    distances, found = nearest(asked, 3, [(ids[:700], held[:700]), (ids[700:], held[700:])])
    plain = ((asked[:, None].astype(np.int64) - held[None]) ** 2).sum(axis=2)
    assert np.array_equal(found, ids[np.argsort(plain, axis=1, kind="stable")[:, :3]])
    assert np.array_equal(distances, np.sort(plain, axis=1)[:, :3])


@pytest.mark.slow
def test_an_inverted_file_written_list_by_list_is_what_faiss_would_write(tmp_path):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(4)
    held = rng.integers(0, 256, (4000, 128)).astype(np.uint8)
    ids = np.arange(4000) * 3
    path = tmp_path / "lists"
    with open(path, "w+b") as file:
        head, end, count, lists = write_lists(faiss, file.fileno(), lambda: iter([(ids, held)]), 4000)
    assert (count, end) == (4000, path.stat().st_size)
    mapped, plain = faiss.read_index(str(path), faiss.IO_FLAG_MMAP), faiss.read_index(str(path))
    assert mapped.ntotal == 4000 and mapped.nlist == lists
    own = faiss.IndexIVFScalarQuantizer(
        plain.quantizer, 128, lists, faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2, False
    )
    own.is_trained = True
    own.add_with_ids(numbers(held), ids)
    assert faiss.serialize_index(own).tobytes()[len(head) :] == path.read_bytes()[len(head) :]
    _, found = mapped.search(numbers(held[:50]), 1, params=faiss.SearchParametersIVF(nprobe=1))
    assert np.array_equal(found[:, 0], ids[:50])


@pytest.fixture
def built(index, tmp_path):
    """A copy of the index with a file of neighbours."""
    pytest.importorskip("faiss")
    path = tmp_path / "x.clipdex"
    shutil.copytree(index, path)
    assert build_neighbours.build_neighbours(path, fewest=1).file_bytes > 0
    return path


def refusing(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("call", "number", "ends"),
    [
        ("posix_fallocate", errno.ENOSPC, True),
        ("posix_fallocate", errno.EOPNOTSUPP, False),
        ("posix_fallocate", None, False),  # macOS
        ("pwrite", errno.ENOSPC, True),
    ],
)
def test_a_disk_without_space_for_neighbours_is_one_sentence_and_one_that_allocates_none_is_written(
    built, monkeypatch, call, number, ends
):
    before = (built / NEIGHBOURS_FILE).read_bytes()
    with closing(present(FeatureFile.open(built, write=True))) as file:
        file.empty(file.recipe)
    build_features(built, workers=1)
    if number is None:
        monkeypatch.delattr(os, call)
    else:
        monkeypatch.setattr(os, call, refusing(number))
    if ends:
        with pytest.raises(clipdex.IndexWriteError) as caught:
            build_neighbours.build_neighbours(built, fewest=1)
        assert str(caught.value) == (
            f"{built}/features.neighbours.building: writing it failed: No space left on device; "
            "the index is as it was"
        )
        assert (built / NEIGHBOURS_FILE).read_bytes() == before
        assert not (built / "features.neighbours.building").exists()
    else:
        assert build_neighbours.build_neighbours(built, fewest=1).file_bytes == len(before)
        with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
            assert (matcher.faults, matcher.exact) == ([], 0)


FILLS_THE_DISK = """
import os, sys
from pathlib import Path
import clipdex
from clipdex.features.build_neighbours import build_neighbours
del os.posix_fallocate
try:
    build_neighbours(Path(sys.argv[1]), fewest=1)
except clipdex.IndexWriteError as exc:
    print(exc)
"""


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a tmpfs needs root")
def test_a_disk_that_is_full_while_neighbours_are_written_does_not_kill_the_process(built, tmp_path):
    """Where no space can be allocated before."""
    size = (built / NEIGHBOURS_FILE).stat().st_size
    (built / NEIGHBOURS_FILE).unlink()
    place = tmp_path / "small"
    place.mkdir()
    needed = sum(-(-path.stat().st_size // 4096) * 4096 for path in built.iterdir()) + (64 << 10)
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={needed + size // 2}", "tmpfs", place]
    if subprocess.run(mounted, capture_output=True).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted")
    try:
        index = shutil.copytree(built, place / "x.clipdex")
        words = [sys.executable, "-c", FILLS_THE_DISK, index]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (
            0,
            f"{index}/features.neighbours.building: writing it failed: No space left on device; "
            "the index is as it was\n",
        )
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_file_of_neighbours_finds_the_same_and_newer_pictures_are_compared_exactly(built):
    with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
        assert (matcher.faults, matcher.exact) == ([], 0)
        assert [name(found) for found in matcher.match(scene(3).crop((40, 40, 240, 200)))] == ["3.png"]
    new = built.parent / "new"
    new.mkdir()
    scene(9).save(new / "9.png")
    clipdex.index_pictures(Client(FakeTransport()), new, built, workers=1)
    build_features(built, workers=1)
    with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
        assert (matcher.faults, matcher.exact) == ([], 1)
        assert [name(found) for found in matcher.match(scene(9))] == ["9.png"]
        assert [name(found) for found in matcher.match(scene(3))] == ["3.png"]
    build_neighbours.build_neighbours(built, fewest=1)
    with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
        assert matcher.exact == 0
        assert [name(found) for found in matcher.match(scene(9))] == ["9.png"]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["head", "lists", "flags", "footer", "short", "empty"])
def test_a_damaged_file_of_neighbours_is_told_and_does_without(built, where):
    path = built / NEIGHBOURS_FILE
    data = bytearray(path.read_bytes())
    at = {"head": 60, "flags": len(data) - FOOTER_BYTES - 1, "footer": len(data) - FOOTER_BYTES + 40}
    if where in at:
        data[at[where]] ^= 8
    elif where == "lists":  # a count of 2^60 in the header of FAISS, with its checksum made to fit
        data = forged(data)
    path.write_bytes(data[:-5] if where == "short" else b"" if where == "empty" else data)
    with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
        (fault,) = matcher.faults
        assert NEIGHBOURS_FILE in fault and "clipdex features build" in fault and "\n" not in fault
        assert [name(found) for found in matcher.match(scene(3))] == ["3.png"]
    (damage,) = clipdex.verify_index(built).damages
    assert NEIGHBOURS_FILE in damage.what and "clipdex features build" in damage.what and damage.rows is None
    build_neighbours.build_neighbours(built, fewest=1)
    with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
        assert (matcher.faults, matcher.exact) == ([], 0)
    assert clipdex.verify_index(built).damages == []


@pytest.mark.slow
def test_verify_finds_every_flipped_bit_of_the_lists_and_a_build_makes_them_again(built):
    path = built / NEIGHBOURS_FILE
    sound = path.read_bytes()
    footer = NeighbourFooter.from_bytes(sound[-FOOTER_BYTES:], path)
    assert clipdex.verify_index(built).damages == []
    for at in (footer.lists_at, (footer.lists_at + footer.faiss_bytes) // 2, footer.faiss_bytes - 8):
        data = bytearray(sound)
        data[at] ^= 1
        path.write_bytes(data)
        (damage,) = clipdex.verify_index(built).damages
        assert "its lists are not what was written; build it again with" in damage.what
        with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
            assert matcher.faults == []  # opening it reads no lists
        assert build_neighbours.build_neighbours(built, fewest=1).descriptors == footer.descriptors
        assert clipdex.verify_index(built).damages == []
        assert path.read_bytes() == sound


@pytest.mark.slow
def test_a_file_of_neighbours_of_version_1_is_read_and_built_anew(built):
    """Its lists have no checksum; verify finds descriptors of rows that have none."""
    path = built / NEIGHBOURS_FILE
    newer = path.read_bytes()
    footer = dataclasses.replace(NeighbourFooter.from_bytes(newer[-FOOTER_BYTES:], path), lists_crc32c=None)
    sound = newer[:-FOOTER_BYTES] + footer.to_bytes()
    assert b'"format_version": 1' in sound and b"lists_crc32c" not in sound
    path.write_bytes(sound)
    with clipdex.Index.open(built) as opened, Matcher(opened) as matcher:
        assert (matcher.faults, matcher.exact) == ([], 0)
        assert [name(found) for found in matcher.match(scene(3))] == ["3.png"]
    assert clipdex.verify_index(built).damages == []
    # The last id of the last list that has any ends where the bits of the rows begin.
    for byte, change in ((-8, None), (-6, 0x10), (-1, 0x80)):  # its point, its row, its sign
        data = bytearray(sound)
        at = footer.faiss_bytes + byte
        data[at] ^= change or 1
        path.write_bytes(data)
        assert len(clipdex.verify_index(built).damages) == (change is not None), byte
    path.write_bytes(sound)
    build_neighbours.build_neighbours(built, fewest=1)
    assert path.read_bytes() == newer


@pytest.mark.slow
def test_info_names_the_file_of_neighbours(built, run):
    size = (built / NEIGHBOURS_FILE).stat().st_size
    with clipdex.Index.open(built) as opened:
        assert opened.info().neighbour_bytes == size
    status, out, _ = run("info", built)
    assert status == 0 and f"neighbours, {size / 1e6:,.1f} MB" in out
    (built / NEIGHBOURS_FILE).unlink()
    status, out, _ = run("info", built)
    assert status == 0 and "with features" in out and "neighbours" not in out


def forged(data):
    """The file with a list of 2^60 vectors, and checksums as whoever forges it would make them."""
    import google_crc32c

    footer = NeighbourFooter.from_bytes(bytes(data[-FOOTER_BYTES:]), Path("x"))
    data = bytearray(data)
    data[footer.lists_at - 8 : footer.lists_at] = (1 << 60).to_bytes(8, "little")
    head, flags = bytes(data[: footer.lists_at]), bytes(data[footer.faiss_bytes : -FOOTER_BYTES])
    forged = dataclasses.replace(footer, head_crc32c=int(google_crc32c.value(head + flags)))
    data[-FOOTER_BYTES:] = forged.to_bytes()
    return data


@pytest.mark.slow
def test_of_few_descriptors_there_is_no_file(index):
    built = build_neighbours.build_neighbours(index)
    assert 0 < built.descriptors < FEWEST and built.file_bytes == 0
    assert not (index / NEIGHBOURS_FILE).exists()


@pytest.mark.slow
def test_the_command_prints_the_region_as_a_line_and_in_json_and_draws_it(index, run, tmp_path):
    crop = tmp_path / "crop.png"
    scene(2).crop((80, 60, 240, 180)).save(crop)
    html = tmp_path / "found.html"
    status, out, err = run("match", crop, "-i", index, "--html", html)
    assert status == 0, err
    assert out.endswith("2.png (25-75 % × 25-75 %)\n") and " points agree — " in out
    assert '<polygon class="seen"' in html.read_text()
    status, out, err = run("match", crop, "-i", index, "--json")
    (answer,) = json.loads(out)
    (found,) = answer["matches"]
    assert found["mirrored"] is False and len(found["region"]) == 4 and np.shape(found["transform"]) == (3, 3)
    scene(88).save(crop)
    status, out, err = run("match", crop, "-i", index)
    assert (status, out) == (0, "") and "no picture of the index shows" in err


@pytest.mark.slow
def test_the_command_shows_pictures_that_share_a_part_if_asked(index, run, tmp_path):
    query = tmp_path / "query.png"
    with_part(50, scene(3).crop((60, 60, 200, 180)), (70, 70)).save(query)
    status, out, err = run("match", query, "-i", index)
    assert (status, out) == (0, ""), err
    status, out, err = run("match", query, "-i", index, "--parts")
    assert status == 0 and "3.png" in out, err
    with clipdex.Index.open(index) as opened:
        (found,) = match(opened, query, parts=True)
        assert name(found) == "3.png" and match(opened, query) == []
    assert {"contained", "spread", "share"} <= set(found.as_dict())


@pytest.mark.slow
def test_a_text_leaves_out_pictures_and_numbers_out_of_range_are_mistakes(index, run, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))
    crop = tmp_path / "crop.png"
    scene(2).save(crop)
    status, out, err = run("match", crop, "-i", index, "--within", "a text")
    assert status == 0 and "2.png" in out, err
    for words in (("--top-k", "0"), ("--min-inliers", "3")):
        status, out, err = run("match", crop, "-i", index, *words)
        assert (status, out) == (1, "") and "expected" in err and "Traceback" not in err


def test_matching_without_features_is_one_sentence(index, run, tmp_path):
    path = tmp_path / "y.clipdex"
    with clipdex.IndexWriter.open_or_create(path, clipdex.Manifest.of(FakeTransport().card)) as writer:
        writer.append([clipdex.Picture(b"/a.jpg", 1, 2, b"1" * 16, 3, 4)], unit_vectors(1, 8))
        writer.commit()
    crop = tmp_path / "crop.png"
    scene(2).save(crop)
    status, out, err = run("match", crop, "-i", path)
    assert (status, out) == (1, "")
    assert "has no local features" in err and "clipdex features build" in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("features", [True, False])
def test_a_verified_search_puts_what_shows_the_same_first(index, run, tmp_path, monkeypatch, features):
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))
    if not features:
        import shutil

        path = tmp_path / "x.clipdex"
        shutil.copytree(index, path, ignore=shutil.ignore_patterns("features.*"))
        index = path
    crop = tmp_path / "crop.png"
    for n in range(6):
        scene(n).crop((80, 60, 240, 200)).save(crop)
        status, out, err = run("search", "--image", crop, "-i", index, "--verify", "-k", "3", "--json")
        assert status == 0, err
        (answer,) = json.loads(out)
        first, *rest = answer["hits"]
        assert os.path.basename(first["path"]) == f"{n}.png" and first["verified"]["inliers"] >= 20
        assert len(rest) == 2 and all(hit["verified"] is None for hit in rest)
    status, out, err = run("search", "snow", "-i", index, "--verify")
    assert (status, out) == (1, "") and "one picture" in err


@pytest.mark.slow
def test_the_matcher_checks_what_it_is_given(index):
    with clipdex.Index.open(index) as opened, Matcher(opened) as matcher:
        with pytest.raises(clipdex.InvalidArgument, match="descriptors are not those of sift"):
            matcher.match(extract(scene(1), kind="orb"))
        with pytest.raises(clipdex.ImageError):
            matcher.match(b"no picture")
    assert matching.DEFAULT_TOP_K == 5
