"""A gate of a few pictures and texts, for tests that export many times: photographs and large ones take long."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from clipdex_export import gate
from clipdex_export.photographs import Picture
from clipdex_export.retrieval_set import drawn_captions, drawn_pictures
from clipdex_export.sentences import GATE_TEXTS

SHAPES = ((321, 123), (37, 127), (7, 5), (48, 48), (49, 50), (1, 1))


@cache
def pictures_and_texts() -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    rng = np.random.default_rng(0)
    noise = []
    for width, height in SHAPES:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
        noise.append(Picture(f"noise, {width} × {height}", file.getvalue()))
    return (*noise, *drawn_pictures()[:14]), (*GATE_TEXTS[::2], *drawn_captions()[:10])


def use_it(patch: Any = None) -> None:
    """Let the gate take these. patch: a MonkeyPatch, to undo it after the test."""
    from clipdex_export import same_space

    for module in (gate, same_space):
        if patch is None:
            module.gate_set = lambda drawn=False: pictures_and_texts()  # type: ignore[attr-defined]
        else:
            patch.setattr(module, "gate_set", lambda drawn=False: pictures_and_texts())
