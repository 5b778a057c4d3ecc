"""Tokenization in the client, with the tokenizer that comes with the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import CardError
from clipdex.model.card import TextSpec
from clipdex.model.cleaning import clean
from clipdex.model.texts import text_list

__all__ = ["Tokenizer"]

_LARGEST_ID = 2**31 - 1


class Tokenizer:
    """A `tokenizer.json` that cuts and pads texts to a model's context length."""

    def __init__(self, tokenizer_json: bytes, spec: TextSpec) -> None:
        # Imported here so that decode workers, which also import clipdex, start without it.
        from tokenizers import Tokenizer as Backend

        found = hashlib.sha256(tokenizer_json).hexdigest()
        if found != spec.tokenizer_sha256:
            raise CardError(
                f"the tokenizer's sha256 is {found[:12]}, but the model card states {spec.tokenizer_sha256[:12]}: "
                "the assets are damaged; export the model again"
            )
        self.spec = spec
        with _faults_told("cannot be read"):
            self._backend = Backend.from_buffer(tokenizer_json)
            self._backend.enable_truncation(max_length=spec.context_length)
            self._backend.enable_padding(length=spec.context_length, pad_id=spec.pad_id)
        self._encoded(["a"])  # a file that parses may still be unable to tokenize

    def __call__(self, texts: Iterable[str]) -> npt.NDArray[np.int32]:
        """Tokenize B texts -> int32 (B, context_length). Longer texts are cut, but keep the end token.

        Raises:
            InvalidArgument: `texts` is a single string, or contains something other than strings.
            CardError: the tokenizer does not give token ids of that length.
        """
        return self.encode(texts)[0]

    def encode(self, texts: Iterable[str]) -> tuple[npt.NDArray[np.int32], list[str]]:
        """Tokenize B texts -> int32 (B, context_length), and the part of each beyond the context, "" for none."""
        return self._encoded(self._cleaned(texts))

    def counts(self, texts: Iterable[str]) -> list[int]:
        """Count the tokens of each text that are embedded: without padding, with the end token."""
        with _faults_told("cannot be used"):
            return [sum(each.attention_mask) for each in self._backend.encode_batch(self._cleaned(texts))]

    def _cleaned(self, texts: Iterable[str]) -> list[str]:
        # Undecodable bytes on a command line arrive as lone surrogates, which are not valid Unicode text.
        sound = [text.encode("utf-8", "replace").decode("utf-8") for text in text_list(texts)]
        return [clean(text, self.spec.cleaning) for text in sound]

    def _encoded(self, texts: list[str]) -> tuple[npt.NDArray[np.int32], list[str]]:
        with _faults_told("cannot be used"):
            encodings = self._backend.encode_batch(texts)
            ids = np.array([e.ids for e in encodings], dtype=np.int64)
            length = self.spec.context_length
            if ids.size != len(texts) * length or np.any(ids > _LARGEST_ID):
                raise ValueError(f"it does not give {length} token ids of 31 bits for each text")
        lost = [_lost(text, each) for text, each in zip(texts, encodings, strict=True)]
        return ids.reshape(len(texts), length).astype(np.int32), lost


def _lost(text: str, encoding: Any) -> str:
    """Return the end of a text, from the first token that did not fit."""
    starts = [start for beyond in encoding.overflowing for start, end in beyond.offsets if end > start]
    return text[min(starts) :] if starts else ""


@contextmanager
def _faults_told(what: str) -> Iterator[None]:
    """Turn any error of the tokenizers library into a CardError about the model's tokenizer."""
    try:
        yield
    except BaseException as exc:
        # The library raises bare Exceptions, and panics of its Rust code, which are not even Exceptions.
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise CardError(f"the model's tokenizer.json {what}: {' '.join(str(exc).split())[:300]}") from exc
