"""What must never reach a repository is caught by the gate, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdex.errors import ExportError, ParityError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tiny_clip import everything_in, write_tiny  # noqa: E402

from clipdex_export import export_model, parity, preprocessing, tokenizer, towers  # noqa: E402
from clipdex_export.parity import Side, check  # noqa: E402
from clipdex_export.photographs import Picture  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint"), merges=300)


@pytest.fixture
def refused(checkpoint: Path, tmp_path: Path) -> Callable[[str], None]:
    """Export must raise a ParityError that says this, and the repository must be as before."""
    repository = tmp_path / "repository"
    (repository / "other_image").mkdir(parents=True)

    def refused(message: str) -> None:
        before = everything_in(tmp_path)
        with pytest.raises(ParityError, match=message):
            export_model(checkpoint, name="tiny", repository=repository)
        assert everything_in(tmp_path) == before

    return refused


def wrong_spec(**changes: Any) -> Callable[..., Any]:
    right = preprocessing.image_spec
    return lambda *args: replace(right(*args), **changes)


def test_bilinear_for_bicubic(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(interpolation="bilinear"))
    refused("the preprocessing departs from the checkpoint's own: .* pictures, worst '")


def test_a_resize_without_antialias(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few pixels taken, none averaged: what OpenCV and torch's interpolate do by default."""

    def nearest(image: Any, spec: Any) -> Any:
        image = image.resize((spec.size, spec.size), resample=0)
        return np.asarray(image)

    monkeypatch.setattr(parity, "to_pixels", nearest)
    refused("the preprocessing departs")


def test_a_resize_to_another_size(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(resize_to=72))
    refused("the preprocessing departs")


def test_another_mean(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "image_spec", wrong_spec(mean=(0.9, 0.1, 0.1)))
    refused("the image tower departs from PyTorch although its inputs are equal: cosine 0")


def test_a_swapped_tokenizer(refused, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    from transformers import CLIPTokenizer

    other = write_tiny(tmp_path_factory.mktemp("other"), merges=200)
    right, swapped = tokenizer.tokenizer_json, CLIPTokenizer.from_pretrained(other)
    monkeypatch.setattr(tokenizer, "tokenizer_json", lambda _: right(swapped))
    refused("the tokenizer departs from the checkpoint's own: .* texts, worst '")


def test_a_tokenizer_that_does_not_lower_case(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    right = tokenizer.tokenizer_json
    monkeypatch.setattr(tokenizer, "tokenizer_json", lambda t: right(t).replace(b',{"type":"Lowercase"}', b""))
    refused("the tokenizer departs")


def test_a_layer_that_is_dropped(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(towers.ImageTower):
        def __init__(self, model: Any, spec: Any) -> None:
            super().__init__(model, spec)
            self.vision_model.encoder.layers = torch.nn.ModuleList()

    monkeypatch.setattr(towers, "ImageTower", Lazy)
    refused("the image tower departs")


def test_a_text_tower_that_pools_elsewhere(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        towers.TextTower, "_end_position", lambda self, ids: torch.zeros(ids.shape[0], dtype=torch.int64)
    )
    refused("the text tower departs from PyTorch although its inputs are equal")


def test_vectors_that_are_not_of_length_one(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "_unit", lambda vectors: vectors)
    refused("has L2 norm .*; expected 1")


# the verdict itself


def side(**changes: Any) -> Side:
    """Two pictures and two texts with equal, unit vectors."""
    vectors = np.eye(2, 4, dtype=np.float32)
    sound = Side(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 5), np.int32), vectors, vectors)
    return replace(sound, **changes)


PICTURES = [Picture("first", b""), Picture("second", b"")]
TEXTS = ["one", "two"]


def test_a_report() -> None:
    report = check(side(), side(), PICTURES, TEXTS)
    assert (report.images, report.texts, report.pixel_mismatches, report.token_mismatches) == (2, 2, 0, 0)
    assert report.image_cosine_min == report.text_cosine_mean == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_no_number(bad: float) -> None:
    vectors = np.eye(2, 4, dtype=np.float32)
    vectors[1, 1] = bad
    with pytest.raises(ParityError, match=r"the text tower .* 'two'"), np.errstate(invalid="ignore"):
        check(side(), side(text=vectors), PICTURES, TEXTS)


def test_a_vector_of_zeros() -> None:
    with pytest.raises(ParityError, match=r"the image tower departs .* cosine 0\.000000 for 'first'"):
        check(side(), side(image=np.zeros((2, 4), np.float32)), PICTURES, TEXTS)


def test_just_below_and_just_above_the_floor() -> None:
    def turned(cosine: float) -> np.ndarray:
        vectors = np.eye(2, 4)
        vectors[1] = [0, cosine, np.sqrt(1 - cosine**2), 0]
        return vectors.astype(np.float32)

    assert check(side(), side(image=turned(0.99991)), PICTURES, TEXTS).image_cosine_min >= 0.9999
    with pytest.raises(ParityError, match=r"0\.99989.* for 'second', the floor is 0\.9999"):
        check(side(), side(image=turned(0.99989)), PICTURES, TEXTS)


def test_one_pixel_value_is_enough() -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[1, 3, 3, 0] = 1
    with pytest.raises(ParityError, match="1 of 2 pictures, worst 'second' with 1 of 192 pixel values"):
        check(side(), side(pixels=pixels), PICTURES, TEXTS)


def test_a_parity_error_is_an_export_error() -> None:
    assert issubclass(ParityError, ExportError)
