"""Making of training batches in separate processes: each depends only on its seed and number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdex_export.demo.captions import full_caption, short_caption
from clipdex_export.demo.draw import draw, owners
from clipdex_export.demo.queries import Codes, match_matrix, scene_codes
from clipdex_export.demo.sampling import sample_training_scenes
from clipdex_export.demo.scenes import Scene

IMAGE_SIZE = 64
PATCH_SIZE = 8
_DRAWN_SIZE = 128  # twice the model's, so that every picture goes through the resize of real preprocessing
_AHEAD = 12


@dataclass(frozen=True)
class Batch:
    """B pictures, a full and a short caption of each, and their matches."""

    pixels: NDArray[np.uint8]  # (B, 64, 64, 3)
    full: list[str]
    short: list[str]
    full_matches: NDArray[np.bool_]  # (B captions, B pictures)
    short_matches: NDArray[np.bool_]  # (B captions, B pictures)
    attributes: Codes  # int16 (B, A), from queries.scene_codes
    owners: NDArray[np.uint8]  # (B, P): for each patch of the model, from draw.owners


def model_pixels(scene: Scene, seed: int | str) -> NDArray[np.uint8]:
    """Draw the scene as the model sees it: larger, then resized as CLIP's preprocessing does. (64, 64, 3)."""
    picture = draw(scene, seed, size=_DRAWN_SIZE, oversample=1)
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def make_batch(seed: int, step: int, size: int) -> Batch:
    """Make the batch of one step: the same for the same arguments, on any machine."""
    rng = Random(f"batch/{seed}/{step}")
    scenes = sample_training_scenes(rng, size)
    full = [full_caption(scene, rng) for scene in scenes]
    short = [short_caption(scene, rng) for scene in scenes]
    seeds = [f"{seed}/{step}/{i}" for i in range(size)]
    covered = [owners(*pair, grid=IMAGE_SIZE // PATCH_SIZE) for pair in zip(scenes, seeds, strict=True)]
    return Batch(
        pixels=np.stack([model_pixels(*pair) for pair in zip(scenes, seeds, strict=True)]),
        full=[caption.text for caption in full],
        short=[caption.text for caption in short],
        full_matches=match_matrix([caption.query for caption in full], scenes),
        short_matches=match_matrix([caption.query for caption in short], scenes),
        attributes=scene_codes(scenes),
        owners=np.stack(covered).reshape(size, -1),
    )


def make_batches(seed: int, sizes: Sequence[int], *, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps 0, 1, …, of the given sizes, drawn a few ahead by `workers` processes."""
    # Spawned, not forked: a fork of a process with running torch threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[Batch]] = deque()
        for step, size in enumerate(sizes):
            waiting.append(pool.submit(make_batch, seed, step, size))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
