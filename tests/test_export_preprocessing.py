"""The checkpoint's preprocessor becomes the card's ImageSpec, or is refused by the name of the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipdex.base.errors import CheckpointError
from clipdex.model.card import ImageSpec

pytestmark = pytest.mark.torch
transformers = pytest.importorskip("transformers")

from clipdex_export.preprocessing import image_spec  # noqa: E402

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# preprocessor_config.json as openai/clip-vit-base-patch32 has had it since 2021.
OPENAI_2021: dict[str, Any] = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "resample": 3,
    "size": 224,
}
# As laion/CLIP-ViT-H-14 has it, written by a later transformers.
LAION_2023: dict[str, Any] = OPENAI_2021 | {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_convert_rgb": True,
}


def translated(tmp_path: Path, settings: dict[str, Any], image_size: int = 224) -> ImageSpec:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return image_spec(transformers.CLIPImageProcessorPil.from_pretrained(tmp_path), image_size)


@pytest.mark.parametrize("settings", [OPENAI_2021, LAION_2023], ids=["2021", "2023"])
def test_formats_old_and_new(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert translated(tmp_path, settings) == ImageSpec(
        size=224,
        resize_to=224,
        resize="shortest_edge",
        interpolation="bicubic",
        crop="center",
        fill=(255, 255, 255),
        mean=MEAN,
        std=STD,
    )


def test_what_transformers_writes_today(tmp_path: Path) -> None:
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 384}, crop_size={"height": 336, "width": 336}, resample=2
    ).save_pretrained(tmp_path)
    spec = image_spec(transformers.CLIPImageProcessorPil.from_pretrained(tmp_path), 336)
    assert (spec.size, spec.resize_to, spec.interpolation) == (336, 384, "bilinear")


def test_without_normalisation(tmp_path: Path) -> None:
    spec = translated(tmp_path, LAION_2023 | {"do_normalize": False})
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("do_resize", False),
        ("do_center_crop", False),
        ("do_rescale", False),
        ("rescale_factor", 1 / 127.5),
        ("size", {"height": 224, "width": 224}),
        ("size", {"shortest_edge": 224, "longest_edge": 500}),
        ("size", {"shortest_edge": 200}),
        ("crop_size", {"height": 224, "width": 200}),
        ("crop_size", 192),
        ("resample", 0),
        ("resample", 4),
    ],
)
def test_what_a_card_cannot_express_is_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"the preprocessor's {field} is .*; clipdex supports only "):
        translated(tmp_path, LAION_2023 | {field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("image_mean", [0.5]), ("image_std", [0, 1, 1]), ("image_mean", "x")]
)
def test_numbers_that_are_not_usable(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match="image_mean or image_std is not usable"):
        translated(tmp_path, LAION_2023 | {field: value})
