"""Training of the demo model: python -m demo_training.train --out export/checkpoints/demo"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from clipdex_export.quiet import quiet
from demo_training.batches import IMAGE_SIZE, PATCH_SIZE, Batch, make_batches
from demo_training.evaluate import measure
from demo_training.heldout import HeldOut, draw_held_out
from demo_training.loss import AttributeHeads, PatchHeads, contrastive_loss
from demo_training.tokenizer import CONTEXT_LENGTH, build_tokenizer, save_tokenizer
from demo_training.torch_encoder import TorchEncoder

_CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
_CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
_MOST_LOGIT_SCALE = math.log(100.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cycle:
    """One cycle of the learning rate, with new heads and a new optimizer.

    stages: steps, and pictures per step; each picture has a full and a short caption.
    heads_weight: of the heads' losses; falls with the learning rate.
    short_weight: of the short captions' loss, relative to the full ones'.
    """

    stages: tuple[tuple[int, int], ...]
    learning_rate: float
    heads_weight: float
    short_weight: float
    warm_up_pictures: int = 6400

    @property
    def pictures(self) -> int:
        """Total number of pictures drawn."""
        return sum(steps * size for steps, size in self.stages)

    def rate(self, seen: int) -> float:
        """Return the share of the learning rate after `seen` pictures: linear warm-up, then half a cosine to 0."""
        if seen < self.warm_up_pictures:
            return seen / self.warm_up_pictures
        done = (seen - self.warm_up_pictures) / (self.pictures - self.warm_up_pictures)
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Recipe:
    """The settings of a training, which determine its result."""

    seed: int = 20261123
    cycles: tuple[Cycle, ...] = (
        # Learning to see shapes and places takes many steps, whatever their size: so many small ones come first.
        Cycle(((2500, 32), (1000, 128)), learning_rate=1e-3, heads_weight=4.0, short_weight=1.0),
        # After the first cycle, full captions find their picture but short ones do not yet: these get more weight.
        Cycle(((1350, 128),), learning_rate=7e-4, heads_weight=1.0, short_weight=2.0),
        Cycle(((1350, 128),), learning_rate=6e-4, heads_weight=0.5, short_weight=3.0),
    )
    weight_decay: float = 0.05
    width: int = 128
    image_layers: int = 5
    text_layers: int = 3


def build_model(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make an untrained CLIPModel of the recipe's size, with the tokenizer's special tokens."""
    width, heads = recipe.width, recipe.width // 32
    shared = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "projection_dim": width,
        "hidden_act": "gelu",  # one pass over memory, where CLIP's quick_gelu takes three
    }
    config = CLIPConfig(
        text_config=shared
        | {
            "num_hidden_layers": recipe.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,  # the library's default of 2 would pool the wrong token
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=shared
        | {"num_hidden_layers": recipe.image_layers, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        projection_dim=width,
    )
    model = CLIPModel(config)
    # On a CPU in bf16 the plain products of "eager" attention are 1.6 times as fast as the fused kernel.
    model.set_attn_implementation("eager")
    return model


def build_image_processor() -> CLIPImageProcessorPil:
    """Make CLIP's own preprocessing, at the demo model's size."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )


def save_checkpoint(model: CLIPModel, tokenizer: CLIPTokenizer, directory: Path) -> None:
    """Write a regular Hugging Face checkpoint, atomically."""
    unfinished = directory.with_name(directory.name + ".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with quiet():
        model.save_pretrained(str(unfinished))
    build_image_processor().save_pretrained(str(unfinished))
    save_tokenizer(tokenizer, unfinished)
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def _optimizer(decay: float, model: nn.Module, heads: nn.Module) -> torch.optim.Optimizer:
    """Make AdamW, without weight decay for biases, gains and the logit scale."""
    parameters = [*model.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def _normalised(batch: Batch) -> Tensor:
    """Normalise as the image processor does: uint8 (B, 64, 64, 3) -> float32 (B, 3, 64, 64)."""
    pixels = torch.from_numpy(batch.pixels).permute(0, 3, 1, 2).float() / 255
    normalised: Tensor = (pixels - _CLIP_MEAN) / _CLIP_STD
    return normalised


class Heads(nn.Module):
    """The heads that guide the image tower in training, and are dropped after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = AttributeHeads(width)
        self.patches = PatchHeads(width)


def _loss(
    logit_scale: Tensor,
    heads: Heads,
    heads_weight: float,
    short_weight: float,
    batch: Batch,
    pictures: Tensor,
    patches: Tensor,
    full: Tensor,
    short: Tensor,
) -> Tensor:
    """Compute the total loss of a batch: embeddings float32 (B, D), not normalised; patches float32 (B, P, W)."""
    attributes = torch.from_numpy(batch.attributes).long()
    owners = torch.from_numpy(batch.owners).long()
    guidance = heads.image(pictures, attributes) + heads.patches(patches, owners, attributes)
    loss: Tensor = heads_weight * guidance
    unit = nn.functional.normalize(pictures, dim=1)
    both = ((1.0, full, batch.full_matches), (short_weight, short, batch.short_matches))
    for weight, texts, matches in both:
        logits = logit_scale.exp() * nn.functional.normalize(texts, dim=1) @ unit.T
        loss = loss + weight * contrastive_loss(logits, torch.from_numpy(matches))
    return loss


class HalfBatches:
    """Forward and backward passes of both towers in two single-core threads, with half of the pictures in each.

    The threads synchronise twice per step, whereas threads inside matrix products would do so at every product: on
    a shared machine this takes a quarter of the time. A weight's two gradients are added, and a + b = b + a, so
    the result does not depend on which thread is first.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        torch.set_num_threads(1)
        self._model = model
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(2)

    def _forward(self, pixels: Tensor, captions: list[str]) -> list[Tensor]:
        """Run the towers: float32 (H, 3, 64, 64), H' captions -> float32 (H, D), (H, P, W), (H', D)."""
        tokens = self._tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        # Without the cache, which threads would share: every weight is used only once per pass.
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            pictures = self._model.get_image_features(pixel_values=pixels)
            texts = self._model.get_text_features(**tokens).pooler_output
        patches = pictures.last_hidden_state[:, 1:]  # the first is the class token
        return [pictures.pooler_output.float(), patches.float(), texts.float()]

    def backward(self, batch: Batch, loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> float:
        """Add the gradients of `loss(pictures, patches, full, short)` -> its value."""
        halves = _normalised(batch).tensor_split(2)
        # One thread takes the full captions, the other the short ones, so that the short ones are padded less.
        passes = list(self._threads.map(self._forward, halves, (batch.full, batch.short)))
        leaves = [[output.detach().requires_grad_() for output in outputs] for outputs in passes]
        (pictures, patches, full), (more_pictures, more_patches, short) = leaves
        value = loss(torch.cat([pictures, more_pictures]), torch.cat([patches, more_patches]), full, short)
        torch.autograd.backward(value)
        gradients = [[leaf.grad for leaf in half] for half in leaves]
        list(self._threads.map(torch.autograd.backward, passes, gradients))
        return float(value.detach())


def train(
    recipe: Recipe,
    out: Path,
    validation: HeldOut,
    *,
    workers: int,
    check_every: int,
    done: int = 0,
    checkpoint: Path | None = None,
) -> None:
    """Train and log progress; every `check_every` steps, and after each cycle, write a checkpoint to `out`.

    `validation` is only measured: it influences nothing. `checkpoint` is the result of the first `done` cycles of
    the same recipe: training continues after them, to the same result.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(recipe.seed)
    model = build_model(recipe, tokenizer)
    if checkpoint is not None:
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    halves = HalfBatches(model, tokenizer)
    _log.info("%s parameters, %s", f"{sum(p.numel() for p in model.parameters()):,}", recipe)
    began = time.monotonic()
    for number, cycle in enumerate(recipe.cycles):
        if number < done:
            continue
        if number > 0:
            torch.manual_seed(recipe.seed + number)
        heads = Heads(recipe.width)
        optimizer = _optimizer(recipe.weight_decay, model, heads)
        sizes = [size for steps, size in cycle.stages for _ in range(steps)]
        seen = 0
        for step, batch in enumerate(make_batches(recipe.seed + number, sizes, workers=workers), start=1):
            seen += len(batch.full)
            rate = cycle.rate(seen)
            for group in optimizer.param_groups:
                group["lr"] = cycle.learning_rate * rate
            model.train()
            optimizer.zero_grad()
            heads_weight = rate * cycle.heads_weight
            loss = halves.backward(
                batch, partial(_loss, model.logit_scale, heads, heads_weight, cycle.short_weight, batch)
            )
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=_MOST_LOGIT_SCALE)
            if step % 50 == 0:
                _log.info("cycle %d, step %d, %d pictures: loss %.3f", number + 1, step, seen, loss)
            if step % check_every == 0 or step == len(sizes):
                model.eval()
                save_checkpoint(model, tokenizer, out)
                report = measure(TorchEncoder(out), validation)
                seconds = time.monotonic() - began
                _log.info("cycle %d, step %d, %.0f s: %s", number + 1, step, seconds, report.summary())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="python -m demo_training.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoint; it is replaced")
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--workers", type=int, default=1, help="drawing processes (default %(default)s)")
    parser.add_argument("--check-every", type=int, default=500, metavar="STEPS")
    parser.add_argument(
        "--go-on", nargs=2, metavar=("CYCLES", "DIR"), help="continue after CYCLES, from the checkpoint in DIR"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    recipe = Recipe(seed=options.seed)
    with tempfile.TemporaryDirectory() as directory:
        # A separate validation set, so that the published figures are from pictures never looked at.
        validation = draw_held_out(Path(directory), seed="validation")
        train(
            recipe,
            options.out,
            validation,
            workers=options.workers,
            check_every=options.check_every,
            done=int(options.go_on[0]) if options.go_on else 0,
            checkpoint=Path(options.go_on[1]) if options.go_on else None,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
