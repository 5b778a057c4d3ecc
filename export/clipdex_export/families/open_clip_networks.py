"""OpenCLIP's networks in the form that the towers need: tensors in, one tensor out, eager attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clipdex_export.attention import with_eager_attention
from clipdex_export.checkpoint import Layers
from clipdex_export.towers import HIDDEN

__all__ = ["Hidden", "WithClassToken", "image_network", "layers_of", "text_head"]


class Hidden(nn.Module):
    """OpenCLIP's own text transformer up to its hidden states: (token_ids, mask) -> (B, L, W).

    text: a TextTransformer, or a CLIP, which has the same parts.
    """

    positional_embedding: torch.Tensor

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.token_embedding = text.token_embedding
        twin = with_eager_attention(text.transformer)
        self.transformer: nn.Module = twin
        if layers_of(text.transformer) is not None:
            self.transformer = _Blocks(twin.resblocks)
        self.ln_final = text.ln_final
        self.register_buffer("positional_embedding", text.positional_embedding.detach())

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """int32 (B, L) -> (B, L, W)."""
        embedded = self.token_embedding(token_ids) + self.positional_embedding
        hidden: torch.Tensor = self.ln_final(self.transformer(embedded, attn_mask=mask))
        return hidden


class _Blocks(nn.Module):
    """A transformer of plain blocks that passes its mask on unchanged.

    OpenCLIP's own converts the mask in each block, and ONNX Runtime's fusion would not recognise it then.
    """

    def __init__(self, blocks: Any) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, hidden: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
        for block in self.blocks:
            rows = block.ln_1(hidden)
            hidden = hidden + block.ls_1(block.attn(rows, rows, rows, attn_mask=attn_mask)[0])
            hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
        return hidden


class _First(nn.Module):
    """A network reduced to its first output, for networks that also return their tokens."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, *inputs: Any) -> torch.Tensor:
        output = self.inner(*inputs)
        first: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return first


class WithClassToken(nn.Module):
    """CoCa's text transformer, whose vector is read at an extra last token: (token_ids, None) -> (B, W).

    It is causal and masks padding. Published weights were trained with a mask that is off by one position.
    """

    positional_embedding: torch.Tensor
    class_embedding: torch.Tensor
    look_back: torch.Tensor

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.token_embedding = text.token_embedding
        self.transformer = _Blocks(with_eager_attention(text.transformer).resblocks)
        self.ln_final = text.ln_final
        self.pad_id = text.pad_id
        self.in_place = bool(text.correct_cls_mask)
        self.register_buffer("positional_embedding", text.positional_embedding.detach())
        self.register_buffer("class_embedding", text.cls_emb.detach().reshape(1, 1, -1))
        places = text.num_pos
        bidirectional = text.attn_mask is None
        hidden = torch.zeros(places, places) if bidirectional else torch.full((places, places), HIDDEN).triu(1)
        self.register_buffer("look_back", hidden.reshape(1, 1, places, places))

    def forward(self, token_ids: torch.Tensor, mask: None) -> torch.Tensor:
        """int32 (B, L) -> (B, W)."""
        tokens = self.token_embedding(token_ids)
        last = self.class_embedding.expand(tokens.shape[0], -1, -1)
        embedded = torch.cat([tokens, last], dim=1) + self.positional_embedding
        padding = (token_ids == self.pad_id).to(embedded.dtype)
        kept = torch.zeros_like(padding[:, :1])
        hidden = torch.cat([padding, kept] if self.in_place else [kept, padding], dim=1) * HIDDEN
        rows = self.transformer(embedded, attn_mask=self.look_back + hidden[:, None, None, :])
        pooled: torch.Tensor = self.ln_final(rows[:, -1])
        return pooled


class _AttentionPool(nn.Module):
    """The last layer of a ResNet CLIP: attention from the mean over positions to all positions and to the mean."""

    positional_embedding: torch.Tensor

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.heads, self.head_dim = pool.num_heads, pool.q_proj.out_features // pool.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj
        self.register_buffer("positional_embedding", pool.positional_embedding.detach())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D)."""
        places = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding
        queries, keys, values = self.q_proj(tokens[:, :1]), self.k_proj(tokens), self.v_proj(tokens)
        queries, keys, values = (self._split(rows) for rows in (queries, keys, values))
        scores = torch.matmul(queries, keys.transpose(-1, -2)) * self.head_dim**-0.5
        mixed = torch.matmul(torch.softmax(scores, dim=-1), values).transpose(1, 2).flatten(1)
        pooled: torch.Tensor = self.c_proj(mixed)
        return pooled

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, L, C) -> (B, H, L, C / H)."""
        return rows.view(*rows.shape[:-1], self.heads, self.head_dim).transpose(1, 2)


def image_network(visual: nn.Module) -> nn.Module:
    """Adapt OpenCLIP's vision tower (its ViT, its ResNet, or one of timm's): pixels (B, 3, S, S) -> (B, D)."""
    network = with_eager_attention(visual)
    if type(network).__name__ == "ModifiedResNet":
        network.attnpool = _AttentionPool(network.attnpool)
    return _First(network)


def text_head(projection: Any) -> nn.Module:
    """Turn OpenCLIP's text projection (a matrix, a layer or nothing) into a layer."""
    if projection is None:
        return nn.Identity()
    if isinstance(projection, nn.Module):
        return projection
    layer = nn.Linear(projection.shape[0], projection.shape[1], bias=False, device="meta")
    layer.weight = nn.Parameter(projection.detach().T, requires_grad=False)
    return layer


def layers_of(transformer: Any) -> Layers | None:
    """Return the layers of OpenCLIP's transformer; None if its blocks do not have plain attention."""
    blocks = list(getattr(transformer, "resblocks", ()))
    if not blocks or any(not isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
        return None
    return Layers(blocks[0].attn.num_heads, transformer.width, len(blocks))
