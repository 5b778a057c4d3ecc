"""Conversion of a SentencePiece model to a tokenizer.json, so that clients do not need SentencePiece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex_export.weights import one_line

__all__ = ["unigram_json"]

_UNIGRAM, _CONTROL = 1, 3  # of SentencePiece's protocol


def unigram_json(path: Path, end_token: str) -> bytes:
    """Make the tokenizer.json of a unigram model that ends each text with `end_token`.

    White space is handled as in SentencePiece: runs become one space, and a text begins with one. Texts with stray
    combining marks may differ, because tokenizers normalises by grapheme.

    Raises:
        CheckpointError: the file is not a SentencePiece model of the kind unigram.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    model = _read(path)
    trained = model.trainer_spec
    if trained.model_type != _UNIGRAM:
        raise CheckpointError(f"{path} is not a SentencePiece model of the kind unigram")
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    names = [name for name, _ in pieces]
    if end_token not in names:
        raise CheckpointError(f"{path} has no end token {end_token}")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=trained.unk_id, byte_fallback=trained.byte_fallback))
    steps = [
        normalizers.Replace("▁", " "),
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Strip(),
    ]
    characters = model.normalizer_spec.precompiled_charsmap
    if characters:
        steps.insert(1, normalizers.Precompiled(characters))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    end_id = names.index(end_token)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end_token}", special_tokens=[(end_token, end_id)]
    )
    tokenizer.add_special_tokens([piece.piece for piece in model.pieces if piece.type == _CONTROL])
    text: str = tokenizer.to_str()
    return text.encode()


def _read(path: Path) -> Any:
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        return import_protobuf().ModelProto.FromString(path.read_bytes())
    # protobuf raises its own kinds of errors.
    except Exception as exc:
        raise CheckpointError(f"{path} cannot be read as a SentencePiece model: {one_line(exc)}") from exc
