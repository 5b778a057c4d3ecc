"""The two towers as modules from wire tensors to unit vectors: what is written to ONNX.

Everything that depends on the checkpoint alone is inside: mean and std, the layout, the causal mask, the
pooling, the projection, the L2 norm. What stays outside is what a client must do with a file or a text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clipdex.card import ImageSpec
from clipdex.errors import CheckpointError

__all__ = ["ImageTower", "TextTower"]

# CLIP checkpoints from before 2023 say so in their config; transformers then pools at the largest id.
_LEGACY_END_ID = 2
# Every integer up to here is a float32 of its own.
_LARGEST_EXACT = 1 << 24


class ImageTower(nn.Module):
    """pixels uint8 (B, S, S, 3) -> embedding float32 (B, D), L2 norm 1."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: Any, spec: ImageSpec) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.projection = model.visual_projection
        # (x / 255 - mean) / std, as one multiplication and one addition a pixel.
        std = torch.tensor(spec.std, dtype=torch.float64)
        mean = torch.tensor(spec.mean, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float().reshape(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, D)."""
        # The layout changes while a pixel is still one byte.
        channels_first = pixels.permute(0, 3, 1, 2).to(torch.float32)
        pooled = self.vision_model(channels_first * self.scale + self.shift).pooler_output
        return _unit(self.projection(pooled))


class TextTower(nn.Module):
    """token_ids int32 (B, L) -> embedding float32 (B, D), L2 norm 1.

    No padding mask: attention is causal and the vector is read at the first end token, so nothing that
    stands behind it can change the result.
    """

    causal_mask: torch.Tensor
    earlier: torch.Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.projection = model.text_projection
        config = model.config.text_config
        self.end_id = int(config.eos_token_id)
        length = int(config.max_position_embeddings)
        if self.end_id == _LEGACY_END_ID and config.vocab_size * length > _LARGEST_EXACT:
            raise CheckpointError(
                f"a vocabulary of {config.vocab_size} with {length} positions is larger than the pooling of the "
                f"text tower can tell apart ({_LARGEST_EXACT} in all)"
            )
        hidden = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("causal_mask", hidden.reshape(1, 1, length, length))
        # Earlier positions score higher, so the largest score is the first of equals: runtimes differ in
        # which of several equal values their ArgMax returns.
        self.register_buffer("earlier", torch.arange(length - 1, -1, -1, dtype=torch.float32))
        self.length = length

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int32 (B, L) -> float32 (B, D)."""
        hidden = self.text_model(token_ids, attention_mask=self.causal_mask).last_hidden_state
        rows = torch.arange(hidden.shape[0])
        return _unit(self.projection(hidden[rows, self._end_position(token_ids)]))

    def _end_position(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int32 (B, L) -> int64 (B,): where the text ends, by transformers' rule for this config."""
        # In float32, since CUDA's ArgMax knows no integers and a copy to the CPU would stall the tower.
        if self.end_id == _LEGACY_END_ID:
            return (token_ids.to(torch.float32) * self.length + self.earlier).argmax(dim=1)
        return ((token_ids == self.end_id).to(torch.float32) * (self.earlier + 1)).argmax(dim=1)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """L2 norm 1; a vector of zeros stays one, where a plain division would give NaN."""
    return nn.functional.normalize(vectors, dim=-1, eps=1e-12)
