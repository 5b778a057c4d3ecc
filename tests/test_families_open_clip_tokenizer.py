"""What a tokenizer of OpenCLIP does and the card cannot say is refused, by name; a separator becomes the id 0."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from clipdex.base.errors import CheckpointError

pytestmark = pytest.mark.torch
pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, processors  # noqa: E402

from clipdex_export.families.open_clip_tokenizer import convert  # noqa: E402

WORDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "cat": 3}


def backend(processor: Any) -> Tokenizer:
    written = Tokenizer(models.WordLevel(WORDS, unk_token="[PAD]"))
    written.post_processor = processor
    return written


BERT = backend(processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)))
BYTES = backend(processors.ByteLevel())
TEMPLATE = backend(processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]))


class HFTokenizer(SimpleNamespace):
    """OpenCLIP's class of that name, as far as it is read."""


def _clean_whitespace(text: str) -> str:
    return text


def tokenizer_of(inner: dict[str, Any] | None = None, **changes: Any) -> HFTokenizer:
    made: dict[str, Any] = {
        "backend_tokenizer": BERT,
        "padding_side": "right",
        "eos_token_id": None,
        "sep_token_id": 2,
        "sep_token": "[SEP]",
        "pad_token_id": 0,
    }
    return HFTokenizer(
        **{"tokenizer": SimpleNamespace(**made | (inner or {})), "clean_fn": _clean_whitespace} | changes
    )


def encoded(data: bytes) -> list[int]:
    ids: list[int] = Tokenizer.from_str(data.decode()).encode("cat").ids
    return ids


def test_a_text_ends_with_the_separator_where_there_is_no_end_token():
    found = convert(tokenizer_of())
    assert (found.pad_id, found.end_id, found.cleaning) == (0, 2, "fix unescape whitespace")
    assert encoded(found.tokenizer_json) == [1, 3, 2]
    assert convert(tokenizer_of({"eos_token_id": 1})).end_id == 1


@pytest.mark.parametrize("kind", [BERT, TEMPLATE], ids=["BERT", "template"])
def test_a_separator_that_open_clip_strips_is_the_id_0_from_the_start(kind):
    found = convert(tokenizer_of({"backend_tokenizer": kind}, strip_sep_token=True))
    assert found.end_id == 0
    assert encoded(found.tokenizer_json) == [1, 3, 0]
    assert json.loads(found.tokenizer_json)["model"]["vocab"] == WORDS


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (tokenizer_of({"backend_tokenizer": None}), "HFTokenizer has no tokenizer that can be written"),
        (tokenizer_of(tokenizer_mode="clips"), "does not support the tokenizer's mode 'clips'"),
        (tokenizer_of({"padding_side": "left"}), "pads on the left"),
        (tokenizer_of({"pad_token_id": None}), "no end token or no pad token"),
        (tokenizer_of({"sep_token_id": None}), "no end token or no pad token"),
        (tokenizer_of(clean_fn=str.title), "cleans texts by title; clipdex knows _clean_lower"),
        (
            tokenizer_of({"backend_tokenizer": BYTES}, strip_sep_token=True),
            "by ByteLevel",
        ),
    ],
)
def test_what_the_card_cannot_say_is_refused_by_name(given, says):
    with pytest.raises(CheckpointError, match=says) as refused:
        convert(given)
    assert "\n" not in str(refused.value)
