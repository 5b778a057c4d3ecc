"""Kinds of pictures that are read, and what is said of those that are not."""

import io
import json
import struct
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from conftest import ROOT, noise
from hazards import (
    HEIC_HEADER,
    bmp,
    deep_png,
    grey_tiff,
    png_chunk,
    png_of,
    ramp,
    red_rows,
    saved,
    tiff,
    without_segments,
)
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from clipdex import Client, ImageError, Index, index_pictures, plan_run
from clipdex.model.formats.decoders import extra_is_there
from clipdex.model.formats.jpeg import whole_without_end
from clipdex.model.images import open_image
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


def pixels(source, **options):
    return np.asarray(open_image(source, **options))


def refusal(data):
    with pytest.raises(ImageError) as caught:
        open_image(data)
    return caught.value.reason, str(caught.value).removeprefix("the bytes given: ")


EIGHT = ramp(3, 255, np.uint8)


# Deep samples


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
def test_case_30_sixteen_bits_that_fill_their_range_are_the_high_byte(order, planar):
    values = ramp(3, 65535)
    np.testing.assert_array_equal(pixels(tiff(values, 2, order=order, planar=planar)), values >> 8)


@pytest.mark.parametrize("used", [300, 3060, 4095, 16_000])
@pytest.mark.parametrize("photometric", [1, 2])
def test_case_30_a_small_part_of_sixteen_bits_is_scaled_to_white(used, photometric):
    values = ramp(3, used)
    assert np.abs(pixels(tiff(values, photometric)).astype(int) - EIGHT).max() <= 2


def test_case_30_white_of_32_unsigned_bits_is_white():
    values = np.zeros((16, 16, 1), np.uint32)
    values[8:] = 2**32 - 1
    seen = pixels(tiff(values, 1))
    assert (seen[:8] == 0).all() and (seen[8:] == 255).all()


def test_a_quarter_of_the_range_is_as_it_was():
    """As dark as it was taken: a photograph of the night is no measurement."""
    assert pixels(tiff(ramp(1, 20_000), 1)).max() == round(20_000 * 255 / 65535)


def test_a_few_hot_pixels_do_not_make_a_picture_dark():
    values = np.full((100, 100, 1), 3000, np.uint16)
    values[50:] = 1500
    values[0, :5] = 30_000
    seen = pixels(tiff(values, 1))
    # White is an eighth of the hottest.
    assert seen[99, 0, 0] == round(1500 * 255 / 3750) and seen[40, 0, 0] == round(3000 * 255 / 3750)


def test_a_small_bright_thing_on_noise_does_not_vanish_in_it():
    values = np.random.default_rng(0).integers(0, 20, (100, 100, 1)).astype(np.uint16)
    values[0, :5] = 65_535
    seen = pixels(tiff(values, 1))
    assert seen[0, :5].min() == 255 and seen[1:].max() <= 1


def test_eight_bits_are_never_scaled():
    dim = np.full((8, 8, 3), 9, np.uint8)
    assert (pixels(tiff(dim, 2)) == 9).all()
    assert (pixels(saved(Image.fromarray(dim), "PNG")) == 9).all()
    assert (pixels(tiff(np.full((8, 8, 1), 200, np.int16), 1, sample_format=2)) == 200).all()


def test_signed_samples_have_half_the_range():
    assert pixels(tiff(ramp(1, 32_767, np.int16), 1, sample_format=2)).max() == 255
    below = np.full((8, 8, 1), -5, np.int8)
    assert pixels(tiff(below, 1, sample_format=2)).max() == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("top", [1.0, 0.1, 255.0])
def test_floats_are_shares_of_white_or_eight_bits(dtype, top):
    values = (ramp(3, 255, np.uint8) / 255 * top).astype(dtype)
    assert np.abs(pixels(tiff(values, 2, sample_format=3)).astype(int) - EIGHT).max() <= 2


def test_a_deep_png_is_the_high_byte_or_scaled():
    whole, little = ramp(3, 65535), ramp(3, 3060)
    np.testing.assert_array_equal(pixels(deep_png(whole, 2)), whole >> 8)
    assert np.abs(pixels(deep_png(little, 2)).astype(int) - EIGHT).max() <= 2
    assert np.abs(pixels(deep_png(little[..., :1], 0)).astype(int) - EIGHT[..., :1]).max() <= 2


@pytest.mark.parametrize(("colour", "count"), [(6, 3), (4, 1)])
@pytest.mark.parametrize("opaque", [65535, 3060])
def test_the_alpha_of_a_deep_png_that_uses_little_is_of_its_own_whole(colour, count, opaque):
    values = np.full((16, 16, count + 1), opaque, np.uint16)
    values[..., :count] = ramp(count, 3060)
    values[:4, :, count] = 0
    seen = pixels(deep_png(values, colour), fill=(1, 2, 3))
    assert (seen[:4] == (1, 2, 3)).all()
    assert np.abs(seen[4:].astype(int) - EIGHT[4:, :, :count]).max() <= 2


def test_the_transparent_colour_of_a_deep_png_is_that_one_and_not_its_neighbour():
    values = np.full((4, 4, 3), 40_000, np.uint16)
    values[:2] = 40_001
    key = png_chunk(b"tRNS", struct.pack(">3H", 40_000, 40_000, 40_000))
    seen = pixels(deep_png(values, 2, key), fill=(1, 2, 3))
    assert (seen[2:] == (1, 2, 3)).all() and (seen[:2] == 40_001 >> 8).all()


# TIFFs of other layouts


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_case_20_three_or_four_grey_samples_are_red_green_and_blue(samples, dtype):
    values = ramp(samples, np.iinfo(dtype).max, dtype)
    for extra in ((), (0,) * (samples - 1)):
        np.testing.assert_array_equal(pixels(tiff(values, 1, extra=extra)), EIGHT)


def test_more_grey_samples_are_refused_and_said_to_be_that():
    reason, words = refusal(tiff(ramp(13, 65535), 1))
    assert reason == "unsupported"
    assert "a TIFF of 13 grey samples of 16 bits" in words and "convert it" in words


def test_complex_numbers_are_refused_and_not_called_broken():
    values = np.zeros((8, 8, 1), np.complex64)
    reason, words = refusal(tiff(values, 1, sample_format=6, bits=64))
    assert reason == "unsupported" and "complex float" in words


@pytest.mark.parametrize(("extra", "seen"), [(0, 200), (2, 255)])
def test_an_extra_sample_is_alpha_only_if_it_says_so(extra, seen):
    values = np.zeros((8, 8, 2), np.uint16)
    values[..., 0] = 200 * 257
    assert (pixels(tiff(values, 1, extra=(extra,))) == seen).all()


def test_deep_ink_is_never_scaled():
    """A page that is nearly white has little ink."""
    assert (pixels(tiff(np.full((8, 8, 4), 300, np.uint16), 5)) > 250).all()


def test_a_palette_of_eight_bits_in_a_tiff_is_not_black():
    picture = noise(3).convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.asarray(picture.convert("RGB"))
    data = bytearray(saved(picture, "TIFF"))
    with Image.open(io.BytesIO(bytes(data))) as image:
        assert isinstance(image, TiffImageFile)
        table = struct.pack("<768H", *image.tag_v2[320])
        small = struct.pack("<768H", *(value >> 8 for value in image.tag_v2[320]))
    assert table in data
    np.testing.assert_array_equal(pixels(bytes(data)), expected)
    np.testing.assert_array_equal(pixels(bytes(data).replace(table, small)), expected)


def test_a_deep_tiff_that_is_cut_short_is_truncated():
    data = tiff(ramp(3, 65535), 2)
    assert refusal(data[:-5])[0] == "truncated"


def test_a_deep_tiff_is_turned_upright():
    data = grey_tiff("<", 16, 1, np.arange(384, dtype="<u2").tobytes())
    with_orientation = (
        data[:8] + struct.pack("<H", 11) + data[10:130] + struct.pack("<HHII", 274, 3, 1, 6) + data[142:]
    )
    assert open_image(data).size == (24, 16)
    assert open_image(with_orientation).size == (16, 24)


@pytest.mark.slow
def test_the_grid_of_tiffs_and_bmps():
    """A quick run of tests/proofs/picture_grid.py."""
    for module in ("cv2", "imagecodecs", "tifffile"):
        pytest.importorskip(module, reason="a reading by others is what it compares with")
    script = ROOT / "tests" / "proofs" / "picture_grid.py"
    command = [sys.executable, str(script), "--json", "--every", "397"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    counts = found["counts"]
    assert counts["tiff right"] > 250 and counts["bmp right"] > 400
    assert counts["bmp where OpenCV and Pillow agree"] > 150
    assert counts["tiff unsupported"] + counts["bmp unsupported"] < 30


# BMP


_RGBA_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def test_an_alpha_that_is_zero_everywhere_is_none():
    rows = bytes((40, 30, 200, 0)) * 4
    assert (pixels(bmp(rows, 32, header=108, masks=_RGBA_MASKS, compression=3)) == (200, 30, 40)).all()


def test_an_alpha_that_is_somewhere_is_one():
    rows = bytes((40, 30, 200, 0)) * 3 + bytes((40, 30, 200, 255))
    seen = pixels(bmp(rows, 32, header=108, masks=_RGBA_MASKS, compression=3))
    assert (seen[1, 0] == 255).all() and (seen[0, 1] == (200, 30, 40)).all()


def test_bit_masks_that_pillow_does_not_know():
    rows = struct.pack("<4I", *[1023 << 20 | 512 << 10] * 4)
    seen = pixels(bmp(rows, 32, masks=(0x3FF00000, 0xFFC00, 0x3FF), compression=3))
    assert (seen == (255, 512 * 255 // 1023, 0)).all()


def test_bmps_that_are_not_read_are_said_to_be_of_their_kind():
    assert refusal(bmp(bytes(99), 24, compression=5)) == (
        "unsupported",
        "a BMP that holds PNG, which clipdex does not read: convert it",
    )


# What lacks nothing that a pixel needs


@pytest.mark.parametrize("kind", [b"sRGB", b"pHYs", b"cHRM", b"gAMA", b"tIME", b"eXIf", b"iCCP", b"tRNS", b"sBIT"])
def test_case_32_a_png_whose_ancillary_chunk_is_empty_is_decoded(kind):
    data = png_of(24, 16, red_rows(), chunks=png_chunk(kind, b""))
    assert (pixels(data) == (200, 30, 40)).all()


def test_a_chunk_that_pixels_need_is_not_left_out():
    no_palette = png_of(24, 16, red_rows(), colour=3, chunks=png_chunk(b"PLTE", b""))
    assert refusal(no_palette)[0] in ("broken", "truncated")


KINDS_OF_JPEG = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restart": {"restart_marker_blocks": 2},
    "subsampled": {"subsampling": 2},
}


@pytest.mark.parametrize("options", KINDS_OF_JPEG.values(), ids=KINDS_OF_JPEG.keys())
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_case_21_a_jpeg_that_lacks_only_its_end_marker_is_decoded(options, mode):
    data = saved(noise(5).convert(mode), "JPEG", quality=90, **options)
    assert data.endswith(b"\xff\xd9")
    expected = pixels(data)
    for missing in (1, 2):
        np.testing.assert_array_equal(pixels(data[:-missing]), expected)


@pytest.mark.parametrize("options", KINDS_OF_JPEG.values(), ids=KINDS_OF_JPEG.keys())
@pytest.mark.parametrize("picture", ["noise", "plain", "ramp"])
def test_a_jpeg_that_lacks_a_pixel_is_truncated(options, picture):
    """A cut may fall on bits that say nothing: then all pixels are there, and they are the same."""
    images = {
        "noise": noise(5),
        "plain": Image.new("RGB", (64, 64), (90, 120, 30)),
        "ramp": Image.fromarray(EIGHT),
    }
    data = saved(images[picture], "JPEG", quality=90, **options)
    expected = pixels(data)
    for missing in (*range(3, 12), *range(12, len(data) - 200, max(1, len(data) // 20))):
        cut = data[:-missing]
        try:
            seen = pixels(cut)
        except ImageError as exc:
            assert exc.reason == "truncated"
        else:
            np.testing.assert_array_equal(seen, expected)
            assert missing < 6


def test_a_progressive_jpeg_without_its_last_scans_is_truncated():
    """What there is fills the picture, coarsely."""
    data = saved(noise(5), "JPEG", quality=90, progressive=True)
    last_scan = data.rindex(b"\xff\xc4")
    assert refusal(data[:last_scan])[0] == "truncated"
    assert whole_without_end(data[:-2]) is not None


# What is not read


NAMES = {
    b"\xff\x0a" + bytes(30): "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30): "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30): "JPEG 2000",
    b"8BPS\0\1" + bytes(30): "Photoshop",
    b"%!PS-Adobe-3.0 EPSF-3.0\n": "PostScript",
    b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>': "SVG",
    b"\xef\xbb\xbf<svg/>": "SVG",
    b"\0\0\1\0\1\0\x10\x10" + bytes(30): "icon",
    b"\0\0\0\x18ftypcrx " + bytes(30): "CR3",
    b"II*\0\x10\0\0\0CR\2\0" + bytes(30): "CR2",
    b"FUJIFILMCCD-RAW 0201" + bytes(30): "RAF",
    b"P6 2 2 255 " + bytes(12): "anymap",
}
OTHER_NAMES = {
    b"%PDF-1.7\n": "PDF",
    b"\0\0\0\x18ftypisom" + bytes(30): "video",
    b"\x1aE\xdf\xa3" + bytes(30): "WebM",
    b"RIFF\x24\0\0\0AVI LIST" + bytes(30): "AVI",
    b"PK\3\4" + bytes(30): "ZIP",
    b"<!DOCTYPE html><title>404 Not Found</title>": "web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n": "git lfs pull",
}


@pytest.mark.parametrize(("data", "name"), NAMES.items(), ids=NAMES.values())
def test_a_picture_of_another_kind_is_named(data, name):
    reason, words = refusal(data)
    assert reason == "unsupported" and name in words and "convert it" in words


@pytest.mark.parametrize(("data", "name"), OTHER_NAMES.items(), ids=OTHER_NAMES.values())
def test_what_is_no_picture_is_named(data, name):
    reason, words = refusal(data)
    assert reason == "not_a_picture" and name in words


def with_tag(tag, kind, value):
    """A grey TIFF with one more tag; its offsets stay right."""
    data = grey_tiff("<", 8, 1, bytes(384))
    return data[:8] + struct.pack("<H", 11) + data[10:130] + struct.pack("<HHII", tag, kind, 1, value) + data[142:]


def test_the_thumbnail_of_a_raw_photograph_is_not_taken_for_it():
    dng = with_tag(50706, 1, 0x0401)
    assert refusal(dng) == ("unsupported", "a raw photograph (DNG), which clipdex does not read: convert it")
    sensor = grey_tiff("<", 8, 32803, bytes(384))
    assert refusal(sensor)[0] == "unsupported"
    assert open_image(grey_tiff("<", 8, 1, bytes(384))).size == (24, 16)


@pytest.mark.parametrize(
    ("marker", "bits", "name"), [(0xC0, 12, "12 bits"), (0xC3, 8, "lossless"), (0xC5, 8, "hier")]
)
def test_a_jpeg_of_an_unusual_kind_is_named(marker, bits, name):
    data = bytearray(without_segments(saved(noise(1), "JPEG"), 0xFE))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    reason, words = refusal(bytes(data))
    assert reason == "unsupported" and name in words


# An extra that is missing


def test_what_lacked_an_extra_is_tried_again_once_it_is_there_and_not_before(tmp_path, monkeypatch):
    """Workers are other processes: they find another pillow_heif where Python looks first."""
    folder, packages, index = tmp_path / "pictures", tmp_path / "packages", tmp_path / "x"
    folder.mkdir()
    packages.mkdir()
    (folder / "a.heic").write_bytes(HEIC_HEADER)
    noise(1).save(folder / "b.png")
    module = packages / "pillow_heif.py"
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def install(text):
        module.write_text(text)
        monkeypatch.setitem(sys.modules, "pillow_heif", None)  # so that what is there now comes back in the end
        del sys.modules["pillow_heif"]
        extra_is_there.cache_clear()

    def run(**options):
        with Client(FakeTransport()) as client:
            report = index_pictures(client, folder, index, workers=1, **options)
        with Index.open(index) as opened:
            return report.indexed, [failure.reason for failure in opened.failures()]

    install("raise ImportError('not installed')")
    assert run() == (1, ["missing_extra"])
    with Index.open(index) as opened:
        (failure,) = opened.failures()
    assert "[heic]'" in failure.detail and failure.may_pass
    assert plan_run(folder, index).retried == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipdex.pipeline.decode.DecodePool._give", lambda *_: pytest.fail("it is tried again"))
        assert run() == (0, ["missing_extra"])
    install(
        "import io\nfrom PIL import Image\nclass options: DECODE_THREADS = 1\n"
        "def HeifImageFile(file, name):\n"
        "    image = Image.new('RGB', (8, 8), (1, 2, 3))\n    image.format = 'HEIF'\n    return image\n"
    )
    assert plan_run(folder, index).retried == 1
    assert run() == (1, [])
    extra_is_there.cache_clear()


# Which way up


def xmp(orientation):
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_orientation_that_xmp_alone_states_does_not_turn(format):
    picture = Image.new("RGB", (30, 10), (0, 0, 255))
    if format == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))
        data = png_of(24, 16, red_rows(), chunks=text)
    elif format == "TIFF":
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        tags = ImageFileDirectory_v2()
        tags[700] = xmp(6)
        tags.tagtype[700] = 7
        data = saved(picture, "TIFF", tiffinfo=tags)
    else:
        data = saved(picture, format, xmp=xmp(6))
    assert b"tiff:Orientation" in data
    with Image.open(io.BytesIO(data)) as image:
        size = image.size
        assert image.getexif().get(0x0112) == 6, "Pillow takes it from XMP"
        given = open_image(image)
    assert open_image(data).size == size
    if format != "TIFF":  # Pillow turns that itself as it loads it
        assert given.size == size


def test_exif_turns_whatever_xmp_states():
    picture = Image.new("RGB", (30, 10), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(saved(picture, "JPEG", exif=exif, xmp=xmp(3))).size == (10, 30)


def exif_that_is_not_turned_by(save):
    """A file of 96 × 64 whose EXIF says 6, without a box that turns: the tag is written under another number."""
    exif = Image.Exif()
    exif[0x0113] = 6
    data = save(Image.new("RGB", (96, 64), (0, 0, 255)), exif.tobytes())
    at = data.index(b"Exif\0\0") + 6
    order: Literal["little", "big"] = "little" if data[at : at + 2] == b"II" else "big"
    entry = (0x0113).to_bytes(2, order) + (3).to_bytes(2, order)
    assert data.count(entry) == 1 and b"irot" not in data
    return data.replace(entry, (0x0112).to_bytes(2, order) + entry[2:])


def test_case_31_exif_does_not_turn_a_heic():
    """Its boxes do, once: by the text of HEIF, EXIF is for information."""
    heif = pytest.importorskip("pillow_heif", reason="needs the extra 'heic'")

    def save(image, exif):
        buffer = io.BytesIO()
        heif.from_pillow(image).save(buffer, exif=exif)
        return buffer.getvalue()

    assert open_image(exif_that_is_not_turned_by(save)).size == (96, 64)
    turns = Image.Exif()
    turns[0x0112] = 6
    turned = save(Image.new("RGB", (96, 64), (0, 0, 255)), turns.tobytes())
    assert b"irot" in turned
    assert open_image(turned).size == (64, 96)


def test_exif_does_not_turn_an_avif_either():
    assert open_image(exif_that_is_not_turned_by(lambda image, exif: saved(image, "AVIF", exif=exif))).size == (
        96,
        64,
    )
    turns = Image.Exif()
    turns[0x0112] = 6
    turned = saved(Image.new("RGB", (96, 64), (0, 0, 255)), "AVIF", exif=turns)
    assert b"irot" in turned
    assert open_image(turned).size == (64, 96)
