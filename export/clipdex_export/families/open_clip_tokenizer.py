"""Conversion of OpenCLIP's tokenizers to a tokenizer.json, and of their cleaning to the card's steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex_export import tokenizer_json as tokenizer

__all__ = ["OpenClipTokens", "convert"]

# OpenCLIP's cleaning functions -> the same as steps of `clipdex.model.cleaning`.
_CLEANING = {
    "_clean_lower": "fix unescape whitespace lower",
    "_clean_whitespace": "fix unescape whitespace",
    "_clean_canonicalize": "fix unescape underscores punctuation lower whitespace",
}
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class OpenClipTokens:
    """A converted tokenizer; the fields are the card's."""

    tokenizer_json: bytes
    cleaning: str
    pad_id: int
    end_id: int


def convert(own: Any) -> OpenClipTokens:
    """Convert a tokenizer from open_clip.get_tokenizer.

    Raises:
        CheckpointError: it does something that the card cannot express, named in the message.
    """
    kind = type(own).__name__
    if kind == "SimpleTokenizer":
        if own.reduction_fn is not None:
            raise CheckpointError("the tokenizer drops words at random (reduction_mask); expected none")
        return OpenClipTokens(_simple_json(own), _cleaning(own), pad_id=0, end_id=own.eot_token_id)
    inner: Any = getattr(own, "tokenizer", None)
    if getattr(inner, "backend_tokenizer", None) is None:
        raise CheckpointError(f"OpenCLIP's {kind} has no tokenizer that can be written as a tokenizer.json")
    if getattr(own, "tokenizer_mode", ""):
        raise CheckpointError(f"clipdex does not support the tokenizer's mode {own.tokenizer_mode!r}")
    if inner.padding_side != "right":
        raise CheckpointError(f"the tokenizer pads on the {inner.padding_side}; clipdex supports only the right")
    data = tokenizer.tokenizer_json(inner)
    end_id = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    if end_id is None or inner.pad_token_id is None:
        raise CheckpointError("the tokenizer has no end token or no pad token")
    if getattr(own, "strip_sep_token", False):
        # OpenCLIP replaces the separator by 0 afterwards; here it is 0 from the start.
        data = _with_end_id(data, inner.sep_token, 0)
        end_id = 0
    # SigLipTokenizer has no choice of cleaning.
    cleaning = _CLEANING["_clean_canonicalize"] if kind == "SigLipTokenizer" else _cleaning(own)
    return OpenClipTokens(data, cleaning, pad_id=inner.pad_token_id, end_id=end_id)


def _cleaning(own: Any) -> str:
    name = getattr(own.clean_fn, "__name__", repr(own.clean_fn))
    if name not in _CLEANING:
        raise CheckpointError(f"the tokenizer cleans texts by {name}; clipdex knows {', '.join(_CLEANING)}")
    return _CLEANING[name]


def _simple_json(own: Any) -> bytes:
    """Convert SimpleTokenizer's byte-level BPE, with OpenAI's merges from the open_clip package."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

    merges = [pair for pair, _ in sorted(own.bpe_ranks.items(), key=lambda item: item[1]) if len(pair) == 2]
    written = Tokenizer(models.BPE(own.encoder, merges, end_of_word_suffix="</w>"))
    written.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"(?i:{_WORDS})"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    names = [own.decoder[i] for i in own.all_special_ids]
    written.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    start, end = names[:2]
    written.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, own.sot_token_id), (end, own.eot_token_id)]
    )
    text: str = written.to_str()
    return text.encode()


def _with_end_id(data: bytes, token: str, number: int) -> bytes:
    """Change the id that a tokenizer.json's post-processor writes for `token`."""
    parsed = json.loads(data)
    processor = parsed["post_processor"]
    if processor["type"] == "TemplateProcessing":
        processor["special_tokens"][token]["ids"] = [number]
    elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
        processor["sep"] = [token, number]
    else:
        raise CheckpointError(f"the tokenizer ends texts by {processor['type']}, which clipdex does not support")
    return json.dumps(parsed, ensure_ascii=False).encode()
