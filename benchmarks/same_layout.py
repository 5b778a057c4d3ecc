"""How much of what `clipdex duplicates` lists, and of what `--move-to` would move, is true among look-alikes.

Pages of text, charts, filled-in forms and the drawings of `clipdex demo`: of each kind, different pictures of the
same few layouts, and copies of some of them: the same bytes, recompressed, resized, and cropped by 4 % of width
and height. Beside them photographs, cut out of those that scikit-image ships: they share no layout. The vectors
are those of the demo model, which knows shapes and colours only; the figures for cosines are of that model alone.

    python benchmarks/same_layout.py

Needs matplotlib (the extra `plot`) and the model_repository/ of a checkout.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "export")]

import clipdex  # noqa: E402
from clipdex.apps.duplicates import moves_of  # noqa: E402
from clipdex_export.demo.questions import draw_demo_pictures  # noqa: E402
from clipdex_export.photographs import photograph  # noqa: E402

SEED = 2026
EACH = 300  # different pictures of a kind
COPIED = 75  # of them, copied in each of the four ways
LAYOUTS = 4
THRESHOLDS = (None, 0.98, 0.99, 0.995)
MIN_COSINES = (None, 0.98, 0.99, 0.995, 0.999)

TEXT = """
    of the and to in that it was for on are as with his they at be this from have or by one had not but what all
    were when we there can an your which their said if do will each about how up out them then she many some so
    these would other into has more her two like him see time could no make than first been its who now people
    account balance delivery invoice number quarter revenue report summary street total value version width
"""
WORDS = TEXT.split()
PHOTOGRAPHS = [
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "motorcycle_left.png",
    "grass.png",
    "gravel.png",
    "brick.png",
    "camera.png",
    "coins.png",
    "moon.png",
]


def rng_of(*numbers: int) -> np.random.Generator:
    return np.random.default_rng([SEED, *numbers])


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def sentence(rng: np.random.Generator, count: int) -> str:
    return " ".join(str(word) for word in rng.choice(WORDS, count)).capitalize() + "."


def page(n: int) -> Image.Image:
    """A page of text, A4 at 75 dpi: the layouts differ in columns, margins and heading; the text is its own."""
    layout, own = rng_of(1, n % LAYOUTS), rng_of(2, n)
    image = Image.new("RGB", (620, 877), "white")
    pen = ImageDraw.Draw(image)
    margin, columns, size = int(layout.integers(40, 80)), int(layout.integers(1, 3)), int(layout.integers(11, 15))
    pen.text((margin, margin - 10), sentence(own, 5), fill="black", font=font(2 * size))
    width = (620 - 2 * margin - 20 * (columns - 1)) // columns
    for column in range(columns):
        x, y = margin + column * (width + 20), margin + 4 * size
        while y < 877 - margin - size:
            line = sentence(own, 30)
            while pen.textlength(line, font=font(size)) > width:
                line = line[: line.rindex(" ")]
            pen.text((x, y), line, fill="black", font=font(size))
            y += round(1.5 * size) if own.random() > 0.1 else 3 * size
    return image


def chart(n: int) -> Image.Image:
    """A chart of matplotlib: bars, lines, points or areas of the same frame, with figures of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    own, kind = rng_of(3, n), n % LAYOUTS
    figure = Figure(figsize=(6.4, 4.8), dpi=75)
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    if kind == 0:
        axes.bar(range(12), own.uniform(10, 100, 12))
    elif kind == 1:
        axes.plot(np.cumsum(own.standard_normal((60, 2)), axis=0))
    elif kind == 2:
        axes.scatter(*own.standard_normal((2, 80)))
    else:
        axes.stackplot(range(20), own.uniform(5, 20, (3, 20)))
    axes.set_title(("revenue by month", "load over time", "size and weight", "visits by source")[kind])
    axes.grid(visible=True)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def form(n: int) -> Image.Image:
    """A window with a form: labels and boxes are the layout's, what is filled in its own."""
    layout, own = rng_of(4, n % LAYOUTS), rng_of(5, n)
    image = Image.new("RGB", (800, 600), (240, 240, 240))
    pen = ImageDraw.Draw(image)
    accent = tuple(int(c) for c in layout.integers(30, 160, 3))
    pen.rectangle((0, 0, 800, 44), fill=accent)
    pen.text((16, 12), sentence(layout, 3), fill="white", font=font(18))
    pen.rectangle((0, 44, 170, 600), fill=(225, 228, 232))
    for k in range(8):
        pen.text((14, 64 + 30 * k), str(layout.choice(WORDS)), fill=(60, 60, 60), font=font(14))
    rows, columns = int(layout.integers(9, 14)), int(layout.integers(1, 4))
    for row in range(rows):
        for column in range(columns):
            x, y = 190 + column * 600 // columns, 64 + row * 520 // rows
            pen.text((x, y), str(layout.choice(WORDS)), fill=(60, 60, 60), font=font(12))
            pen.rectangle((x, y + 14, x + 570 // columns, y + 34), fill="white", outline=(170, 170, 170))
            value = str(own.choice(WORDS)) if own.random() < 0.5 else f"{own.uniform(1, 9999):,.2f}"
            pen.text((x + 6, y + 17), value, fill="black", font=font(12))
    return image


def photo(n: int) -> Image.Image:
    """A part of a photograph; no two parts overlap by more than a fifth."""
    image = photograph(PHOTOGRAPHS[n % len(PHOTOGRAPHS)])
    side = min(image.size) // 3
    places = [
        (x, y)
        for y in range(0, image.height - side + 1, max(1, side * 4 // 5))
        for x in range(0, image.width - side + 1, max(1, side * 4 // 5))
    ]
    turn, place = divmod(n // len(PHOTOGRAPHS), len(places))
    x, y = places[place]
    part = image.crop((x, y, x + side, y + side)).resize((400, 400), Image.Resampling.LANCZOS)
    return part.rotate(90 * turn)


@dataclass(frozen=True)
class Copy:
    """name: of the way. save: writes a copy of a picture file into another."""

    name: str
    save: Callable[[Path, Path, np.random.Generator], object]


def recompressed(source: Path, to: Path, rng: np.random.Generator) -> None:
    Image.open(source).convert("RGB").save(to, quality=int(rng.integers(40, 81)))


def resized(source: Path, to: Path, rng: np.random.Generator) -> None:
    image = Image.open(source).convert("RGB")
    scale = float(rng.choice([0.5, 0.75, 1.5]))
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(to, quality=85)


def cropped(source: Path, to: Path, rng: np.random.Generator) -> None:
    image = Image.open(source).convert("RGB")
    width, height = round(image.width * 0.96), round(image.height * 0.96)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    image.crop((left, top, left + width, top + height)).save(to, quality=85)


COPIES = (
    Copy("bytes", lambda source, to, _: shutil.copyfile(source, to)),
    Copy("recompressed", recompressed),
    Copy("resized", resized),
    Copy("cropped", cropped),
)


def drawn(folder: Path, draw: Callable[[int], Image.Image]) -> list[Path]:
    """EACH different pictures as JPEG files of quality 90, and none twice."""
    folder.mkdir(parents=True)
    seen, paths = set(), []
    for n in range(EACH):
        buffer = io.BytesIO()
        draw(n).save(buffer, "JPEG", quality=90)
        if buffer.getvalue() not in seen:
            seen.add(buffer.getvalue())
            paths.append(folder / f"{n:04}.jpg")
            paths[-1].write_bytes(buffer.getvalue())
    return paths


def kinds(place: Path) -> Iterator[tuple[str, Path, list[Path]]]:
    for name, draw in (("pages", page), ("charts", chart), ("forms", form), ("photographs", photo)):
        yield name, place / name, drawn(place / name, draw)
    folder = place / "demo drawings"
    folder.mkdir()
    yield folder.name, folder, sorted(Path(path) for path in draw_demo_pictures(folder, 1000))


def with_copies(folder: Path, originals: list[Path]) -> dict[str, tuple[str, str]]:
    """Makes the copies -> of each, its original and in which way it was made."""
    made = {}
    for number, copy in enumerate(COPIES):
        (folder / copy.name).mkdir()
        for n, original in enumerate(originals[number::4][:COPIED]):
            to = folder / copy.name / original.name
            copy.save(original, to, rng_of(6, number, n))
            made[str(to)] = (str(original), copy.name)
    return made


def judged(pairs: list[tuple[str, str]], made: dict[str, tuple[str, str]]) -> str:
    """Precision of pairs of (a picture, the one kept for it), and recall of the copies by how they were made.

    A copy is found where it, or its original, is in a pair of which both are copies of one picture.
    """

    def source(path: str) -> str:
        return made[path][0] if path in made else path

    true = [pair for pair in pairs if source(pair[0]) == source(pair[1])]
    paired = {path for pair in true for path in pair}
    precision = f"{len(true) / len(pairs):.3f} of {len(pairs):,}" if pairs else "of none"
    shares = []
    for copy in COPIES:
        of_this = [path for path, (_, way) in made.items() if way == copy.name]
        shares.append(f"{sum(path in paired for path in of_this) / len(of_this):.2f}")
    return f"{precision} | {', '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="leave the pictures and indexes in this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = given.keep or Path(scratch)
        with clipdex.connect(f"inproc:{ROOT / 'model_repository'}", model="demo") as client:
            for name, folder, originals in kinds(place):
                made = with_copies(folder, originals)
                index = place / f"{name}.clipdex"
                clipdex.index_pictures(client, folder, index)
                print(f"\n{name}: {len(originals)} different, {len(made)} copies")
                print(f"| | precision | recall: {', '.join(copy.name for copy in COPIES)} |")
                for threshold in reversed(THRESHOLDS):
                    groups = clipdex.find_duplicates(index, "near", threshold=threshold).groups
                    listed = [(other.path, group.keeper.path) for group in groups for other in group.others]
                    what = "listed by default" if threshold is None else f"--threshold {threshold}"
                    print(f"| {what} | {judged(listed, made)}")
                for cosine in MIN_COSINES:
                    moves = [move for group in groups for move in moves_of(group, cosine) if move.moves]
                    pairs = [(move.picture.path, move.keeper.path) for move in moves]
                    what = "moved by default" if cosine is None else f"--min-cosine {cosine}"
                    print(f"| {what} | {judged(pairs, made)}", flush=True)


if __name__ == "__main__":
    main()
