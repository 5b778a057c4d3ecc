"""The model card: reading, refusing, and what its fingerprint depends on."""

import json
from dataclasses import replace

import pytest

from clipdex.base.errors import CardError
from clipdex.model.card import ModelCard
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

CARD = FakeTransport().card


def changed(**fields):
    return json.dumps(json.loads(CARD.to_json()) | fields)


def test_what_is_written_is_read_back():
    assert ModelCard.from_json(CARD.to_json()) == CARD


def test_the_format_version_comes_first():
    assert list(json.loads(CARD.to_json()))[:3] == ["format", "format_version", "fingerprint"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a model card"),
        ('{"format": "something else"}', "not a model card"),
        (changed(format_version=2), "format version 2"),
        (changed(embedding_dim=9), "was changed after export"),
        (changed(embedding_dim="eight"), "embedding_dim is 'eight'; expected a whole number"),
        (changed(embedding_dim=0), "embedding_dim is 0"),
        (changed(name="../../etc"), "is not a valid model name"),
        (changed(image=None), "image is None; expected an object"),
        (changed(image=json.loads(CARD.to_json())["image"] | {"resize": "squint"}), "image.resize"),
        (changed(image=json.loads(CARD.to_json())["image"] | {"surprise": 1}), "wrong field"),
        (changed(precision="fp4"), "precision"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_bad_card_is_refused_in_words(text, says):
    with pytest.raises(CardError, match=says):
        ModelCard.from_json(text)


def test_a_missing_field_is_named():
    data = json.loads(CARD.to_json())
    del data["logit_scale"]
    with pytest.raises(CardError, match="logit_scale"):
        ModelCard.from_json(json.dumps(data))


def test_name_source_and_precision_leave_the_fingerprint():
    same = replace(CARD, name="other", source="elsewhere", revision="2", precision="fp16", parity={"x": 1})
    assert same.fingerprint == CARD.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        replace(CARD, weights_sha256="0" * 64),
        replace(CARD, image=replace(CARD.image, interpolation="bilinear")),
        replace(CARD, image=replace(CARD.image, mean=(0.1, 0.0, 0.0))),
        replace(CARD, text=replace(CARD.text, tokenizer_sha256="0" * 64)),
    ],
    ids=["weights", "interpolation", "mean", "tokenizer"],
)
def test_what_changes_the_vectors_changes_the_fingerprint(other):
    assert other.fingerprint != CARD.fingerprint
