"""Draw docs/web-page-wide.webp and docs/web-page-phone.webp: the page on drawn pictures, as Chromium shows it.

python docs/page_screenshots.py                   # needs chromium, and the development environment
python docs/page_screenshots.py --all LOOK        # every state of the page, into a folder, to look at
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from drawn_site import draw_pictures, index_of, served  # noqa: E402

WIDE: dict[str, object] = {"viewport": {"width": 1600, "height": 1000}}
PHONE: dict[str, object] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
DARK: dict[str, object] = {"color_scheme": "dark"}
QUERY = "/?text=a+red+circle&part=-0.5~text~stripes"


def nothing(page: Page) -> None:
    """Leave the page as it is."""


def filters(page: Page) -> None:
    """Open the filters, with one in use and another that is wrong."""
    page.click("#to-filters")
    page.select_option("#column", label="name")
    page.fill("#value", "1")
    page.click("#build button")
    page.wait_for_timeout(600)
    page.fill("#sql", "colour = 'red'")
    page.click("#raw button")
    page.wait_for_selector("#sql-error:visible")


def viewer(page: Page) -> None:
    """Open the viewer on the second picture."""
    page.locator(".tile .open").nth(1).click()
    page.wait_for_selector("#viewer[open]")


def unfolded(page: Page) -> None:
    """Show a picture's copies, and the keyboard's focus."""
    page.locator(".fold:visible").first.click()
    page.keyboard.press("ArrowRight")


def broken(page: Page) -> None:
    """Search while the server does not answer."""
    page.route("**/v1/search*", lambda route: route.abort())
    page.fill("#text", "a star")
    page.wait_for_selector("#trouble:visible")


def clicked(button: str) -> Callable[[Page], None]:
    """Click a button."""
    return lambda page: page.click(button)


STATES: tuple[tuple[str, str, dict[str, object], Callable[[Page], None]], ...] = (
    ("wide", QUERY, WIDE, nothing),
    ("start", "/", WIDE, nothing),
    ("dark", QUERY, WIDE | DARK, unfolded),
    ("filters", QUERY, WIDE, filters),
    ("viewer", QUERY, WIDE, viewer),
    ("viewer-dark", QUERY, WIDE | DARK, viewer),
    ("duplicates", "/?view=duplicates", WIDE, nothing),
    ("info", QUERY, WIDE, clicked("#to-info")),
    ("keys", QUERY, WIDE | DARK, clicked("#to-keys")),
    ("error", QUERY, WIDE, broken),
    ("no-results", QUERY + "&min_score=0.99", WIDE, nothing),
    ("phone", QUERY, PHONE, nothing),
    ("phone-dark", QUERY, PHONE | DARK, nothing),
    ("phone-filters", QUERY, PHONE, clicked("#to-filters")),
    ("phone-viewer", QUERY, PHONE, viewer),
)


def screenshot(
    browser: Browser, url: str, options: dict[str, object], bring: Callable[[Page], None]
) -> Image.Image:
    """Show the page in a state -> what is seen."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(1_500)
    bring(page)
    page.wait_for_timeout(1_000)
    seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return seen


def main() -> None:
    """Draw the pictures of the docs, or all states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="DIR", help="folder for a picture of every state")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as started:
        draw_pictures(Path(temporary, "pictures"), 500, copies=40)
        index = index_of(Path(temporary, "pictures"), Path(temporary, "drawings.clipdex"))
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with served(index) as address:
            for name, path, options, bring in STATES:
                if asked.all is not None:
                    asked.all.mkdir(parents=True, exist_ok=True)
                    screenshot(browser, address + path, options, bring).save(asked.all / f"{name}.png")
                elif name in ("wide", "phone"):
                    seen = screenshot(browser, address + path, options, bring)
                    seen.save(ROOT / "docs" / f"web-page-{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
