"""PyTorch's packed attention rewritten as transformers' eager attention, a graph that all passes recognise.

nn.MultiheadAttention multiplies by one matrix for queries, keys and values. In its exported graph, ONNX Runtime's
fusion does not recognise the attention, nor quantisation the weights.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

__all__ = ["EagerAttention", "with_eager_attention"]

Module = TypeVar("Module", bound=nn.Module)


class EagerAttention(nn.Module):
    """A replacement for a batch-first nn.MultiheadAttention, with the same weights and interface."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        # Plain numbers: sizes read from a tensor's shape would become operators in the graph.
        self.heads, self.head_dim = attention.num_heads, attention.head_dim
        self.scale = attention.head_dim**-0.5
        packed = attention.in_proj_weight
        if packed is not None:
            weights = packed.chunk(3)
        else:
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        bias = attention.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """(B, Q, W), (B, K, W), (B, K, W), a mask that is added to the scores (B, H, Q, K) -> (B, Q, W)."""
        queries = self._split(self.q_proj(query))
        keys, values = self._split(self.k_proj(key)), self._split(self.v_proj(value))
        scores = torch.matmul(queries, keys.transpose(-1, -2)) * self.scale
        if attn_mask is not None:
            scores = scores + attn_mask
        mixed = torch.matmul(torch.softmax(scores, dim=-1), values).transpose(1, 2).contiguous()
        return self.out_proj(mixed.reshape(*query.shape[:-1], -1).contiguous()), None

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> (B, H, L, W / H)."""
        return rows.view(*rows.shape[:-1], self.heads, self.head_dim).transpose(1, 2)


def with_eager_attention(module: Module) -> Module:
    """Copy a module, sharing its weights, with every nn.MultiheadAttention replaced by EagerAttention.

    The module itself is unchanged: it is the reference for the copy.
    """
    shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    twin = copy.deepcopy(module, memo=shared)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, EagerAttention(child))
    return twin


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
