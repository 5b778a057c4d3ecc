"""The two towers, as modules from wire tensors to unit vectors, which are written to ONNX.

They contain everything that depends only on the checkpoint: mean and std, the layout, the masks, the pooling, the
projection, the L2 norm. Outside is only what a client must do with a file or a text.

In half precision, what a tower computes itself stays float32; what its `network` and `head` compute does not
(float16.py distinguishes them by the names of the graph's nodes).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import nn

from clipdex.base.errors import CheckpointError
from clipdex.model.card import ImageSpec

__all__ = ["HIDDEN", "ImageTower", "Mask", "Pooling", "TextTower"]

# The tokens that a token attends to: those before it, all, or all but padding.
Mask: TypeAlias = Literal["causal", "none", "padding"]
# The position of a text's vector: the first end token, the largest id, the last or first position, or the mean of
# all but padding; "network" if the network itself gives one vector per text.
Pooling: TypeAlias = Literal["end", "largest", "last", "first", "mean", "network"]

# float32 represents every integer up to here exactly.
_LARGEST_EXACT = 1 << 24
# Added to the scores of masked tokens: their weight becomes zero in float32, and the number exists in float16.
HIDDEN = -60_000.0


class ImageTower(nn.Module):
    """The image tower: pixels uint8 (B, S, S, 3) -> embedding float32 (B, D), L2 norm 1.

    network: normalised pixels float32 (B, 3, S, S) -> features (B, D).
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, spec: ImageSpec) -> None:
        super().__init__()
        self.network = network
        # (x / 255 - mean) / std, as one multiplication and one addition per pixel.
        std = torch.tensor(spec.std, dtype=torch.float64)
        mean = torch.tensor(spec.mean, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float().reshape(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, D)."""
        # The layout is changed while a sample is still one byte.
        channels_first = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return _unit(self.network(channels_first * self.scale + self.shift))


class TextTower(nn.Module):
    """The text tower: token_ids int32 (B, L) -> embedding float32 (B, D), L2 norm 1.

    network: (token_ids, mask) -> hidden states (B, L, W), or one vector per text if `pooling` is "network". The
    mask is None, or is added to the scores: (1, 1, L, L) if causal, (B, 1, 1, L) if it hides padding.
    head: (B, W) -> (B, D). vocabulary: the number of ids, for the pooling at the largest.
    """

    causal_mask: torch.Tensor
    earlier: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        *,
        length: int,
        vocabulary: int,
        mask: Mask,
        pooling: Pooling,
        end_id: int = -1,
        pad_id: int = -1,
    ) -> None:
        super().__init__()
        if pooling == "largest" and vocabulary * length > _LARGEST_EXACT:
            raise CheckpointError(
                f"a vocabulary of {vocabulary} with {length} positions is larger than the pooling of the "
                f"text tower can tell apart ({_LARGEST_EXACT} in all)"
            )
        self.network = network
        self.head = head
        self.length = length
        self.mask = mask
        self.pooling = pooling
        self.end_id = end_id
        self.pad_id = pad_id
        if mask == "causal":
            hidden = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
            self.register_buffer("causal_mask", hidden.reshape(1, 1, length, length))
        if pooling in ("end", "largest"):
            # Earlier positions score higher, so that the largest score is unique: runtimes differ in which of
            # several equal values their ArgMax returns.
            self.register_buffer("earlier", torch.arange(length - 1, -1, -1, dtype=torch.float32))

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int32 (B, L) -> float32 (B, D)."""
        mask = None
        if self.mask == "causal":
            mask = self.causal_mask
        elif self.mask == "padding":
            mask = ((1 - self._kept(token_ids)) * HIDDEN)[:, None, None, :]
        return _unit(self.head(self._pooled(self.network(token_ids, mask), token_ids)))

    def _pooled(self, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> (B, W)."""
        if self.pooling == "network":
            return hidden
        if self.pooling == "last":
            return hidden[:, -1]
        if self.pooling == "first":
            return hidden[:, 0]
        if self.pooling == "mean":
            kept = self._kept(token_ids)
            return (hidden * kept[:, :, None]).sum(dim=1) / kept.sum(dim=1, keepdim=True).clamp(min=1)
        rows = torch.arange(hidden.shape[0])
        return hidden[rows, self._end_position(token_ids)]

    def _kept(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int32 (B, L) -> float32 (B, L): 1 for a token, 0 for padding."""
        return (token_ids != self.pad_id).to(torch.float32)

    def _end_position(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int32 (B, L) -> int64 (B,): the position of each text's end."""
        # In float32, since CUDA's ArgMax does not support integers, and a copy to the CPU would stall the tower.
        if self.pooling == "largest":
            return (token_ids.to(torch.float32) * self.length + self.earlier).argmax(dim=1)
        return ((token_ids == self.end_id).to(torch.float32) * (self.earlier + 1)).argmax(dim=1)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """Scale to L2 norm 1; a vector of zeros stays zeros, where a plain division would give NaN."""
    return nn.functional.normalize(vectors, dim=-1, eps=1e-12)
