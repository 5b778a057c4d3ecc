"""Pixels equal those of Hugging Face's PIL image processor, byte for byte, before normalisation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipdex.model.card import ImageSpec
from clipdex.model.images import open_image, to_pixels

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")

from clipdex_export.photographs import Picture, gate_pictures, photograph  # noqa: E402
from clipdex_export.preprocessing import image_spec  # noqa: E402

# (size, resize_to, resample): the processors of CLIP B and L, L@336, MetaCLIP-like and small ones.
PROCESSORS = {
    "224": (224, 224, 3),
    "336": (336, 336, 3),
    "64": (64, 64, 3),
    "224 out of 256": (224, 256, 3),
    "odd": (223, 225, 3),
    "bilinear": (224, 224, 2),
    "lanczos": (224, 224, 1),
}
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "rocket.jpg")
SHAPES = {
    "portrait": (301, 449),
    "landscape": (449, 301),
    "square": (300, 300),
    "crop size": (224, 224),
    "one less": (223, 224),
    "one more": (224, 225),
    "tall": (40, 900),
    "wide": (900, 40),
    "tiny": (5, 3),
    "one pixel high": (30, 1),
    "huge": (4500, 3001),
    "round half": (333, 1000),
}


def hugging_face(size: int, resize_to: int, resample: int):
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": resize_to}, crop_size={"height": size, "width": size}, resample=resample
    )


def expected_pixels(processor, data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        out = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    assert out.dtype == np.uint8
    return out[0].transpose(1, 2, 0)


def our_pixels(data: bytes, spec: ImageSpec) -> np.ndarray:
    return to_pixels(open_image(data, fill=spec.fill), spec)


@pytest.mark.slow
@pytest.mark.parametrize("settings", PROCESSORS.values(), ids=PROCESSORS.keys())
def test_every_kind_of_file(settings: tuple[int, int, int]) -> None:
    processor = hugging_face(*settings)
    spec = image_spec(processor, settings[0])
    for picture in gate_pictures():
        ours, theirs = our_pixels(picture.data, spec), expected_pixels(processor, picture.data)
        assert ours.dtype == np.uint8 and ours.shape == (spec.size, spec.size, 3)
        np.testing.assert_array_equal(ours, theirs, err_msg=picture.name)


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, id=name, marks=[pytest.mark.slow] * (name == "huge")) for name, shape in SHAPES.items()],
)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_every_shape(name: str, shape: tuple[int, int]) -> None:
    picture = saved(name, shape)
    for settings in (PROCESSORS["224"], PROCESSORS["64"]):
        processor = hugging_face(*settings)
        spec = image_spec(processor, settings[0])
        np.testing.assert_array_equal(our_pixels(picture.data, spec), expected_pixels(processor, picture.data))


def test_a_picture_too_long_to_resize_whole_keeps_its_middle() -> None:
    """Beyond 32 crops' length only the middle is resized: not byte for byte, yet the same picture."""
    picture = saved("coffee.png", (12, 600))
    processor = hugging_face(*PROCESSORS["224"])
    spec = image_spec(processor, 224)
    ours = our_pixels(picture.data, spec).astype(int)
    theirs = expected_pixels(processor, picture.data).astype(int)
    assert np.abs(ours - theirs).mean() < 12


def saved(name: str, shape: tuple[int, int]) -> Picture:
    buffer = io.BytesIO()
    image = photograph(name).resize(shape, Image.Resampling.BILINEAR)
    image.save(buffer, "JPEG" if max(shape) > 1000 else "PNG")
    return Picture(f"{name} {shape}", buffer.getvalue())
