"""A fake server, for tests of clipdex and of services that use it.

transport = clipdex.wire.FakeTransport(embedding_dim=16)
with clipdex.Client(transport) as clip:
    clip.embed_texts(["a cat"])     # float32 (1, 16), the same for the same text each time
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, ModelNotFound, RequestRefused
from clipdex.model.assets import SHA256_PARAMETER, pack_assets
from clipdex.model.card import ImageSpec, ModelCard, TextSpec
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import FINGERPRINT_PARAMETER, ModelConfig, ModelStatistics, ServerInfo

__all__ = ["FakeTransport"]

_END = "<|endoftext|>"


class FakeTransport:
    """A transport that answers each row at once with a unit vector determined by the row's bytes.

    `fault`, if given, sees each request first; an exception it returns becomes the request's answer.
    `requests` records (model, rows) of every request, in order.
    """

    def __init__(
        self,
        *,
        name: str = "fake",
        embedding_dim: int = 8,
        image_size: int = 32,
        max_batch_size: int = 16,
        weights: str = "fake weights",
        fault: Callable[[str, Mapping[str, Array]], Exception | None] | None = None,
    ) -> None:
        tokenizer = _byte_tokenizer()
        self.card = ModelCard(
            name=name,
            source="clipdex.wire.fake",
            revision="",
            weights_sha256=hashlib.sha256(weights.encode()).hexdigest(),
            embedding_dim=embedding_dim,
            image=ImageSpec(
                size=image_size,
                resize_to=image_size,
                resize="shortest_edge",
                interpolation="bicubic",
                crop="center",
                fill=(255, 255, 255),
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            ),
            text=TextSpec(
                context_length=64,
                pad_id=0,
                end_id=0,
                cleaning="none",
                tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
            ),
            logit_scale=100.0,
            logit_bias=0.0,
            precision="fp32",
        )
        self.requests: list[tuple[str, int]] = []
        self._assets = pack_assets(self.card, tokenizer)
        self._max_batch_size = max_batch_size
        self._fault = fault
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """fake:NAME."""
        return f"fake:{self.card.name}"

    def server(self, timeout_s: float) -> ServerInfo:
        """`fake`, version 0."""
        return ServerInfo("fake", "0")

    def models(self, timeout_s: float) -> list[str]:
        """The three models of one card."""
        return [f"{self.card.name}_{part}" for part in ("assets", "image", "text")]

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """One instance, with the given batch size."""
        if model not in self.models(timeout_s):
            raise ModelNotFound(f"{self.address} has no model {model!r}")
        fingerprint = {FINGERPRINT_PARAMETER: self.card.fingerprint}
        if model.endswith("_assets"):
            sha256 = hashlib.sha256(self._assets).hexdigest()
            return ModelConfig(model, 0, 1, {SHA256_PARAMETER: sha256} | fingerprint)
        return ModelConfig(model, self._max_batch_size, 1, fingerprint)

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Answer before returning."""
        answer: Future[Array] = Future()
        rows = max((len(array) for array in inputs.values()), default=0)
        with self._lock:
            self.requests.append((model, rows))
        error = self._fault(model, inputs) if self._fault else None
        error = error or self._refusal(model, rows, timeout_s)
        if error is not None:
            answer.set_exception(error)
        elif output == "bytes":
            start, end = int(inputs["start"][0]), int(inputs["end"][0])
            answer.set_result(np.frombuffer(self._assets[start:end], dtype=np.uint8))
        else:
            (batch,) = inputs.values()
            answer.set_result(np.stack([_unit_vector(row, self.card.embedding_dim) for row in batch]))
        return answer

    def _refusal(self, model: str, rows: int, timeout_s: float) -> ClipdexError | None:
        try:
            limit = self.config(model, timeout_s).max_batch_size
        except ModelNotFound as exc:
            return exc
        if limit and rows > limit:
            return RequestRefused(f"{model} takes at most {limit} rows in a request; this one has {rows}")
        return None

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """Zeros: nothing is counted; see `requests`."""
        return ModelStatistics()

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """True: arrays are never copied here."""
        return True

    def unshare(self, memory: SharedMemory) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _unit_vector(row: Array, dim: int) -> Array:
    """Draw float32 (dim,) of norm 1 from a generator seeded by an array's bytes."""
    seed = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def _byte_tokenizer() -> bytes:
    """Make a tokenizer.json with one token per byte, and an end token."""
    # Byte-level BPE writes byte b as a printable character: itself, or one from U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    alphabet = [chr(b) for b in printable] + [chr(0x100 + i) for i in range(len(others))]
    vocabulary = {_END: 0} | {char: i + 1 for i, char in enumerate(alphabet)}
    end = {"id": 0, "content": _END, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [end | flags],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "use_regex": False,
                "trim_offsets": False,
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": _END, "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {_END: {"id": _END, "ids": [0], "tokens": [_END]}},
            },
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        }
    ).encode()
