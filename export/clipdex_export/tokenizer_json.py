"""Conversion of a checkpoint's tokenizer to the `tokenizer.json` of the assets and the card's TextSpec."""

from __future__ import annotations

import hashlib
from typing import Any

from clipdex.base.errors import CardError, CheckpointError
from clipdex.model.card import TextSpec

__all__ = ["LEGACY_END_ID", "plain_json", "spec_of", "text_spec", "tokenizer_json"]

LEGACY_END_ID = 2  # in the config only: pooling then uses the largest id, whatever the tokenizer's end id


def tokenizer_json(tokenizer: Any) -> bytes:
    """Convert a transformers CLIPTokenizer to the bytes of a tokenizer.json that neither cuts nor pads.

    Cutting and padding are stated in the card only.
    """
    return plain_json(tokenizer.backend_tokenizer.to_str())


def plain_json(text: str) -> bytes:
    """Remove cutting and padding from a tokenizer.json, and write it as the tokenizers library does."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(text)
    backend.no_truncation()
    backend.no_padding()
    plain: str = backend.to_str()
    return plain.encode()


def text_spec(tokenizer: Any, data: bytes, text_config: Any) -> TextSpec:
    """Make the card's TextSpec, checked against the text tower.

    Raises:
        CheckpointError: tokenizer and text tower do not belong together.
    """
    end_id, pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if end_id is None:
        raise CheckpointError("the tokenizer has no end token, at which CLIP reads its vector")
    largest = max(tokenizer.get_vocab().values())
    _check_vocabulary(largest, text_config.vocab_size)
    configured = text_config.eos_token_id
    if configured == LEGACY_END_ID:
        if end_id != largest:
            raise CheckpointError(
                f"the config's eos_token_id of {LEGACY_END_ID} makes CLIP read its vector at the largest id, "
                f"but the tokenizer's end token is {end_id} of {largest}: set eos_token_id to {end_id}"
            )
    elif configured != end_id:
        raise CheckpointError(
            f"the text tower reads its vector at token {configured} (eos_token_id), but the tokenizer ends texts "
            f"with {end_id}: they do not belong to the same model"
        )
    return spec_of(
        data,
        vocabulary=text_config.vocab_size,
        context_length=text_config.max_position_embeddings,
        pad_id=end_id if pad_id is None else pad_id,
        end_id=end_id,
    )


def spec_of(
    data: bytes, *, vocabulary: int, context_length: int, pad_id: int, end_id: int, cleaning: str = "none"
) -> TextSpec:
    """Make the card's TextSpec from a tokenizer.json.

    Args:
        data: the tokenizer.json.
        vocabulary: the number of ids that the text tower knows.
        context_length, pad_id, end_id, cleaning: as in the card.

    Raises:
        CheckpointError: the tokenizer has ids that the text tower does not know, or a number is not usable.
    """
    from tokenizers import Tokenizer

    _check_vocabulary(max(Tokenizer.from_buffer(data).get_vocab().values()), vocabulary)
    try:
        return TextSpec(
            context_length=int(context_length),
            pad_id=int(pad_id),
            end_id=int(end_id),
            cleaning=cleaning,
            tokenizer_sha256=hashlib.sha256(data).hexdigest(),
        )
    except CardError as exc:
        raise CheckpointError(f"the text tower's config is not usable: {exc}") from exc


def _check_vocabulary(largest: int, vocabulary: int) -> None:
    if largest >= vocabulary:
        raise CheckpointError(
            f"the tokenizer has ids up to {largest}, but the text tower only {vocabulary} embeddings: "
            "they do not belong to the same model"
        )
