"""The training losses: contrastive over all matches, and classification of attributes."""

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
    """Return the mean over all matches of -log softmax of the match among itself and its row's non-matches."""
    rest = logits.masked_fill(matches, -torch.inf).logsumexp(dim=1, keepdim=True)  # (R, 1)
    losses = functional.softplus(rest - logits).masked_fill(~matches, 0.0)  # (R, C)
    count = matches.sum(dim=1)
    has_match = count > 0
    return (losses.sum(dim=1)[has_match] / count[has_match]).mean()


def contrastive_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Compute the symmetric contrastive loss for captions and pictures with any number of matches.

    `logits` float32 (captions, pictures), `matches` bool of the same shape. Each match competes only with
    non-matches, never with another match: so a short caption learns to rank every picture that it matches above
    all others. With one match per row this is CLIP's loss.
    """
    return (_one_against_the_rest(logits, matches) + _one_against_the_rest(logits.T, matches.T)) / 2


class AttributeHeads(nn.Module):
    """Linear classifiers of every attribute on the image embedding, used only in training."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, sum(_CLASSES.values()))

    def forward(self, embedding: Tensor, attributes: Tensor) -> Tensor:
        """Compute the mean cross-entropy over the attributes. attributes: int64 (B, A); absent ones are -1.

        Absent attributes do not count, except for the second stripe's, a class of its own: the ground is plain.
        """
        losses = []
        logits = self.linear(embedding).split(list(_CLASSES.values()), dim=1)
        for name, scores, wanted in zip(_CLASSES, logits, attributes.unbind(dim=1), strict=True):
            target = torch.where(wanted < 0, len(COLOURS), wanted) if name == "stripe" else wanted
            if (target >= 0).any():
                losses.append(functional.cross_entropy(scores, target, ignore_index=-1))
        return torch.stack(losses).mean()


# The attributes that each patch predicts of the thing that covers it.
_OF_A_THING = ("shape", "colour", "size", "place", "count")


class PatchHeads(nn.Module):
    """Linear classifiers on every patch of the image tower's last layer, used only in training.

    They predict for each patch whether a thing covers it, and which. So the tower learns to tell things from the
    ground by 64 labels per picture, before captions can teach it what a star is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 + sum(_CLASSES[name] for name in _OF_A_THING))

    def forward(self, patches: Tensor, owners: Tensor, attributes: Tensor) -> Tensor:
        """Compute the mean cross-entropy.

        patches: float32 (B, P, W). owners: int64 (B, P), from draw.owners.
        attributes: int64 (B, A), from scene_codes.
        """
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
