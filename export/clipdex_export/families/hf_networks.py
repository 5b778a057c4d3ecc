"""The networks of transformers as the towers call them: tensors in, one tensor out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["LastHidden", "Pooled"]


class Pooled(nn.Module):
    """pixels float32 (B, 3, S, S) -> features (B, D): a vision model's pooled output, projected."""

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.projection = projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, S, S) -> (B, D)."""
        features: torch.Tensor = self.projection(self.vision_model(pixels).pooler_output)
        return features


class LastHidden(nn.Module):
    """(token_ids, mask) -> hidden states (B, L, W) of a text model.

    The mask has four dimensions, which transformers takes as it is: added to the scores.
    """

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """int32 (B, L) -> (B, L, W)."""
        output: Any = self.text_model(token_ids, attention_mask=mask)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden
