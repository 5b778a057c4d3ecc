"""Draw docs/contact-sheet.png, the README's picture: three of the demo's questions and their answers, sharp at 2×.

python docs/screenshot.py                      # needs chromium, and the extras cli and local; no server
python docs/screenshot.py --page report.html --width 400 --dark --out look.png      # or look at any page
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter

import clipdex
from clipdex.apps.contact_sheet import Section, write_contact_sheet
from clipdex_export.demo.questions import QUESTIONS, draw_demo_pictures

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "contact-sheet.png"
WIDTH, SCALE, TALLEST = 900, 2, 6000
MARGIN = 24  # below the last row, CSS pixels
COLOURS = 256
SMOOTHINGS = 4


def demo_page(folder: Path) -> Path:
    """Write the contact sheet of the first three questions, answered by the demo model in this process."""
    scenes = {str(path): scene for path, scene in draw_demo_pictures(folder / "pictures", 1000).items()}
    questions = QUESTIONS[:3]
    with clipdex.connect(f"inproc:{ROOT / 'model_repository'}", model="demo") as client:
        clipdex.index_pictures(client, folder / "pictures", folder / "pictures.clipdex")
        vectors = client.embed_texts([question.text for question in questions])
    with clipdex.Index.open(folder / "pictures.clipdex") as index:
        answers = index.search(vectors, top_k=5)
    smooth({hit.path for hits in answers for hit in hits})
    sections = []
    for question, hits in zip(questions, answers, strict=True):
        right = sum(question.is_answered_by(scenes[hit.path]) for hit in hits)
        sections.append(Section(question.text, hits, f"{right} of {len(hits)} right"))
    page = folder / "page.html"
    write_contact_sheet(page, sections, title="clipdex demo", summary="1,000 drawn pictures, the demo model")
    return page


def smooth(paths: set[str]) -> None:
    """Remove the faint noise of drawn pictures, which would be most of the bytes of the README's picture."""
    for path in paths:
        with Image.open(path) as opened:
            image: Image.Image = opened
            for _ in range(SMOOTHINGS):
                image = image.filter(ImageFilter.MedianFilter(3))
            image.save(path, quality=95)


def screenshot(page: Path, width: int, *, dark: bool) -> Image.Image:
    """Return the page's first 6,000 pixels as chromium shows them, RGB, two device pixels for each CSS pixel."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no chromium on the path; install it, as with  apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--force-device-scale-factor={SCALE}"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        command += [f"--window-size={width},{TALLEST}", f"--screenshot={file}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(file) as image:
            return trimmed(image.convert("RGB"))


def trimmed(image: Image.Image) -> Image.Image:
    """Cut off the empty ground below the page's last row."""
    ground = Image.new("RGB", image.size, image.getpixel((0, 0)))
    box = ImageChops.difference(image, ground).getbbox()
    assert box is not None, "the page is empty"
    return image.crop((0, 0, image.width, min(image.height, box[3] + MARGIN * SCALE)))


def main() -> None:
    """Run the command that the docs name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--page", type=Path, help="the page to draw (default the demo's)")
    parser.add_argument("--out", type=Path, default=PICTURE)
    parser.add_argument("--width", type=int, default=WIDTH, help="CSS pixels")
    parser.add_argument("--dark", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = asked.page or demo_page(Path(folder))
        image = screenshot(page, asked.width, dark=asked.dark)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(asked.out, optimize=True)


if __name__ == "__main__":
    main()
