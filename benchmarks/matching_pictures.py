"""Pictures that are hard to tell apart by their local features, and what becomes of copies of them.

Nothing here is easy to match by chance: pages are set in one font with words of one vocabulary, desktops carry
icons
of one set, walls repeat themselves, and landscapes and rooms come in families (drawn_pictures.py). The n-th
picture of a seed is the same whoever draws it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from drawn_pictures import _clouds, _finished, _landscape, _texture, _things
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

SIZES = [(340, 256), (256, 340), (360, 240), (300, 300), (240, 360), (384, 216)]
_NAMES = """
astronaut camera cell chelsea coffee coins hubble_deep_field ihc moon motorcycle_left page retina rocket brick
grass gravel text
"""
PHOTOGRAPHS = _NAMES.split()
_TEXT = """
the of and to in is that for it as with was on by at from this which are or an were be had his not but have
one all their been has when more other some into time only could about such no new these its two may first
then do any my now over picture index search server model vector light water house garden window letter number
between morning evening river mountain paper colour summer winter country history question answer machine
memory
"""
_WORDS = _TEXT.split()

Transform = Callable[[Image.Image, np.random.Generator], Image.Image]


def drawn(seed: int, n: int) -> Image.Image:
    """The n-th picture, RGB, of some 87,000 pixels. Of every eight numbers, four are one family."""
    shared, size, kind = _family(seed, n)
    own = np.random.default_rng([seed, 2, n])
    image = (_landscape, _texture, _things, _set_page, _desktop, _wall)[kind](shared, own, size)
    return _strewn(image, own) if kind in (0, 1, 2, 5) else image


def kind_drawn(seed: int, n: int) -> str:
    """What the n-th picture shows."""
    return ("landscape", "texture", "room", "page", "desktop", "wall")[_family(seed, n)[2]]


def _family(seed: int, n: int) -> tuple[np.random.Generator, tuple[int, int], int]:
    """What the n-th picture has in common with its family: the generator, the size, the kind."""
    place, member = divmod(n, 8)
    shared = np.random.default_rng([seed, 1, place * 8 if member < 4 else n])
    size = SIZES[shared.integers(len(SIZES))]
    return shared, size, int(shared.choice(6, p=[0.2, 0.15, 0.2, 0.15, 0.15, 0.15]))


def photographs() -> list[Image.Image]:
    """scikit-image's photographs, RGB, as it ships them."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    found: list[Image.Image] = []
    for name in PHOTOGRAPHS:
        for suffix in ("png", "jpg"):
            try:
                opened = Image.open(folder / f"{name}.{suffix}")
            except FileNotFoundError:
                continue
            image = opened.convert("RGB")
            image.thumbnail((1024, 1024))
            found.append(image)
    return found


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@functools.cache
def _icons() -> list[Image.Image]:
    """60 icons that all desktops share, 40 pixels wide."""
    made = []
    for n in range(60):
        rng = np.random.default_rng([77, n])
        icon = Image.new("RGB", (120, 120), tuple(int(c) for c in rng.integers(0, 256, 3)))
        pen = ImageDraw.Draw(icon)
        for _ in range(int(rng.integers(3, 8))):
            x, y, r = rng.uniform(15, 105), rng.uniform(15, 105), rng.uniform(8, 40)
            fill = tuple(int(c) for c in rng.integers(0, 256, 3))
            (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(
                (x - r, y - r * 0.7, x + r, y + r * 0.7), fill=fill
            )
        pen.text((35, 30), chr(65 + n % 26), fill=(255, 255, 255), font=_font(56))
        made.append(icon.resize((40, 40), Image.Resampling.LANCZOS))
    return made


def _strewn(image: Image.Image, own: np.random.Generator) -> Image.Image:
    """Strew stones and leaves over it: a hundred or more small things, all of the same few shapes."""
    pen = ImageDraw.Draw(image)
    w, h = image.size
    for _ in range(int(own.integers(90, 260))):
        x, y, r = own.uniform(0, w), own.uniform(0, h), own.uniform(2, 9)
        fill = tuple(int(c) for c in own.integers(0, 256, 3))
        if own.random() < 0.5:
            pen.ellipse((x - r, y - 0.7 * r, x + r, y + 0.7 * r), fill=fill)
        else:
            a = own.uniform(0, 6.28)
            c, s = np.cos(a) * r, np.sin(a) * r
            pen.polygon([(x - c, y - s), (x - 0.4 * s, y + 0.4 * c), (x + c, y + s)], fill=fill)
    return image.filter(ImageFilter.GaussianBlur(0.5))


def _set_page(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A page of words in one font; a family has the same size of type and the same heading."""
    width, height = size
    image = Image.new("RGB", size, tuple(int(c) for c in shared.integers(225, 256, 3)))
    pen = ImageDraw.Draw(image)
    ink = tuple(int(c) for c in shared.integers(0, 70, 3))
    points = int(shared.choice([11, 12, 14, 17]))
    pen.text((12, 6), " ".join(shared.choice(_WORDS, 3)), fill=ink, font=_font(20))
    y = 36
    while y < height - points:
        x: float = 12
        while x < width - 50:
            word = str(own.choice(_WORDS))
            pen.text((x, y), word, fill=ink, font=_font(points))
            x += pen.textlength(word, font=_font(points)) + points * 0.35
        y += round(points * 1.35)
    return image


def _desktop(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Icons of one set in other places on a background that a family shares the colours of."""
    low, high = shared.uniform(20, 235, 3).astype(np.float32), shared.uniform(20, 235, 3).astype(np.float32)
    weight = 0.5 + 0.25 * _clouds(own, size)
    image = Image.fromarray(
        np.clip(low + np.clip(weight, 0, 1)[..., None] * (high - low), 0, 255).astype(np.uint8)
    )
    icons = _icons()
    for _ in range(int(own.integers(10, 24))):
        icon = icons[own.integers(len(icons))]
        x, y = int(own.integers(0, size[0] - 40)), int(own.integers(0, size[1] - 54))
        image.paste(icon, (x, y))
        ImageDraw.Draw(image).text((x, y + 41), str(own.choice(_WORDS)), fill=(255, 255, 255), font=_font(11))
    return image


def _wall(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Bricks in rows, which look like each other; a family has the same bricks in other colours and grain."""
    width, height = size
    brick, course, gap = int(shared.integers(30, 70)), int(shared.integers(14, 30)), int(shared.integers(2, 5))
    base = shared.uniform(60, 190, 3)
    image = Image.new("RGB", size, tuple(int(c) for c in shared.integers(150, 220, 3)))
    pen = ImageDraw.Draw(image)
    for line, y in enumerate(range(-course, height, course + gap)):
        x = -brick if line % 2 else -brick // 2
        while x < width:
            tone = base + own.normal(0, 14, 3)
            pen.rectangle((x, y, x + brick, y + course), fill=tuple(int(c) for c in np.clip(tone, 0, 255)))
            x += brick + gap
    rough = np.asarray(image, np.float32) + 9 * _clouds(own, size, 0.8)[..., None]
    return _finished(rough, own)


def cropped(share: float) -> Transform:
    """Keep this share of the area, of the picture's shape within a quarter, from anywhere."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        aspect = np.exp(rng.uniform(-0.22, 0.22))
        w = min(image.width, round(image.width * np.sqrt(share) * aspect))
        h = min(image.height, round(image.height * np.sqrt(share) / aspect))
        left, top = int(rng.integers(image.width - w + 1)), int(rng.integers(image.height - h + 1))
        return image.crop((left, top, left + w, top + h))

    return change


def turned(degrees: float, exact: bool = False) -> Transform:
    """Turn by up to so many degrees, either way, and keep what fits; or by exactly so many."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        angle = degrees if exact else float(rng.uniform(-degrees, degrees))
        fill = tuple(int(c) for c in rng.integers(0, 256, 3))
        return image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)

    return change


def scaled(factor: float) -> Transform:
    """Make it larger or smaller."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        size = (max(16, round(image.width * factor)), max(16, round(image.height * factor)))
        return image.resize(size, Image.Resampling.BICUBIC)

    return change


def compressed(quality: int) -> Transform:
    """Save as JPEG of this quality."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def blurred(radius: float) -> Transform:
    """Blur with a Gaussian of this radius."""
    return lambda image, rng: image.filter(ImageFilter.GaussianBlur(radius))


def printed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Print and photograph: a perspective, uneven light, other contrast, grain, a table around it, JPEG 60."""
    w, h = image.size
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    moved = corners + rng.uniform(-0.09, 0.09, (4, 2)) * (w, h) + np.array((w, h)) * 0.1
    to = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    size = (round(w * 1.2), round(h * 1.2))
    table = rng.integers(30, 225, 3).tolist()
    warped = cv2.warpPerspective(np.asarray(image), to, size, flags=cv2.INTER_CUBIC, borderValue=table)
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    light = 0.9 + rng.uniform(-0.25, 0.25) * (x / size[0] - 0.5) + rng.uniform(-0.25, 0.25) * (y / size[1] - 0.5)
    pixels = (warped.astype(np.float32) * light[..., None] - 128) * rng.uniform(0.7, 1.0) + 128
    pixels += rng.normal(0, 5, pixels.shape)
    seen = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    return compressed(60)(seen, rng)


def overlaid(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A banner with words, a large sign, and another brightness and saturation."""
    made = ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))).enhance(0.5)
    pen = ImageDraw.Draw(made)
    w, h = made.size
    top = rng.uniform(0, 0.7) * h
    pen.rectangle((0, top, w, top + 0.25 * h), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    pen.text((0.1 * w, top + 0.05 * h), " ".join(rng.choice(_WORDS, 3)), fill=(255, 255, 255), font=_font(30))
    x, y, r = rng.uniform(0, w), rng.uniform(0, h), 0.15 * min(w, h)
    pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return made


def mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def collage(images: list[Image.Image]) -> Image.Image:
    """Four pictures, each in its quarter of 800 × 600."""
    made = Image.new("RGB", (800, 600))
    for k, image in enumerate(images):
        made.paste(image.resize((400, 300), Image.Resampling.BICUBIC), (400 * (k % 2), 300 * (k // 2)))
    return made


def chain(*steps: Transform) -> Transform:
    """One after the other."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for step in steps:
            image = step(image, rng)
        return image

    return change


TRANSFORMS: dict[str, Transform] = {
    "none": lambda image, rng: image,
    "crop 80 %": cropped(0.8),
    "crop 50 %": cropped(0.5),
    "crop 20 %": cropped(0.2),
    "crop 10 %": cropped(0.1),
    "crop 5 %": cropped(0.05),
    "crop 50 %, turned ≤ 30°": chain(cropped(0.5), turned(30)),
    "crop 20 %, turned ≤ 30°": chain(cropped(0.2), turned(30)),
    "crop 15 %, turned 10°, halved, JPEG 50": chain(cropped(0.15), turned(10, True), scaled(0.5), compressed(50)),
    "JPEG 75": compressed(75),
    "JPEG 30": compressed(30),
    "JPEG 10": compressed(10),
    "JPEG 3": compressed(3),
    "turned 30°": turned(30, True),
    "turned 90°": turned(90, True),
    "turned 137°": turned(137, True),
    "turned 180°": turned(180, True),
    "scaled to 0.25": scaled(0.25),
    "scaled to 0.5": scaled(0.5),
    "scaled to 2": scaled(2),
    "blurred, radius 2": blurred(2),
    "blurred, radius 4": blurred(4),
    "printed and photographed": printed,
    "overlaid": overlaid,
    "mirrored": mirrored,
    "mirrored, crop 50 %": chain(cropped(0.5), mirrored),
}
