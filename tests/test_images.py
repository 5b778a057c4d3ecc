"""Decoding: each kind of picture by its rule, and each bad one by its reason."""

import io
import os
import socket
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipdex.base.errors import CardError, ImageError, InvalidArgument
from clipdex.model.card import ImageSpec
from clipdex.model.images import file_bytes, open_image, to_pixels

pytestmark = pytest.mark.thin

SPEC = ImageSpec(
    size=32,
    resize_to=32,
    resize="shortest_edge",
    interpolation="bicubic",
    crop="center",
    fill=(255, 255, 255),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def colour_of(source):
    """The one colour of a plain picture."""
    pixels = np.asarray(open_image(source))
    assert pixels.ndim == 3
    assert np.ptp(pixels.reshape(-1, 3), axis=0).max() <= 3
    return tuple(pixels[0, 0].tolist())


RED = Image.new("RGB", (20, 10), (200, 30, 40))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG", "AVIF"])
def test_each_format_is_read(format):
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.allclose(colour_of(saved(RED, format, **options)), (200, 30, 40), atol=4)


def test_grey_and_one_bit_become_rgb():
    assert colour_of(saved(Image.new("L", (5, 5), 77), "PNG")) == (77, 77, 77)
    assert colour_of(saved(Image.new("1", (5, 5), 1), "PNG")) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256)
    pixels = np.asarray(open_image(saved(Image.fromarray(ramp), "PNG")))
    assert pixels[0, :, 0].tolist() == list(range(256))


def test_float_grey_from_0_to_1_is_scaled():
    ramp = (np.arange(256, dtype=np.float32) / 255).reshape(1, 256)
    pixels = np.asarray(open_image(saved(Image.fromarray(ramp), "TIFF")))
    assert pixels[0, :, 0].tolist() == list(range(256))


def test_cmyk_becomes_rgb():
    assert np.allclose(colour_of(saved(RED.convert("CMYK"), "JPEG")), (200, 30, 40), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_shows_the_fill_and_not_a_hidden_colour(mode):
    hidden = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    if mode == "PA":
        hidden = hidden.convert("RGB").convert("P").convert("PA")
        hidden.putalpha(0)
    else:
        hidden = hidden.convert(mode)
    assert np.asarray(open_image(hidden, fill=(1, 2, 3)))[0, 0].tolist() == [1, 2, 3]


def test_half_transparent_is_blended():
    assert colour_of(Image.new("RGBA", (4, 4), (0, 0, 0, 128))) == (127, 127, 127)


def test_a_palette_with_a_transparent_entry_shows_the_fill():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30] + [0] * 765)
    data = saved(picture, "PNG", transparency=0)
    assert colour_of(data) == (255, 255, 255)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "RGB", "RGBX", "RGBA", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"],
)
def test_a_pillow_image_of_any_mode_is_a_picture(mode):
    """Grey, so that every mode can hold it."""
    if mode == "LAB":
        image = Image.new("LAB", (6, 4), (137, 128, 128))  # L* is 53.7 of 100
    else:
        grey = Image.new("L", (6, 4), 128)
        straight = {"RGBa": "RGBA", "La": "LA"}.get(mode, mode)
        image = grey.convert(straight, dither=Image.Dither.NONE).convert(mode)
    assert np.allclose(colour_of(image), 255 if mode == "1" else 128, atol=2)


def test_a_large_picture_is_converted_strip_by_strip_as_if_whole(monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (41, 30, 4), dtype=np.uint8)
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    pictures = [
        Image.fromarray(noise, "RGBA"),
        Image.fromarray(noise, "RGBA").convert("LA"),
        deep,
        deep.convert("F"),
    ]
    whole = [np.asarray(open_image(picture)) for picture in pictures]
    monkeypatch.setattr("clipdex.model.formats.flatten._STRIP_PIXELS", 100)
    for picture, expected in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(open_image(picture)), expected)


def test_the_callers_image_is_left_as_it_was():
    image = Image.new("RGBA", (6, 4), (1, 2, 3, 4))
    image.info["transparency"] = 9
    open_image(image)
    assert (image.mode, image.getpixel((0, 0)), image.info) == ("RGBA", (1, 2, 3, 4), {"transparency": 9})


def test_exif_orientation_turns_the_picture():
    picture = Image.new("RGB", (30, 10), (0, 0, 255))
    exif = picture.getexif()
    exif[0x0112] = 6
    assert open_image(saved(picture, "JPEG", exif=exif)).size == (10, 30)


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    assert colour_of(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


def test_arrays_are_pictures():
    assert open_image(np.zeros((4, 6, 3), np.uint8)).size == (6, 4)
    assert open_image(np.zeros((4, 6), np.uint8)).mode == "RGB"


@pytest.mark.parametrize(
    "source", [np.zeros((4, 6, 3), np.float32), np.zeros((4, 6, 5), np.uint8), np.zeros(4, np.uint8), 7, None]
)
def test_anything_else_is_the_callers_mistake(source):
    with pytest.raises(InvalidArgument):
        open_image(source)


def bomb():
    """A PNG that claims 60,000 × 60,000 pixels in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some text", "not_a_picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "unsupported"),
        (saved(RED, "JPEG")[:-60], "truncated"),
        (saved(RED, "PNG")[:45], "truncated"),
        (bomb(), "too_many_pixels"),
    ],
    ids=["empty", "text", "postscript", "cut jpeg", "cut png", "bomb"],
)
def test_a_bad_file_has_its_reason(data, reason):
    with pytest.raises(ImageError) as caught:
        open_image(data)
    assert caught.value.reason == reason


def test_the_message_names_the_file(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("hello")
    with pytest.raises(ImageError, match=r"notes\.jpg: not a picture"):
        open_image(path)
    with pytest.raises(ImageError, match="there is no such file"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, monkeypatch, not_for_ever, kind):
    monkeypatch.chdir(tmp_path)
    path = "/dev/null" if kind == "device" else f"{kind}.png"
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            listening.bind(path)
        for read in (open_image, file_bytes):
            with pytest.raises(ImageError) as caught:
                read(path)
            assert str(caught.value) == f"{path}: is a directory, FIFO, socket or device, not a file"
            assert caught.value.reason == "not_a_file"


def test_any_cut_of_a_picture_is_an_image_error_or_a_picture():
    data = saved(Image.effect_noise((64, 64), 50), "PNG")
    for length in range(0, len(data), max(1, len(data) // 64)):
        try:
            open_image(data[:length])
        except ImageError as exc:
            assert exc.reason in {"empty", "truncated", "broken", "not_a_picture"}


@pytest.mark.parametrize("size", [(32, 32), (100, 50), (50, 100), (7, 300), (3, 3), (1, 1), (33, 32)])
def test_pixels_have_the_shape_the_card_promises(size):
    pixels = to_pixels(Image.new("RGB", size, (9, 9, 9)), SPEC)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 9).all()


def test_a_very_long_picture_is_cut_before_it_is_resized():
    """A 2 × 40,000 strip would become 32 × 640,000; its middle is what remains either way."""
    strip = np.zeros((2, 40_000, 3), np.uint8)
    strip[:, 20_000:] = 255
    pixels = to_pixels(Image.fromarray(strip), SPEC)
    assert pixels[16, 2].tolist() == [0, 0, 0]
    assert pixels[16, -2].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("size", "resize", "crop", "box"),
    [
        # (width, height) of a red picture -> (left, top, right, bottom) of the red in 32 × 32 pixels
        ((64, 16), "squash", "none", (0, 0, 32, 32)),
        ((64, 16), "longest_edge", "pad", (0, 12, 32, 20)),
        ((16, 64), "longest_edge", "pad", (12, 0, 20, 32)),
        ((64, 14), "longest_edge", "pad", (0, 12, 32, 19)),  # the odd row of black is below
        ((64, 1), "longest_edge", "pad", (0, 15, 32, 16)),  # never thinner than a pixel
        ((64, 16), "shortest_edge", "center", (0, 0, 32, 32)),
    ],
)
def test_where_a_picture_ends_up(size, resize, crop, box):
    spec = replace(SPEC, resize=resize, crop=crop)
    pixels = to_pixels(Image.new("RGB", size, (255, 0, 0)), spec)
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert Image.fromarray(pixels).getbbox() == box


def test_half_a_pixel_over_is_cut_as_the_card_says():
    """35 columns, three over: one and a half to the left is one by Hugging Face, and two by torchvision."""
    stripes = np.broadcast_to(np.arange(35, dtype=np.uint8)[None, :, None], (32, 35, 3)).copy()
    lefts = [
        to_pixels(Image.fromarray(stripes), replace(SPEC, crop=crop))[0, 0, 0]
        for crop in ("center", "center_half_even")
    ]
    assert lefts == [1, 2]


@pytest.mark.parametrize("wrong", [{"resize": "squash"}, {"crop": "pad"}, {"resize": "squint"}])
def test_a_crop_that_does_not_belong_to_the_resize_is_refused(wrong):
    with pytest.raises(CardError, match="image"):
        replace(SPEC, **wrong)
