"""Colour profiles: passed over, or applied where that is asked for; an index keeps to what it was made with."""

import io
import os

import numpy as np
import pytest
from conftest import noise
from hazards import WHITE, deep_png, display_p3, icc_profile, saved, tiff
from PIL import Image, ImageCms

from clipdex import Client, Index, InvalidArgument, Query, index_pictures
from clipdex.apps.duplicates import sign_index
from clipdex.index.manifest import Manifest
from clipdex.model.formats.icc import convert_to_srgb
from clipdex.model.images import open_image
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

P3 = display_p3()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR_GREY = icc_profile(b"GRAY", {b"kTRC": b"curv" + bytes(8)})


def by_littlecms(image, profile=P3):
    """What LittleCMS makes of it when it is asked without us."""
    made = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return np.asarray(made)


def pixels(source, **options):
    return np.asarray(open_image(source, **options))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_colours_are_converted_by_the_profile_if_that_is_asked_for(format):
    options = {"lossless": True} if format == "WEBP" else {}
    picture = noise(1)
    data = saved(picture, format, icc_profile=P3, **options)
    off = pixels(data)
    np.testing.assert_array_equal(off, pixels(saved(picture, format, **options)))
    np.testing.assert_array_equal(pixels(data, icc="off"), off)
    converted = pixels(data, icc="srgb")
    np.testing.assert_array_equal(converted, by_littlecms(Image.fromarray(off)))
    assert np.abs(converted.astype(int) - off).max() > 20


def test_red_of_display_p3_is_beyond_that_of_srgb():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert pixels(saved(red, "PNG", icc_profile=P3), icc="srgb")[0, 0].tolist() == [255, 0, 0]
    pale = Image.new("RGB", (4, 4), (200, 80, 80))
    seen = pixels(saved(pale, "PNG", icc_profile=P3), icc="srgb")[0, 0].tolist()
    assert seen[0] > 210 and seen[1] < 75, "it is more vivid in sRGB's numbers"


@pytest.mark.parametrize(
    "profile", [SRGB, b"", b"no profile at all" * 9, P3[:200], LINEAR_GREY, icc_profile(b"CMYK", {})]
)
def test_a_profile_that_changes_nothing_or_cannot_be_used_leaves_the_pixels_as_they_are(profile):
    """sRGB's own, none, broken ones, and those for other kinds of colours."""
    data = saved(noise(2), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(pixels(data, icc="srgb"), pixels(data))


def test_grey_is_converted_by_a_profile_of_greys():
    data = saved(Image.new("L", (4, 4), 55), "PNG", icc_profile=LINEAR_GREY)
    assert (pixels(data) == 55).all()
    seen = pixels(data, icc="srgb")
    assert np.abs(seen.astype(int) - 128).max() <= 1, "21.4 % of the light is the middle of sRGB"
    values = np.full((4, 4, 1), 55 * 257, np.uint16)
    values[0, 0] = 65_535
    deep = tiff(values, 1, profile=LINEAR_GREY)
    assert np.abs(pixels(deep, icc="srgb")[1:].astype(int) - 128).max() <= 1


def test_what_is_transparent_is_converted_before_it_is_laid_over_the_fill():
    picture = Image.new("RGBA", (4, 4), (200, 80, 80, 255))
    picture.paste((9, 9, 9, 0), (0, 0, 4, 2))
    seen = pixels(saved(picture, "PNG", icc_profile=P3), icc="srgb", fill=(200, 80, 80))
    assert (seen[:2] == (200, 80, 80)).all()
    assert (seen[2:] == by_littlecms(Image.new("RGB", (4, 2), (200, 80, 80)))).all()
    palette = picture.quantize(4)
    assert pixels(saved(palette, "PNG", icc_profile=P3), icc="srgb")[0, 0].tolist() == list(WHITE)


def test_deep_samples_are_converted():
    values = np.full((4, 4, 3), (200 * 257, 80 * 257, 80 * 257), np.uint16)
    expected = by_littlecms(Image.new("RGB", (4, 4), (200, 80, 80)))
    np.testing.assert_array_equal(pixels(tiff(values, 2, profile=P3), icc="srgb"), expected)
    with_profile = io.BytesIO()
    Image.open(io.BytesIO(deep_png(values, 2))).save(with_profile, "PNG", icc_profile=P3)
    np.testing.assert_array_equal(pixels(with_profile.getvalue(), icc="srgb"), expected)


def test_the_callers_image_keeps_its_colours():
    image = Image.new("RGB", (4, 4), (200, 80, 80))
    image.info["icc_profile"] = P3
    assert pixels(image, icc="srgb")[0, 0].tolist() != [200, 80, 80]
    assert image.getpixel((0, 0)) == (200, 80, 80)


def test_inks_are_left_alone_by_a_profile_of_colours():
    image = Image.new("CMYK", (4, 4), (10, 200, 30, 0))
    assert convert_to_srgb(image, P3) is image


def test_another_word_is_the_callers_mistake():
    with pytest.raises(InvalidArgument, match="expected off or srgb"):
        open_image(Image.new("RGB", (4, 4)), icc="p3")  # type: ignore[arg-type]


# An index keeps to what it was made with


@pytest.fixture
def folder(tmp_path):
    """One look, in two spaces."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture = noise(3)
    (folder / "p3.png").write_bytes(saved(picture, "PNG", icc_profile=P3))
    (folder / "srgb.png").write_bytes(saved(Image.fromarray(by_littlecms(picture)), "PNG"))
    return folder


def run(folder, index, **options):
    with Client(FakeTransport()) as client:
        return index_pictures(client, folder, index, workers=1, **options)


def rows(index):
    with Index.open(index) as opened:
        vectors = {os.path.basename(path): opened.vectors[row].astype(float) for row, path in opened.live_paths()}
        return vectors, opened.manifest.icc, dict(opened.signatures(0, 10))


def test_two_pictures_of_one_look_are_alike_in_an_index_made_by_profile(folder, tmp_path):
    run(folder, tmp_path / "off")
    run(folder, tmp_path / "srgb", icc="srgb")
    vectors, icc, signatures = rows(tmp_path / "srgb")
    assert icc == "srgb" and len(signatures) == 2
    np.testing.assert_array_equal(vectors[b"p3.png"], vectors[b"srgb.png"])
    assert len(set(signatures.values())) == 1, "so are their signatures"
    vectors, icc, signatures = rows(tmp_path / "off")
    assert icc == "off" and len(set(signatures.values())) == 2
    assert np.abs(vectors[b"p3.png"] - vectors[b"srgb.png"]).max() > 1e-3


def test_a_later_run_and_a_query_do_as_the_index_was_made(folder, tmp_path):
    index = tmp_path / "x"
    run(folder, index, icc="srgb")
    with pytest.raises(InvalidArgument, match="created with icc srgb"):
        run(folder, index, icc="off")
    picture = noise(4)
    (folder / "later.png").write_bytes(saved(picture, "PNG", icc_profile=P3))
    assert run(folder, index).indexed == 1
    vectors, _, _ = rows(index)
    with Client(FakeTransport()) as client, Index.open(index) as opened:
        (asked,) = Query().plus(image=folder / "later.png").embed(client, opened)
        (same,) = client.embed_images([folder / "later.png"], icc="srgb")
        (other,) = client.embed_images([folder / "later.png"])
    np.testing.assert_allclose(asked, vectors[b"later.png"], atol=1e-3)
    np.testing.assert_array_equal(asked, same)
    assert np.abs(asked - other).max() > 1e-3


def test_an_index_of_before_is_off_and_stays_so(folder, tmp_path):
    index = tmp_path / "x"
    run(folder, index)
    assert b"icc" not in (index / "manifest.json").read_bytes()
    with pytest.raises(InvalidArgument, match="created with icc off"):
        run(folder, index, icc="srgb")
    assert Manifest.read(index).icc == "off"


def test_a_clipdex_that_knows_no_profiles_refuses_an_index_made_by_them(folder, tmp_path):
    """It would add rows that cannot be compared with those there."""
    run(folder, tmp_path / "x", icc="srgb")
    assert b'"format_version": 2' in (tmp_path / "x" / "manifest.json").read_bytes()


def test_signatures_made_later_are_by_profile_too(folder, tmp_path):
    import sqlite3

    index = tmp_path / "x"
    run(folder, index, icc="srgb")
    store = sqlite3.connect(index / "rows.sqlite")
    with store:
        store.execute("DELETE FROM phashes")
    store.close()
    assert sign_index(index, workers=1).signed == 2
    assert len(set(rows(index)[2].values())) == 1
