"""Pictures and texts for int8 calibration, which measures the range of values inside the towers.

None of the built-in ones is used by the gate, which would otherwise judge on its training data.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.errors import ImageError, InvalidArgument
from clipdex.base.git_lfs import is_pointer_file, pointer_words
from clipdex.base.text_files import read_text
from clipdex.model.card import ImageSpec, TextSpec
from clipdex.model.images import ImageSource, open_image, to_pixels
from clipdex.model.tokenizer import Tokenizer
from clipdex.sources import Folder
from clipdex_export.photographs import photograph
from clipdex_export.retrieval_set import captions_of, draw_scenes, jpeg_of
from clipdex_export.sentences import CALIBRATION_TEXTS

__all__ = ["Calibration", "calibration"]

_MOST = 256  # pictures of a directory, and texts
_LEAST = 16
_SCENES = 48
_PURPOSE = "calibrating int8 with the built-in photographs (--calibrate DIR takes your own)"
_CROPS = 4  # of each photograph
_PHOTOGRAPHS = (
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg", "ihc.png",
    "motorcycle_left.png", "motorcycle_right.png", "camera.png", "coins.png", "moon.png", "brick.png", "page.png",
)  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Inputs to calibrate the towers with. pixels: uint8 (N, S, S, 3); token_ids: int32 (M, L)."""

    pixels: npt.NDArray[np.uint8]
    token_ids: npt.NDArray[np.int32]


def calibration(
    directory: Path | None, image_spec: ImageSpec, text_spec: TextSpec, tokenizer_json: bytes
) -> Calibration:
    """Prepare the pictures below a directory, and the lines of its .txt files; evenly chosen, at most 256 of each.

    Without a directory: crops of photographs, and drawn scenes. Without texts: built-in captions.

    Raises:
        SourceError: the directory cannot be read.
        InvalidArgument: it has fewer than 16 readable pictures, or a .txt file that cannot be read.
    """
    sources = _own_pictures() if directory is None else _pictures_below(directory)
    pixels = [to_pixels(picture, image_spec) for picture in _opened(sources, image_spec)]
    if len(pixels) < _LEAST:
        raise InvalidArgument(f"{directory}: {len(pixels)} pictures for calibration; expected at least {_LEAST}")
    texts = ([] if directory is None else _texts_in(directory)) or _own_texts()
    return Calibration(np.stack(pixels), Tokenizer(tokenizer_json, text_spec)(texts))


def _opened(sources: Sequence[ImageSource], spec: ImageSpec) -> Iterator[Image.Image]:
    for source in sources:
        try:
            yield open_image(source, fill=spec.fill)
        except ImageError:  # one broken file in a folder of many says nothing about the rest
            continue


def _own_pictures() -> list[ImageSource]:
    rng = Random("calibration")
    crops: list[ImageSource] = [
        _crop(photograph(name, _PURPOSE), rng) for name, _ in itertools.product(_PHOTOGRAPHS, range(_CROPS))
    ]
    scenes = draw_scenes(_SCENES, "calibration")
    return crops + [jpeg_of(scene, f"calibration/{number}") for number, scene in enumerate(scenes)]


def _crop(image: Image.Image, rng: Random) -> ImageSource:
    """Cut a random part out of a photograph, mirrored with probability 1/2 -> a JPEG file."""
    width, height = (max(32, round(side * rng.uniform(0.3, 0.9))) for side in image.size)
    left, top = rng.randrange(image.width - width + 1), rng.randrange(image.height - height + 1)
    part = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    part.save(buffer, "JPEG", quality=rng.randrange(60, 96))
    return buffer.getvalue()


def _own_texts() -> list[str]:
    return [*CALIBRATION_TEXTS, *captions_of(draw_scenes(_SCENES, "calibration"), "calibration")]


def _pictures_below(directory: Path) -> list[ImageSource]:
    paths = [os.fsdecode(found.path) for found in Folder(directory).files(lambda failure: None)]
    chosen = [paths[i] for i in _evenly(len(paths))]
    _refuse_pointers(chosen, "a picture")
    return list(chosen)


def _texts_in(directory: Path) -> list[str]:
    lines: list[str] = []
    found = sorted(path for path in directory.glob("*.txt") if path.is_file())
    _refuse_pointers(found, "texts")
    for path in found:
        text = read_text(path, errors="replace")
        lines += [line.strip() for line in text.splitlines() if line.strip()]
    return [lines[i] for i in _evenly(len(lines))]


def _refuse_pointers(paths: Iterable[str | Path], what: str) -> None:
    for path in paths:
        if is_pointer_file(path):
            raise InvalidArgument(pointer_words(path, f"{what} to calibrate on"))


def _evenly(count: int) -> Iterable[int]:
    """Choose at most _MOST of `count` positions, evenly spaced."""
    return range(count) if count <= _MOST else np.linspace(0, count - 1, _MOST).astype(int).tolist()
