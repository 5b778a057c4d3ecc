"""Text becomes token ids, in the client, with the tokenizer that travels with the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipdex.card import TextSpec
from clipdex.cleaning import clean
from clipdex.errors import CardError, InvalidArgument

__all__ = ["Tokenizer"]


class Tokenizer:
    """A `tokenizer.json`, cut and padded to a model's context length."""

    def __init__(self, tokenizer_json: bytes, spec: TextSpec) -> None:
        # Imported here so that decode workers, which import clipdex too, start without it.
        from tokenizers import Tokenizer as Backend

        found = hashlib.sha256(tokenizer_json).hexdigest()
        if found != spec.tokenizer_sha256:
            raise CardError(
                f"the tokenizer's sha256 is {found[:12]}, the model card states {spec.tokenizer_sha256[:12]}: "
                "the assets are damaged; export the model again"
            )
        try:
            self._backend = Backend.from_buffer(tokenizer_json)
        except Exception as exc:  # the library raises a bare Exception
            raise CardError(f"the model's tokenizer.json cannot be read: {exc}") from exc
        self._backend.enable_truncation(max_length=spec.context_length)
        self._backend.enable_padding(length=spec.context_length, pad_id=spec.pad_id)
        self.spec = spec

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """list of B texts -> int32 (B, context_length). Longer texts are cut, the end token is kept.

        Raises:
            InvalidArgument: `texts` is a single string, or holds something else than strings.
        """
        if isinstance(texts, str):
            raise InvalidArgument("texts is a list of strings; for one text give a list of one: [text]")
        for text in texts:
            if not isinstance(text, str):
                raise InvalidArgument(f"a text is a string, not {type(text).__name__}: {text!r}")
        # A command line's undecodable bytes arrive as lone surrogates, which are no Unicode text.
        sound = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encodings = self._backend.encode_batch([clean(text, self.spec.cleaning) for text in sound])
        ids = np.array([e.ids for e in encodings], dtype=np.int32)
        return ids.reshape(len(sound), self.spec.context_length)
