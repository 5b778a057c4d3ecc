"""What must never reach a repository is caught in the other families, too, by their own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipdex.base.errors import ParityError

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tiny_clip import everything_in  # noqa: E402

from clipdex_export import export_model, gate, preprocessing, towers  # noqa: E402
from clipdex_export.families import open_clip, open_clip_tokenizer, siglip  # noqa: E402
from clipdex_export.photographs import gate_pictures  # noqa: E402


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    few = tuple(picture for picture in gate_pictures() if len(picture.data) < 60_000)
    monkeypatch.setattr(gate, "gate_pictures", lambda drawn=False: few)
    yield


@pytest.fixture
def refused(family_sources: dict[str, str], tmp_path: Path) -> Callable[[str, str], None]:
    """Export must raise a ParityError that says this, and leave nothing behind."""

    def refused(case: str, message: str) -> None:
        with pytest.raises(ParityError, match=message):
            export_model(family_sources[case], name="tiny", repository=tmp_path / "repository")
        assert everything_in(tmp_path) == []

    return refused


def changed(right: Callable[..., Any], **changes: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: replace(right(*args, **kwargs), **changes)


def test_bilinear_for_siglip_s_bicubic(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "squash_spec", changed(preprocessing.squash_spec, interpolation="bilinear"))
    refused("siglip", "the preprocessing departs")


def test_a_crop_for_open_clip_s_padding(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = changed(open_clip.image_spec, resize="shortest_edge", crop="center_half_even")  # type: ignore[attr-defined]
    monkeypatch.setattr(open_clip, "image_spec", wrong)
    refused("open_clip_coca", "the preprocessing departs")


def test_siglip_without_its_cleaning(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    right = siglip._load_tokenizer
    monkeypatch.setattr(siglip, "_load_tokenizer", lambda directory: (*right(directory)[:2], "none"))
    refused("siglip", "the tokenizer departs")


def test_open_clip_without_ftfy_s_repairs(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip_tokenizer._CLEANING, "_clean_lower", "whitespace lower")
    refused("open_clip_vit", "the tokenizer departs")


def test_open_clip_with_the_tokenizer_of_hugging_face(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same merges and ids; but it pads with the end token, where OpenCLIP pads with 0."""
    right = open_clip.convert  # type: ignore[attr-defined]
    monkeypatch.setattr(open_clip, "convert", lambda own: replace(right(own), pad_id=right(own).end_id))
    refused("open_clip_vit", "the tokenizer departs")


def test_padding_that_is_seen(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "HIDDEN", 0.0)
    refused("pair_st", "the text tower departs")
