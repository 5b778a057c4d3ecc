"""The training losses: contrastive over all matches, and attributes read off the image embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipdex_export.demo.queries import SCENE_ATTRIBUTES
from clipdex_export.demo.scenes import COLOURS, COUNTS, PLACES, RELATIONS, SHAPES, SIZES

_CLASSES = {
    "kind": 3,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "shape2": len(SHAPES),
    "colour2": len(COLOURS),
    "size": len(SIZES),
    "place": len(PLACES),
    "count": max(COUNTS) + 1,
    "relation": len(RELATIONS),
    "ground": len(COLOURS),
    "stripe": len(COLOURS) + 1,
}
assert tuple(_CLASSES) == SCENE_ATTRIBUTES


def _one_against_the_rest(logits: Tensor, matches: Tensor) -> Tensor:
    """Mean over all matches of -log softmax of that match among itself and its row's non-matches."""
    rest = logits.masked_fill(matches, -torch.inf).logsumexp(dim=1, keepdim=True)  # (R, 1)
    losses = functional.softplus(rest - logits).masked_fill(~matches, 0.0)  # (R, C)
    count = matches.sum(dim=1)
    has_match = count > 0
    return (losses.sum(dim=1)[has_match] / count[has_match]).mean()


def contrastive_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Both directions of the contrastive loss where a caption may fit many pictures, and a picture many captions.

    `logits` float32 (captions, pictures), `matches` bool of the same shape. Each match competes with the
    non-matches only, never with another match: so a short caption learns to rank every picture that it fits
    above every other. With one match a row this is CLIP's loss.
    """
    return (_one_against_the_rest(logits, matches) + _one_against_the_rest(logits.T, matches.T)) / 2


class AttributeHeads(nn.Module):
    """Linear classifiers of every attribute on the image embedding, for training alone."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, sum(_CLASSES.values()))

    def forward(self, embedding: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross-entropy over the attributes. `attributes` int64 (B, A): absent ones (-1) do not count.

        Only the second stripe's absence is itself a class: it says that the ground is plain.
        """
        losses = []
        logits = self.linear(embedding).split(list(_CLASSES.values()), dim=1)
        for name, scores, wanted in zip(_CLASSES, logits, attributes.unbind(dim=1), strict=True):
            target = torch.where(wanted < 0, len(COLOURS), wanted) if name == "stripe" else wanted
            if (target >= 0).any():
                losses.append(functional.cross_entropy(scores, target, ignore_index=-1))
        return torch.stack(losses).mean()


# What each patch says of the thing that covers it.
_OF_A_THING = ("shape", "colour", "size", "place", "count")


class PatchHeads(nn.Module):
    """Linear classifiers on every patch of the image tower's last layer, for training alone.

    They ask each patch whether a thing covers it, and which. So the tower learns to tell thing from ground
    from 64 answers a picture, before any caption can teach it what a star is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 + sum(_CLASSES[name] for name in _OF_A_THING))

    def forward(self, patches: Tensor, owners: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross-entropy. float32 (B, P, W); int64 (B, P), as draw.owners; int64 (B, A), as scene_codes."""
        covered = owners > 0
        sizes = [2, *(_CLASSES[name] for name in _OF_A_THING)]
        is_thing, *of_a_thing = self.linear(patches).split(sizes, dim=2)
        losses = [functional.cross_entropy(is_thing.flatten(0, 1), covered.flatten().long())]
        column = {name: attributes[:, i, None].expand_as(owners) for i, name in enumerate(_CLASSES)}
        for name, scores in zip(_OF_A_THING, of_a_thing, strict=True):
            target = column[name]
            if name in ("shape", "colour"):
                target = torch.where(owners == 2, column[name + "2"], target)
            target = target[covered]
            if (target >= 0).any():
                losses.append(functional.cross_entropy(scores[covered], target, ignore_index=-1))
        return torch.stack(losses).mean()
