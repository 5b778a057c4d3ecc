"""The gate's set for ranking: drawn scenes and their captions, in addition to its photographs and texts.

The photographs alone are few, and several show the same thing: the order of eight pictures of a cat says little.
The scenes differ from one another, and the demo model understands them.
"""

from __future__ import annotations

import io
from functools import cache
from random import Random

from clipdex_export.demo.captions import full_caption, short_caption
from clipdex_export.demo.draw import draw
from clipdex_export.demo.sampling import sample_scene
from clipdex_export.demo.scenes import Scene
from clipdex_export.photographs import Picture

__all__ = ["captions_of", "draw_scenes", "drawn_captions", "drawn_pictures", "jpeg_of"]

_PICTURES = 65  # 100 with the photographs
_CAPTIONS = 41  # 100 with the gate's texts
_SIDE = 160


@cache
def drawn_pictures() -> tuple[Picture, ...]:
    """Draw scenes as JPEG files; with the same Pillow, they are the same on every machine."""
    return tuple(
        Picture(f"drawn scene {number}, JPEG", jpeg_of(scene, f"gate/{number}"))
        for number, scene in enumerate(draw_scenes(_PICTURES, "gate"))
    )


@cache
def drawn_captions() -> tuple[str, ...]:
    """Return a caption for each of the first scenes, full and short ones in turn."""
    return captions_of(draw_scenes(_PICTURES, "gate")[:_CAPTIONS], "gate")


def draw_scenes(count: int, seed: str) -> list[Scene]:
    """Draw random scenes."""
    rng = Random(f"scenes/{seed}")
    return [sample_scene(rng) for _ in range(count)]


def captions_of(scenes: list[Scene], seed: str) -> tuple[str, ...]:
    """Return a caption for each scene, full and short ones in turn."""
    rng = Random(f"captions/{seed}")
    return tuple(
        (short_caption if number % 2 else full_caption)(scene, rng).text for number, scene in enumerate(scenes)
    )


def jpeg_of(scene: Scene, seed: str) -> bytes:
    """Draw a scene as a JPEG file."""
    buffer = io.BytesIO()
    draw(scene, seed, size=_SIDE).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
