"""The tokenizer of a source, and its rules for the card: length, padding, cleaning, mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex.model.card import TextSpec
from clipdex_export.onnx_sources.layout import Style
from clipdex_export.onnx_sources.tower_file import MaskRule, TowerFile
from clipdex_export.tokenizer_json import plain_json, spec_of
from clipdex_export.weights import one_line

__all__ = ["TextRules", "text_rules"]

_LONGEST = 32_768
# transformers leaves out of a config.json what is its own default.
_DEFAULT_LENGTHS = {"clip": 77, "siglip": 64}


@dataclass(frozen=True)
class TextRules:
    """The preparation of texts. mask: what the graph's attention mask says, if it has one."""

    spec: TextSpec
    tokenizer_json: bytes
    mask: MaskRule


def text_rules(
    path: Path, settings: Mapping[str, Any], config: Mapping[str, Any], style: Style, tower: TowerFile
) -> TextRules:
    """Read a tokenizer.json.

    Args:
        path: the tokenizer.json.
        settings: of tokenizer_config.json.
        config: of config.json.
        style: whose files these are.
        tower: the text tower, whose length and vocabulary must fit.

    Raises:
        CheckpointError: the tokenizer cannot be read, does not fit the tower, or cannot be described by the card.
    """
    from tokenizers import Tokenizer

    try:
        text = path.read_text(encoding="utf-8")
        own = Tokenizer.from_str(text)
        plain = plain_json(text)
    # The library raises bare Exceptions.
    except Exception as exc:
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {one_line(exc)}") from exc
    for side, does in (("padding_side", "pads"), ("truncation_side", "cuts")):
        if settings.get(side, "right") != "right":
            raise CheckpointError(f"{path}: the tokenizer {does} on the left; clipdex supports only the right")
    ends = own.encode("a").ids
    if not ends or len(ends) <= len(own.encode("a", add_special_tokens=False).ids):
        raise CheckpointError(f"{path}: the tokenizer adds no end token to a text")
    end_id = ends[-1]
    pad_id = _pad_id(own, settings, config)
    pad_id = end_id if pad_id is None else pad_id
    spec = spec_of(
        plain,
        vocabulary=tower.vocabulary or 1 + max(own.get_vocab().values()),
        context_length=_length(own, settings, config, style, tower, path),
        pad_id=pad_id,
        end_id=end_id,
        cleaning=_cleaning(config) if style == "open_clip" else "none",
    )
    return TextRules(spec, plain, _mask(tower, config, pad_id, end_id))


def _pad_id(own: Any, settings: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    token = settings.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str) and own.token_to_id(token) is not None:
        return int(own.token_to_id(token))
    if own.padding is not None:
        return int(own.padding["pad_id"])
    stated = _text_config(config).get("pad_token_id")
    return stated if isinstance(stated, int) and 0 <= stated < own.get_vocab_size() else None


def _length(
    own: Any,
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    style: Style,
    tower: TowerFile,
    path: Path,
) -> int:
    """Return the number of tokens of a text: the graph's, else the model's, else the tokenizer's."""
    text = _text_config(config)
    model_type = config.get("model_type")
    stated = [
        tower.length,
        text.get("context_length", 77) if style == "open_clip" else None,
        text.get("max_position_embeddings") if model_type in _DEFAULT_LENGTHS else None,
        settings.get("model_max_length"),  # 1e30 where it is unknown
        own.truncation["max_length"] if own.truncation is not None else None,
        _DEFAULT_LENGTHS.get(str(model_type)),
        text.get("max_position_embeddings") if text is not config else None,
    ]
    for length in stated:
        if isinstance(length, int) and not isinstance(length, bool) and 0 < length <= _LONGEST:
            return length
    raise CheckpointError(f"{path}: nothing says how many tokens a text has; set model_max_length")


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the text part of a transformers or OpenCLIP config; for a text-only model, the whole config."""
    for name in ("text_config", "text_cfg"):
        if isinstance(config.get(name), dict):
            part: Mapping[str, Any] = config[name]
            return part
    return config


def _cleaning(config: Mapping[str, Any]) -> str:
    """Return the steps by which Immich cleans a text before tokenizing it, as the card names them."""
    options = _text_config(config).get("tokenizer_kwargs")
    canonical = isinstance(options, dict) and options.get("clean") == "canonicalize"
    return "whitespace punctuation lower" if canonical else "whitespace"


def _mask(tower: TowerFile, config: Mapping[str, Any], pad_id: int, end_id: int) -> MaskRule:
    if tower.mask is None:
        return "none"
    if config.get("model_type") == "siglip":
        return "ones"  # SigLIP was trained without hiding padding
    return "until_end" if pad_id == end_id else "not_padding"
