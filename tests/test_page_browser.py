"""The page in a real Chromium: typing, dropping, filtering, scrolling, the viewer, by mouse and by keyboard.

Every test fails if the browser's console has an error, or something was refused by the page's security policy, and
in every state that is shown axe-core must find nothing serious.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from conftest import unit_vectors

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

from drawn_index import drawn_index  # noqa: E402
from drawn_site import draw_pictures, index_of, served  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Route, expect  # noqa: E402
from scenes import give_features, scene, scene_png  # noqa: E402

import clipdex  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>.jpg'
MANY = 3_000
# A pixel, for rows that have no file.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cfc0000003010100"
    "18dd8db00000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_pictures(folder, 42, copies=6)
    return folder


@pytest.fixture(scope="module")
def site(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two indexes: drawn pictures, and thousands of rows without files, the first of which has an evil name."""
    there = tmp_path_factory.mktemp("indexes")
    drawings = index_of(pictures, there / "drawings.clipdex")
    with clipdex.Index.open(drawings) as index:
        card = index.manifest
    paths = [b"/p/%05d.jpg" % i for i in range(MANY)]
    paths[0] = b"/p/" + EVIL.replace("/", "\u2215").encode()
    vectors = unit_vectors(MANY, card.embedding_dim, seed=4)
    metadata = [json.dumps({"caption": EVIL, "<b>tags</b>": [EVIL, "b"]})] * MANY
    widths = [(320, 240, 400)[i % 3] for i in range(MANY)]
    many = drawn_index(
        there / "many.clipdex",
        vectors=vectors,
        fingerprint=card.fingerprint,
        path=paths,
        metadata=metadata,
        width=widths,
        height=[240] * MANY,
    )
    with served(drawings, many) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def window(browser: Browser, site: str) -> Iterator[Callable[..., Page]]:
    """Open a page in a context of its own; what its console says of errors fails the test at the end."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def without_file(route: Route) -> None:
        route.fulfill(body=PNG, content_type="image/png")

    def open_page(path: str = "/?index=drawings", *, at: str = site, expected: str = "^$", **options: Any) -> Page:
        """at: the site. expected: what the console may say of, such as a request that is refused on purpose."""
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(8_000)
        contexts.append(context)
        context.route(re.compile("/v1/pictures/.*thumbnail.*index=many|index=many.*thumbnail"), without_file)
        page = context.new_page()

        def heard(text: str) -> None:
            if not re.search(expected, text):
                said.append(text)

        page.on("console", lambda message: heard(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: heard(str(error)))

        def asked(dialog: Dialog) -> None:
            heard(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", asked)
        answer = page.goto(at + path)
        assert answer is not None and answer.headers["content-security-policy"] == POLICY
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def settled(page: Page) -> None:
    """Wait until results are shown; the page's policy forbids what `wait_for_function` would evaluate."""
    until = time.monotonic() + 10
    while not page.evaluate(
        "document.querySelector('#results').getAttribute('aria-busy') === 'false' && "
        "[...document.querySelectorAll('.tile')].every((tile) => tile.hit)"
    ):
        assert time.monotonic() < until, "no results are shown"
        page.wait_for_timeout(20)


def names(page: Page) -> list[str]:
    """The names of the first pictures; more of them come without asking."""
    settled(page)
    found = page.eval_on_selector_all(".tile img", "images => images.slice(0, 50).map((image) => image.alt)")
    assert isinstance(found, list)
    return found


def type_in(page: Page, text: str) -> None:
    """Type a query, and wait for its results."""
    with page.expect_response("**/v1/search*"):
        page.fill("#text", text)
    settled(page)


def check(page: Page) -> None:
    """Let axe-core look at what is shown."""
    page.wait_for_timeout(150)  # transitions end
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] }).then((found) => found.violations)")
    bad = [
        (each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")
    ]
    assert bad == []


def drop(page: Page, name: str, data: bytes, kind: str = "image/jpeg", event: str = "drop") -> None:
    """Drop a file on the page, or paste it."""
    page.evaluate(
        """([name, bytes, type, event]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
            const given = { bubbles: true, cancelable: true };
            const made = event === "paste" ? new ClipboardEvent(event, { ...given, clipboardData: transfer })
                : new DragEvent(event, { ...given, dataTransfer: transfer });
            document.body.dispatchEvent(made);
        }""",
        [name, list(data), kind, event],
    )


def test_results_come_as_one_types_and_stand_in_the_address(window: Callable[..., Page]) -> None:
    page = window()
    before = names(page)
    check(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/search" in request.url else None)
    with page.expect_response("**/v1/search*"):
        page.locator("#text").press_sequentially("a red circle", delay=15)
    assert names(page) != before
    assert len(asked) < 4, "each letter was searched for"
    assert "text=a+red+circle" in page.url
    expect(page.locator("#status")).to_have_text(re.compile(r"^\d+ (best )?results"))
    expect(page).to_have_title("a red circle – clipdex")
    assert page.locator(".tile .score").first.inner_text().startswith("0.")
    check(page)
    again = window(page.url.removeprefix(page.url.split("/?")[0]))
    assert names(again)[:10] == names(page)[:10]


@pytest.mark.slow
def test_a_picture_can_be_dropped_pasted_and_chosen(window: Callable[..., Page], pictures: Path) -> None:
    page = window()
    file = sorted((pictures / "home").iterdir())[5]
    settled(page)
    drop(page, file.name, file.read_bytes(), event="dragenter")
    expect(page.locator("#veil")).to_be_visible()
    with page.expect_response("**/v1/search*"):
        drop(page, file.name, file.read_bytes())
    expect(page.locator("#veil")).to_be_hidden()
    assert names(page)[0] == file.name
    assert float(page.locator(".tile .score").first.inner_text()) > 0.99
    expect(page.locator("#parts img")).to_be_visible()
    check(page)
    with page.expect_response("**/v1/search*"):
        drop(page, "pasted.jpg", sorted((pictures / "work").iterdir())[0].read_bytes(), event="paste")
    assert names(page)[0] == sorted((pictures / "work").iterdir())[0].name
    with page.expect_response("**/v1/search*"):
        page.go_back()
    assert names(page)[0] == file.name
    with page.expect_response("**/v1/search*"):
        page.set_input_files("#choose", sorted((pictures / "home").iterdir())[1])
    assert names(page)[0] == sorted((pictures / "home").iterdir())[1].name
    type_in(page, "a red circle")  # a mixture of a text and a picture
    expect(page.locator("#parts li")).to_have_count(1)
    drop(page, "text.txt", b"words", "text/plain")
    expect(page.locator("#toast")).to_contain_text("not a picture")
    page.reload()
    expect(page.locator("#toast")).to_contain_text("not part of a link")
    expect(page.locator("#parts")).to_be_hidden()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index of scenes with local features, one of which is very wide, and an index without."""
    pytest.importorskip("cv2", reason="matching needs the extra features")
    there = tmp_path_factory.mktemp("scenes")
    for folder, count in (("scenes", 6), ("others", 1)):
        (there / folder).mkdir()
        for n in range(count):
            scene(n, (1200, 300) if n == 5 else (320, 240)).save(there / folder / f"{n}.png")
    made = [index_of(there / name, there / f"{name}.clipdex") for name in ("scenes", "others")]
    give_features(made[0], *((there / "scenes" / f"{n}.png").read_bytes() for n in range(6)))
    with served(*made) as address:
        yield address


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, PHONE], ids=["wide", "phone"])
def test_this_very_picture_is_found_and_the_part_of_it_is_drawn(
    window: Callable[..., Page], scenes: str, how: dict[str, Any], tmp_path: Path
) -> None:
    page = window("/?index=scenes", at=scenes, **how)
    settled(page)
    expect(page.locator("#find")).to_be_hidden()
    with page.expect_response("**/v1/search*"):
        drop(page, "crop.png", scene_png(2, (80, 60, 240, 180)), "image/png")
    settled(page)
    assert page.locator(".region").count() == 0
    check(page)
    expect(page.locator("#find-meaning")).to_have_attribute("aria-pressed", "true")
    with page.expect_response("**/v1/match*"):
        page.locator("#find-very").press("Enter")
    settled(page)
    expect(page.locator("#find-very")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#status")).to_have_text("1 match")
    assert "find=very" in page.url
    (named,) = names(page)
    assert re.fullmatch(r"2\.png, \d+ points agree, in 25–75 % × 25–75 %", named)
    assert re.fullmatch(r"\d+ points", page.locator(".tile .score").inner_text())
    seen, tile = page.locator(".region .edge").bounding_box(), page.locator(".tile").bounding_box()
    assert seen is not None and tile is not None
    assert abs(seen["x"] - tile["x"] - tile["width"] / 4) < 5 and abs(seen["width"] - tile["width"] / 2) < 9
    assert abs(seen["y"] - tile["y"] - tile["height"] / 4) < 5 and abs(seen["height"] - tile["height"] / 2) < 9
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    check(page)
    page.screenshot(path=tmp_path / "match.png")
    page.locator(".tile .open").press("Enter")
    expect(page.locator("#viewer dl")).to_contain_text("25–75 % × 25–75 %")
    check(page)
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("show="))  # it goes back in the history
    with page.expect_response("**/v1/match*"):  # a crop of a picture whose tile is cropped
        drop(page, "wide.png", _crop(5, (400, 0, 800, 300)), "image/png")
    settled(page)
    assert re.search(r"33–67 % × 0–100 %", names(page)[0])
    page.screenshot(path=tmp_path / "wide.png")
    seen, tile = page.locator(".region .edge").bounding_box(), page.locator(".tile").bounding_box()
    assert seen is not None and tile is not None
    assert abs(seen["x"] + seen["width"] / 2 - tile["x"] - tile["width"] / 2) < 5
    with page.expect_response("**/v1/match*"):
        drop(page, "nowhere.png", scene_png(77), "image/png")
    settled(page)
    expect(page.locator("#trouble h2")).to_have_text("Not in the index")
    check(page)
    with page.expect_response("**/v1/search*"):
        page.locator("#find-meaning").click()
    settled(page)
    assert "find=" not in page.url and page.locator(".tile").count() == 6
    with page.expect_response("**/v1/match*"):
        page.go_back()
    page.reload()
    expect(page.locator("#toast")).to_contain_text("not part of a link")
    assert "find=" not in page.url


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, PHONE], ids=["wide", "phone"])
def test_pictures_that_have_a_part_in_common_are_found_if_asked(
    window: Callable[..., Page], scenes: str, how: dict[str, Any], tmp_path: Path
) -> None:
    query = scene(50)
    query.paste(scene(3).crop((60, 60, 200, 180)), (70, 70))
    data = io.BytesIO()
    query.save(data, "PNG")
    page = window("/?index=scenes", at=scenes, **how)
    switch = page.get_by_role("checkbox", name="Match parts too")
    settled(page)
    with page.expect_response("**/v1/search*"):
        drop(page, "poster.png", data.getvalue(), "image/png")
    settled(page)
    expect(switch).to_be_hidden()
    with page.expect_response("**/v1/match*") as asked:
        page.locator("#find-very").press("Enter")
    assert b'"parts"' not in (asked.value.request.post_data_buffer or b"")
    settled(page)
    expect(page.locator("#trouble p")).to_contain_text("Match parts too")
    expect(switch).not_to_be_checked()
    check(page)
    page.keyboard.press("Tab")
    expect(switch).to_be_focused()
    with page.expect_response("**/v1/match*") as asked:
        page.keyboard.press("Space")
    assert b'"parts":true' in (asked.value.request.post_data_buffer or b"")
    settled(page)
    expect(switch).to_be_checked()
    expect(page.locator("#status")).to_have_text("1 match")
    assert names(page)[0].startswith("3.png, ") and "find=parts" in page.url
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    check(page)
    page.screenshot(path=tmp_path / "parts.png")
    with page.expect_response("**/v1/match*"):
        page.go_back()
    settled(page)
    expect(switch).not_to_be_checked()
    assert page.locator(".tile").count() == 0 and "find=very" in page.url
    with page.expect_response("**/v1/search*"):
        page.locator("#find-meaning").click()
    expect(switch).to_be_hidden()


@pytest.mark.slow
def test_this_very_picture_is_not_offered_without_local_features_or_for_a_mixture(
    window: Callable[..., Page], scenes: str
) -> None:
    page = window("/?index=others", at=scenes)
    settled(page)
    with page.expect_response("**/v1/search*"):
        drop(page, "crop.png", scene_png(0), "image/png")
    settled(page)
    expect(page.locator("#find")).to_be_hidden()
    with page.expect_response("**/v1/search*"):
        page.goto(f"{scenes}/?index=scenes&part=-0.5~text~red")
    settled(page)
    with page.expect_response("**/v1/search*"):
        drop(page, "crop.png", scene_png(0), "image/png")
    settled(page)
    expect(page.locator("#find")).to_be_hidden()
    page.locator("#parts button", has_text="").last.wait_for()
    with page.expect_response("**/v1/search*"):
        page.get_by_label("Remove red").click()
    expect(page.locator("#find")).to_be_visible()
    with page.expect_response("**/v1/match*"):
        page.locator("#find-very").click()
    with page.expect_response("**/v1/match*") as asked:  # a text is a bound then
        page.fill("#text", "a red circle")
    assert b'"within":"a red circle"' in (asked.value.request.post_data_buffer or b"")
    settled(page)
    expect(page.locator("#status")).to_contain_text("among the pictures that best match the text")


def _crop(n: int, box: tuple[int, int, int, int]) -> bytes:
    data = io.BytesIO()
    scene(n, (1200, 300)).crop(box).save(data, "PNG")
    return data.getvalue()


@pytest.mark.slow
def test_what_is_no_picture_is_refused_in_the_servers_words(window: Callable[..., Page]) -> None:
    page = window(expected="422")
    settled(page)
    with page.expect_response("**/v1/search*"):
        drop(page, "not.jpg", b"no picture at all")
    expect(page.locator("#trouble")).to_be_visible()
    expect(page.locator("#trouble p")).to_contain_text("picture")
    check(page)


@pytest.mark.slow
def test_parts_are_added_left_out_weighed_and_removed_by_the_keyboard(window: Callable[..., Page]) -> None:
    page = window()
    type_in(page, "a red circle")
    plain = names(page)
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator("#parts .chip")).to_have_count(1)
    type_in(page, "yellow")
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("Shift+Enter")
    expect(page.locator("#parts .chip.minus")).to_have_count(1)
    assert names(page) != plain
    assert "part=-1%7Etext%7Eyellow" in page.url
    check(page)
    weight = page.get_by_label("Weight of yellow")
    weight.focus()
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("ArrowUp")
    expect(weight).to_have_value("-0.9")
    expect(weight).to_be_focused()
    page.get_by_role("button", name="Remove yellow").press("Enter")
    expect(page.locator("#parts .chip")).to_have_count(1)
    assert names(page) == plain
    page.locator("#parts button.what").click()
    expect(page.locator("#text")).to_have_value("a red circle")
    assert names(page) == plain


@pytest.mark.slow
def test_more_and_less_like_a_picture(window: Callable[..., Page]) -> None:
    page = window()
    first = names(page)[0]
    page.locator(".tile").first.hover()
    with page.expect_response("**/v1/search*"):
        page.locator(".tile .more").first.click()
    assert first not in names(page)
    expect(page.locator("#parts .chip")).to_contain_text(first)
    check(page)
    page.locator(".tile .open").nth(3).focus()
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("-")
    expect(page.locator("#parts .chip")).to_have_count(2)
    check(page)


@pytest.mark.slow
def test_filters_are_built_from_columns_or_written_in_sql(window: Callable[..., Page]) -> None:
    page = window(expected="422")
    type_in(page, "a heart")
    page.locator("#to-filters").click()
    page.select_option("#column", label="width")
    page.select_option("#operation", label="at least")
    page.fill("#value", "300")
    check(page)
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("Enter")
    expect(page.locator("#where")).to_contain_text("width ≥ 300")
    settled(page)
    assert page.eval_on_selector_all(".tile", "tiles => tiles.every((tile) => tile.hit.width >= 300)")
    found = names(page)
    page.fill("#sql", "nonsense = 1")
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("Enter")
    expect(page.locator("#sql-error")).to_contain_text("no such column: nonsense")
    expect(page.locator("#sql")).to_have_value("nonsense = 1")
    expect(page.locator("#where .chip")).to_have_count(1)
    assert names(page) == found
    check(page)
    page.fill("#sql", "name LIKE '%1%'")
    with page.expect_response("**/v1/search*"):
        page.get_by_role("button", name="Apply").click()
    expect(page.locator("#sql-error")).to_be_hidden()
    assert names(page) == [name for name in found if "1" in name]
    with page.expect_response("**/v1/search*"):
        page.locator("#min").fill("0.9")
    expect(page.locator("#trouble h2")).to_have_text("No results")
    check(page)
    with page.expect_response("**/v1/search*"):
        page.go_back()
    assert names(page) == [name for name in found if "1" in name]


@pytest.mark.slow
def test_times_and_metadata_of_the_index_are_offered_as_filters(window: Callable[..., Page]) -> None:
    page = window("/?index=many&text=a+heart")
    settled(page)
    page.locator("#to-filters").click()
    month = page.locator(".facet button").first
    said = month.locator("span").inner_text()
    assert re.fullmatch(r"19\d\d-\d\d", said)
    expect(page.locator("#column option", has_text="caption")).to_have_count(1)
    check(page)
    with page.expect_response("**/v1/search*"):
        month.click()
    settled(page)
    expect(page.locator("#where .chip")).to_contain_text(said)
    months = page.eval_on_selector_all(".tile", "tiles => tiles.map((tile) => tile.hit.modified.slice(0, 7))")
    assert set(months) == {said}
    expect(page.locator("#status")).to_have_text(f"{len(months)} result" + "s" * (len(months) != 1))


@pytest.mark.slow
def test_copies_are_folded_with_their_number_and_can_be_unfolded(window: Callable[..., Page]) -> None:
    page = window()
    type_in(page, "a heart")
    tile = page.locator(".tile", has=page.locator(".fold:visible")).first
    count = page.locator(".tile").count()
    name = tile.locator("img").get_attribute("alt")
    tile.locator(".fold").click()
    expect(tile.locator(".fold")).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".tile.copy")).to_have_count(1)
    assert names(page)[names(page).index(name or "") + 1].startswith((name or "").split(".")[0].split(" (")[0])
    check(page)
    tile.locator(".fold").click()
    expect(page.locator(".tile")).to_have_count(count)
    page.locator("#to-filters").click()
    with page.expect_response("**/v1/search*"):
        page.locator("#group").uncheck()
    settled(page)
    expect(page.locator(".fold:visible")).to_have_count(0)
    assert "group=0" in page.url


@pytest.mark.slow
def test_a_thousand_hits_are_scrolled_through_and_nothing_jumps(window: Callable[..., Page]) -> None:
    page = window("/?index=many&text=a+heart")
    settled(page)
    page.evaluate(
        """window.jumped = 0;
        new PerformanceObserver((list) => list.getEntries().forEach((each) => { window.jumped += each.value; }))
            .observe({ type: "layout-shift", buffered: false });"""
    )
    top = page.evaluate("document.querySelectorAll('.tile')[20].offsetTop")
    until = time.monotonic() + 30
    while page.locator(".tile").count() < 1_000:
        assert time.monotonic() < until, "scrolling brings no more pictures"
        page.mouse.wheel(0, 5_000)
        page.wait_for_timeout(50)
    rows = page.eval_on_selector_all(".tile", "tiles => tiles.map((tile) => tile.hit.row)")
    assert len(set(rows)) == len(rows)
    scores = page.eval_on_selector_all(".tile", "tiles => tiles.map((tile) => tile.hit.score)")
    assert scores == sorted(scores, reverse=True)
    assert page.evaluate("document.querySelectorAll('.tile')[20].offsetTop") == top
    assert page.evaluate("window.jumped") < 0.02
    shapes = page.eval_on_selector_all(
        ".tile",
        "tiles => tiles.slice(0, 50).map((tile) => tile.offsetWidth / tile.offsetHeight - tile.hit.width / 240)",
    )
    assert max(map(abs, shapes)) < 0.03


@pytest.mark.slow
def test_the_viewer_is_used_by_the_keyboard_alone(window: Callable[..., Page]) -> None:
    page = window()
    settled(page)
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    type_in(page, "a red circle")
    found = names(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".tile .open").nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[...document.querySelectorAll('.tile .open')].indexOf(document.activeElement)") > 2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    expect(viewer.locator("h2")).to_have_text(found[1])
    expect(viewer.locator("dl")).to_contain_text("Score")
    check(page)
    page.keyboard.press("ArrowRight")
    expect(viewer.locator("h2")).to_have_text(found[2])
    assert "show=" in page.url
    shared = page.url
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    assert "scale(1.5)" in page.evaluate("document.querySelector('.stage img').style.transform")
    page.keyboard.press("0")
    for _ in range(14):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('#viewer')"
        )
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".tile .open").nth(1)).to_be_focused()
    expect(page).not_to_have_url(re.compile("show="))
    page.keyboard.press("Enter")
    expect(viewer).to_be_visible()
    page.go_back()
    expect(viewer).to_be_hidden()
    assert names(page) == found
    other = window(shared.removeprefix(shared.split("/?")[0]))
    expect(other.locator("#viewer h2")).to_have_text(found[2])
    other.keyboard.press("Escape")
    expect(other.locator("#viewer")).to_be_hidden()
    expect(other).not_to_have_url(re.compile("show="))


@pytest.mark.slow
def test_the_viewer_finds_similar_pictures_and_copies(window: Callable[..., Page]) -> None:
    page = window(permissions=["clipboard-read", "clipboard-write"])
    first = names(page)[0]
    page.locator(".tile .open").first.click()
    page.get_by_role("button", name="Copy name").click()
    expect(page.locator("#toast")).to_have_text("Name copied")
    assert page.evaluate("navigator.clipboard.readText()") == first
    with page.expect_response("**/v1/search*"):
        page.get_by_role("button", name="Similar pictures").click()
    expect(page.locator("#viewer")).to_be_hidden()
    assert first not in names(page)
    expect(page.locator("#parts .chip")).to_contain_text(first)


@pytest.mark.slow
def test_back_and_forward_go_through_the_searches(window: Callable[..., Page]) -> None:
    page = window()
    start = names(page)
    type_in(page, "a red circle")
    red = names(page)
    with page.expect_response("**/v1/search*"):
        page.keyboard.press("Control+Enter")
    type_in(page, "a blue star")
    blue = names(page)
    assert len({tuple(start), tuple(red), tuple(blue)}) == 3
    for step, expected, text in (
        (page.go_back, red, ""),
        (page.go_back, red, "a red circle"),
        (page.go_back, start, ""),
        (page.go_forward, red, "a red circle"),
        (page.go_forward, red, ""),
        (page.go_forward, blue, "a blue star"),
    ):
        step()
        expect(page.locator("#text")).to_have_value(text)
        page.wait_for_timeout(120)
        assert names(page) == expected


@pytest.mark.slow
def test_dark_and_light_follow_the_system_and_the_switch(window: Callable[..., Page]) -> None:
    page = window("/?index=drawings&text=a+heart&part=-0.5~text~red", color_scheme="dark")
    settled(page)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    check(page)
    page.locator("#to-filters").click()
    check(page)
    page.locator(".tile .open").first.click()
    expect(page.locator("#viewer")).to_be_visible()
    check(page)
    page.keyboard.press("Escape")
    page.locator("#to-theme").click()
    light = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == light
    check(page)


@pytest.mark.slow
def test_a_phone_shows_all_of_it_without_scrolling_sideways(window: Callable[..., Page]) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = window("/?index=drawings&text=a+heart&part=-0.5~text~red", **phone)
    settled(page)
    sideways = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(sideways)
    assert page.evaluate("document.querySelector('.tile').offsetWidth") > 60
    check(page)
    page.locator("#to-filters").tap()
    expect(page.locator("#filters")).to_be_visible()
    check(page)
    page.locator("#close-filters").tap()
    page.locator(".tile .open").first.tap()
    expect(page.locator("#viewer")).to_be_visible()
    assert not page.evaluate(sideways)
    check(page)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_said_in_plain_words(window: Callable[..., Page]) -> None:
    page = window(expected="ERR_FAILED|503")
    settled(page)
    page.route("**/v1/search*", lambda route: route.abort())
    page.fill("#text", "a heart")
    expect(page.locator("#trouble h2")).to_have_text("The server does not answer")
    check(page)
    page.unroute("**/v1/search*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#trouble")).to_be_hidden()
    assert names(page)
    answers = iter([503, 503])

    def busy(route: Route) -> None:
        status = next(answers, None)
        if status is None:
            return route.fallback()
        problem = {"type": "urn:clipdex:ServerBusy", "detail": "64 requests are being answered", "status": status}
        return route.fulfill(status=status, json=problem, headers={"Retry-After": "1"})

    page.route("**/v1/search*", busy)
    page.fill("#text", "a star")
    expect(page.locator("#status")).to_have_text("The server is busy; trying again…")
    expect(page.locator("#status")).to_have_text(re.compile("results"))


@pytest.mark.slow
def test_a_model_server_that_is_away_is_told_of_at_once(window: Callable[..., Page]) -> None:
    page = window(expected="503")
    settled(page)
    asked: list[str] = []

    def away(route: Route) -> None:
        asked.append(route.request.url)
        problem = {"type": "urn:clipdex:ServerUnreachable", "detail": "No server answers.", "status": 503}
        route.fulfill(status=503, json=problem, headers={"Retry-After": "1"})

    page.route("**/v1/search*", away)
    page.fill("#text", "a star")
    expect(page.locator("#trouble h2")).to_have_text("The model server does not answer")
    assert len(asked) == 1, "the server has waited for it already"


@pytest.mark.slow
def test_a_slow_search_says_that_it_searches_and_a_later_one_takes_its_place(window: Callable[..., Page]) -> None:
    page = window()
    settled(page)
    held: list[Route] = []

    def hold(route: Route) -> None:
        if "slow" in (route.request.post_data or ""):
            held.append(route)
        else:
            route.fallback()

    page.route("**/v1/search*", hold)
    page.fill("#text", "a slow one")
    expect(page.locator("#status")).to_have_text("Searching…")
    type_in(page, "a red circle")
    red = names(page)
    assert held
    for route in held:
        with contextlib.suppress(playwright.Error):  # the page no longer waits for it
            route.continue_()
    page.wait_for_timeout(150)
    assert names(page) == red


@pytest.mark.slow
def test_what_an_index_is_and_the_keys_are_shown(window: Callable[..., Page]) -> None:
    page = window()
    settled(page)
    page.locator("#to-info").click()
    expect(page.locator("#info dl")).to_contain_text("48")
    expect(page.locator("#info dl")).to_contain_text("demo")
    check(page)
    page.keyboard.press("Escape")
    expect(page.locator("#to-info")).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    check(page)
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


@pytest.mark.slow
def test_duplicates_are_shown_side_by_side(window: Callable[..., Page]) -> None:
    page = window(expected="503")
    type_in(page, "a heart")
    hits = page.evaluate("[...document.querySelectorAll('.tile')].map((tile) => tile.hit)")
    pairs = [(hit, hit["copies"][0]) for hit in hits if hit["copies"]]
    assert pairs
    asked: list[str] = []

    def answer(route: Route) -> None:
        """What the API answers, once it has compared the pictures."""
        asked.append(route.request.url)
        if len(asked) == 1:
            problem = {
                "type": "urn:clipdex:ServerBusy",
                "detail": "the duplicates are being computed",
                "status": 503,
            }
            return route.fulfill(status=503, json=problem, headers={"Retry-After": "1"})
        groups = [
            {
                "pictures": [
                    {**first, "relation": "keeper", "similarity": 1, "cosine": 1},
                    {**second, "relation": "near", "similarity": 0.978, "cosine": 0.99},
                ],
                "size": 2,
            }
            for first, second in pairs
        ]
        return route.fulfill(json={"groups": groups, "total": len(groups), "offset": 0, "next_offset": None})

    page.route("**/v1/duplicates*", answer)
    page.locator("#to-duplicates").click()
    expect(page.locator("#duplicates .note")).to_have_text("the duplicates are being computed…")
    expect(page.locator("#duplicates .group")).to_have_count(len(pairs))
    expect(page.locator("#duplicates .group").first).to_contain_text("same look, 97.8 %")
    expect(page.locator("#search-view")).to_be_hidden()
    assert "view=duplicates" in page.url
    check(page)
    page.locator("#duplicates .pair").nth(1).click()
    expect(page.locator("#viewer h2")).to_have_text(pairs[0][1]["name"])
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#viewer h2")).to_have_text(pairs[0][0]["name"])
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    page.get_by_role("button", name="Same bytes").click()
    expect(page.get_by_role("button", name="Same bytes")).to_have_attribute("aria-pressed", "true")
    assert "kind=exact" in asked[-1]
    page.go_back()
    expect(page.locator("#duplicates")).to_be_hidden()
    assert names(page)


@pytest.mark.slow
def test_indexes_are_chosen_from_and_evil_names_and_metadata_are_text(window: Callable[..., Page]) -> None:
    page = window()
    settled(page)
    with page.expect_response("**/v1/items*"):
        page.select_option("#index", "many")
    settled(page)
    assert names(page)[0].startswith('"><img src=x onerror')
    assert "index=many" in page.url
    page.locator(".tile .open").first.click()
    expect(page.locator("#viewer h2")).to_contain_text("<script>alert(2)")
    expect(page.locator("#viewer dl")).to_contain_text("<b>tags</b>")
    check(page)
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#parts .chip")).to_contain_text("onerror")
    page.wait_for_timeout(200)  # a script would run now


@pytest.mark.slow
def test_the_page_can_be_searched_without_scripts(window: Callable[..., Page]) -> None:
    page = window("/?index=drawings", java_script_enabled=False)
    page.locator("#text").fill("a red circle")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".tile img").first).to_be_visible()
    assert "text=a+red+circle" in page.url
    expect(page.locator("#status")).to_contain_text("results")
    expect(page.locator("#to-filters")).to_be_hidden()
    first = page.locator(".tile img").first.get_attribute("alt")
    page.get_by_role("link", name="More pictures").click()
    assert page.locator(".tile img").first.get_attribute("alt") != first
    page.locator(".tile .more").first.click(force=True)
    assert "part=1%7Erow%7E" in page.url or "part=1~row~" in page.url
