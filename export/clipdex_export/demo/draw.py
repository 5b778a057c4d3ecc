"""Drawing of scenes with Pillow: the same scene and seed give the same pixels, another seed another picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clipdex_export.demo.scenes import COLOURS, Group, Pair, Scene, Single

# All lengths are in widths of the picture (0 to 1), all angles in radians.
_RADIUS = {"small": (0.145, 0.165), "large": (0.27, 0.30)}
_CENTRE = {"middle": (0.5, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0), "left": (0.0, 0.5), "right": (1.0, 0.5)}
_PAIR_RADIUS = (0.185, 0.205)
_GROUP_RADIUS = {2: (0.165, 0.185), 3: (0.155, 0.175), 4: (0.145, 0.165)}
_TILT = 0.14
_COLOUR_JITTER = 9  # of 255, for each channel
_NOISE = 12  # of 255, from darkest to lightest
_MARGIN = 0.02

_Points = NDArray[np.float64]  # (K, 2)


def _arc(radius: float, start: float = 0.0, end: float = 2 * math.pi, centre: float = 0.0) -> _Points:
    angles = np.linspace(start, end, 48)
    return np.stack([centre + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _star() -> _Points:
    angles = np.arange(10) * math.pi / 5 - math.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> _Points:
    t = np.linspace(0, 2 * math.pi, 48)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    outline: _Points = np.stack([x, y + 2.5], axis=1) / 16
    return outline


def _cross() -> _Points:
    a, b = 0.3, 0.95
    corners = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
        (-a, -a),
    ]
    return np.array(corners)


# Outlines in the circle of radius 1, y downwards. Each is painted in turn, the second as a hole.
_OUTLINES: dict[str, tuple[_Points, ...]] = {
    "circle": (_arc(0.9),),
    "square": (np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),),
    "triangle": (np.array([(0.0, -0.95), (1.0, 0.78), (-1.0, 0.78)]),),
    "star": (_star(),),
    "heart": (_heart(),),
    "cross": (_cross(),),
    "ring": (_arc(0.98), _arc(0.55)),
    "crescent": (_arc(0.98), _arc(0.8, centre=0.48)),
    "arrow": (
        np.array([(-1, -0.26), (0.05, -0.26), (0.05, -0.8), (1, 0), (0.05, 0.8), (0.05, 0.26), (-1, 0.26)]),
    ),
    "diamond": (np.array([(0, -1.0), (0.58, 0), (0, 1.0), (-0.58, 0)]),),
}


@dataclass(frozen=True)
class _Figure:
    """One thing, ready to be painted."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    tilt: float


def _layout(scene: Scene, seed: int | str) -> list[_Figure]:
    """Place all figures, with the small variations that no caption names."""
    rng = Random(f"layout/{seed}")

    def figure(shape: str, colour: str, x: float, y: float, radius: float) -> _Figure:
        return _Figure(shape, colour, x, y, radius, rng.uniform(-_TILT, _TILT))

    if isinstance(scene, Single):
        radius = rng.uniform(*_RADIUS[scene.size])
        edge = radius + _MARGIN
        centre_x, centre_y = _CENTRE[scene.place]
        x = min(max(centre_x, edge), 1 - edge) + rng.uniform(-0.02, 0.02)
        y = min(max(centre_y, edge), 1 - edge) + rng.uniform(-0.02, 0.02)
        return [figure(scene.thing.shape, scene.thing.colour, x, y, radius)]
    if isinstance(scene, Group):
        radius = rng.uniform(*_GROUP_RADIUS[scene.count])
        centres = _scatter(scene.count, radius, rng)
        return [figure(scene.thing.shape, scene.thing.colour, x, y, radius) for x, y in centres]
    figures = []
    for thing, along in ((scene.first, 0.26), (scene.second, 0.74)):
        along += rng.uniform(-0.025, 0.025)
        across = 0.5 + rng.uniform(-0.08, 0.08)
        x, y = (along, across) if scene.relation == "left of" else (across, along)
        figures.append(figure(thing.shape, thing.colour, x, y, rng.uniform(*_PAIR_RADIUS)))
    return figures


def _scatter(count: int, radius: float, rng: Random) -> list[tuple[float, float]]:
    """Choose centres of equal things that touch neither one another nor the edge."""
    edge = radius + _MARGIN
    while True:
        centres: list[tuple[float, float]] = []
        for _ in range(12 * count):
            x, y = rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge)
            if all(math.hypot(x - a, y - b) > 2.08 * radius for a, b in centres):
                centres.append((x, y))
            if len(centres) == count:
                return centres


def _jittered(colour: str, rng: Random) -> tuple[int, int, int]:
    def channel(value: int) -> int:
        return min(max(value + rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER), 0), 255)

    red, green, blue = COLOURS[colour]
    return channel(red), channel(green), channel(blue)


def _paint_stripes(image: Image.Image, colour: tuple[int, int, int], rng: Random) -> None:
    """Paint every second stripe, at a random angle, about a seventh of the picture wide."""
    size = image.width
    width = rng.uniform(0.12, 0.18) * size
    angle = rng.choice((0.0, math.pi / 4, math.pi / 2, -math.pi / 4)) + rng.uniform(-_TILT, _TILT)
    along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    middle = np.array([size / 2, size / 2])
    start = rng.uniform(0, 2 * width) - size
    brush = ImageDraw.Draw(image)
    while start < size:
        near, far = middle + across * start, middle + across * (start + width)
        corners = np.stack([near - along * size, near + along * size, far + along * size, far - along * size])
        brush.polygon(corners.ravel().tolist(), fill=colour)
        start += 2 * width


def _paint_figure(image: Image.Image, figure: _Figure, colour: tuple[int, int, int]) -> None:
    size = image.width
    reach = math.ceil(figure.radius * size * 1.05) + 1
    left, top = round(figure.x * size) - reach, round(figure.y * size) - reach
    centre = np.array([figure.x * size - left, figure.y * size - top])
    cosine, sine = math.cos(figure.tilt), math.sin(figure.tilt)
    turn = np.array([[cosine, sine], [-sine, cosine]]) * (figure.radius * size)
    mask = Image.new("L", (2 * reach, 2 * reach), 0)
    brush = ImageDraw.Draw(mask)
    for i, outline in enumerate(_OUTLINES[figure.shape]):
        brush.polygon((outline @ turn + centre).ravel().tolist(), fill=255 if i == 0 else 0)
    image.paste(colour, (left, top), mask)


def draw(scene: Scene, seed: int | str, *, size: int = 320, oversample: int = 2) -> Image.Image:
    """Draw the scene as an RGB picture, `size` pixels square.

    The seed determines everything that captions do not name: jitter of place, radius, tilt and colour, the angle
    of stripes, and noise. `oversample` draws larger by this factor and averages down, for smooth outlines.
    """
    rng = Random(f"draw/{seed}")
    canvas = size * oversample
    grounds = [_jittered(colour, rng) for colour in scene.ground.colours]
    image = Image.new("RGB", (canvas, canvas), grounds[0])
    if scene.ground.striped:
        _paint_stripes(image, grounds[1], rng)
    for figure in _layout(scene, seed):
        _paint_figure(image, figure, _jittered(figure.colour, rng))
    if oversample > 1:
        image = image.reduce(oversample)
    return _with_noise(image, rng)


def owners(scene: Scene, seed: int | str, *, grid: int) -> NDArray[np.uint8]:
    """Find the thing that covers each cell of the drawn picture: uint8 (grid, grid), rows from the top.

    0 is the ground, 1 the thing (or a pair's first), 2 a pair's second.
    """
    centres = (np.arange(grid) + 0.5) / grid
    covered = np.zeros((grid, grid), dtype=np.uint8)
    for number, figure in enumerate(_layout(scene, seed), start=1):
        distance = np.hypot(centres[None, :] - figure.x, centres[:, None] - figure.y)
        covered[distance < figure.radius] = number if isinstance(scene, Pair) else 1
    return covered


def _with_noise(image: Image.Image, rng: Random) -> Image.Image:
    size = image.width
    grain = np.frombuffer(rng.randbytes(size * size), dtype=np.uint8).reshape(size, size, 1)
    pixels = np.asarray(image).astype(np.int16) + (grain.astype(np.int16) * _NOISE // 256 - _NOISE // 2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save_picture(scene: Scene, seed: int | str, path: Path, *, size: int = 320) -> None:
    """Draw the scene to a JPEG file, as from a camera: compressed, and larger than a model's input."""
    draw(scene, seed, size=size).save(path, format="JPEG", quality=90)
