"""Pixels equal those of the families' own preprocessing, byte for byte: SigLIP's squash, OpenCLIP's three resizes.

OpenCLIP's transform runs on torchvision where that is installed, else on the arithmetic of torchvision_standin.py.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipdex.model.card import ImageSpec
from clipdex.model.images import open_image, to_pixels

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_preprocessing_equals_hf import SHAPES  # noqa: E402
from torchvision_standin import import_open_clip  # noqa: E402

from clipdex_export.photographs import gate_pictures, photograph  # noqa: E402
from clipdex_export.preprocessing import squash_spec  # noqa: E402

# Sizes whose crop has an odd number of pixels over, 3 and 7 of them among these.
SIZES = [224, 63]


def spec_of_open_clip(size: int, mode: str, interpolation: str) -> ImageSpec:
    from clipdex_export.families.open_clip_preprocessing import image_spec

    settings = {"size": size, "mean": 0.5, "std": 0.5, "fill_color": 0}
    return image_spec(settings | {"resize_mode": mode, "interpolation": interpolation}, "a test")


def open_clip_pixels(size: int, mode: str, interpolation: str, image: Image.Image) -> np.ndarray:
    transform = import_open_clip().image_transform(
        size, is_train=False, mean=0.5, std=0.5, resize_mode=mode, interpolation=interpolation
    )
    normalised: Any = transform(image)  # float32 (3, S, S), from -1 to 1
    return ((normalised.numpy() * 0.5 + 0.5) * 255).round().astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", SIZES)
def test_open_clip(size: int, mode: str, interpolation: str) -> None:
    spec = spec_of_open_clip(size, mode, interpolation)
    shapes = [*SHAPES.values(), *[(size, size + over) for over in range(1, 12)]]
    for shape in shapes:
        if max(shape) > 1000:
            continue
        image = photograph("chelsea.png").resize(shape)
        ours, theirs = to_pixels(image, spec), open_clip_pixels(size, mode, interpolation, image)
        np.testing.assert_array_equal(ours, theirs, err_msg=str(shape))


def test_the_crops_of_the_two_libraries_are_not_the_same() -> None:
    """Else the test above would hold for either of them."""
    spec = spec_of_open_clip(63, "shortest", "bicubic")
    image = photograph("chelsea.png").resize((63, 66))
    from dataclasses import replace

    assert (to_pixels(image, spec) != to_pixels(image, replace(spec, crop="center"))).any()


@pytest.mark.parametrize("resample", [2, 3])
def test_siglip(resample: int) -> None:
    from transformers import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": 64, "width": 64}, resample=resample)
    spec = squash_spec(processor, 64)
    for picture in gate_pictures():
        if len(picture.data) > 300_000:
            continue
        with Image.open(io.BytesIO(picture.data)) as image:
            raw = processor(image.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="np")
        ours = to_pixels(open_image(picture.data, fill=spec.fill), spec)
        np.testing.assert_array_equal(ours, raw["pixel_values"][0].transpose(1, 2, 0), err_msg=picture.name)
