"""The contact sheet: one file, nothing in it that runs, whatever the paths are called."""

import base64
import io
import os
import re
import tarfile
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from conftest import ROOT, noise
from PIL import Image

import clipdex
from clipdex.apps.contact_sheet import Section, contact_sheet, write_contact_sheet
from clipdex.apps.duplicates import Duplicate, DuplicateGroup
from clipdex.apps.duplicates.sheet import group_section
from clipdex.base.short_names import short_names
from clipdex.index import Hit
from clipdex.index.tiles import rows_style

pytestmark = pytest.mark.thin

HOSTILE = (
    b"<script>alert(1)<%2Fscript>.png",
    b'"><img src=x onerror=alert(1)>.png',
    b"' onmouseover='alert(1).png",
    b"javascript:alert(1).png",
    b"&lt;b&gt; a  b.png",
    b"#1 50%41?q=1;&.png",
    b"caf\xe9\xff.png",
    b"\xe2\x80\xaegnp.exe.png",
    b"line\nbreak\t.png",
    "é 日本 👍.png".encode(),
)


OURS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "section", "h2", "bdi", "small"}
OURS |= {"div", "span", "a", "img"}


class Tags(HTMLParser):
    """The tags of a page, as a browser reads them, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag, **having):
        return [attrs for name, attrs in self.tags if name == tag and having.items() <= attrs.items()]


def tags(page):
    return Tags(page)


def hits_at(tmp_path, *names):
    return [
        Hit(i, 0.5 - i / 100, os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        for i, name in enumerate(names)
    ]


def page_of(tmp_path, *names, query="a query", **options):
    hits = hits_at(tmp_path, *names)
    return contact_sheet([Section(query, hits, "note")], title="title", summary="summary", **options)


def draw(tmp_path, *names):
    for name in names:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        noise(1).save(os.fsdecode(path), "PNG")


def names_shown(page):
    return re.findall(r'<div class="name"><bdi>(.*?)</bdi>', page)


def thumbnails(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_every_hit_is_a_thumbnail_inside_the_page(tmp_path):
    noise(1, size=(800, 400)).save(tmp_path / "a.png")
    page = page_of(tmp_path, b"a.png")
    assert len(thumbnails(page)) == 1
    assert "0.500" in page
    assert all(image["src"].startswith("data:") for image in tags(page).all("img"))


@pytest.mark.parametrize(
    ("size", "displayed", "stored"),
    [((1600, 800), (256, 128), (512, 256)), ((300, 900), (85, 256), (171, 512)), ((40, 30), (40, 30), (40, 30))],
)
def test_a_thumbnail_is_whole_and_has_two_pixels_for_each_that_is_displayed(tmp_path, size, displayed, stored):
    noise(1, size=size).save(tmp_path / "a.png")
    page = page_of(tmp_path, b"a.png")
    (image,) = tags(page).all("img")
    assert (int(image["width"]), int(image["height"])) == displayed
    assert [thumbnail.size for thumbnail in thumbnails(page)] == [stored]


def test_names_and_queries_are_text(tmp_path):
    draw(tmp_path, *HOSTILE)
    page = page_of(tmp_path, *HOSTILE, query="</h2><script>alert(2)</script><img src=x onerror=alert(1)>")
    found = tags(page)
    assert not {tag for tag, _ in found.tags} - OURS
    attributes = {name for _, attrs in found.tags for name in attrs}
    assert not [name for name in attributes if name.startswith("on")]
    assert len(found.all("img")) == len(HOSTILE)
    assert "default-src 'none'" in page
    assert not [c for c in page if not (c.isprintable() or c == "\n")]
    page.encode("utf-8")


def test_each_picture_links_to_its_file_whatever_it_is_called(tmp_path):
    draw(tmp_path, *HOSTILE)
    links = tags(page_of(tmp_path, *HOSTILE)).all("a")
    assert len(links) == len(HOSTILE)
    for name, link in zip(HOSTILE, links, strict=True):
        url = urlsplit(link["href"])
        assert (url.scheme, url.netloc, url.query, url.fragment) == ("file", "", "", "")
        assert link["href"].isascii() and not re.search(r"[\s\"'<>]", link["href"])
        assert unquote_to_bytes(url.path) == os.path.join(os.fsencode(tmp_path), name)


def test_without_links_nothing_leads_anywhere(tmp_path):
    draw(tmp_path, b"a.png")
    page = page_of(tmp_path, b"a.png", links=False)
    assert "href" not in page
    assert page.count("<img ") == 1


def test_a_picture_inside_a_tar_or_gone_or_named_like_a_page_links_to_nothing(tmp_path):
    draw(tmp_path, b"page.html", b"no-suffix", b"drawing.svg", b"member.png")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(tmp_path / "member.png", "a.png")
    hits = (b"0.tar!/a.png", b"gone.png", b"page.html", b"no-suffix", b"drawing.svg")
    page = page_of(tmp_path, *hits)
    assert page.count("<img ") == 4
    assert not tags(page).all("a")


def test_a_path_that_is_not_absolute_links_to_nothing(tmp_path, monkeypatch):
    draw(tmp_path, b"javascript:x.png")
    monkeypatch.chdir(tmp_path)
    page = contact_sheet([Section("q", [Hit(0, 0.5, "javascript:x.png")])], title="t", summary="s")
    assert page.count("<img ") == 1
    assert not tags(page).all("a")


def test_folders_are_shown_where_names_repeat(tmp_path):
    names = (b"2023/june/a.png", b"2024/june/a.png", b"2024/b.png", b"x/b.png", b"c.png")
    draw(tmp_path, *names)
    assert names_shown(page_of(tmp_path, *names)) == [
        "2023/june/a.png",
        "2024/june/a.png",
        "2024/b.png",
        "x/b.png",
        "c.png",
    ]


def test_a_picture_that_answers_two_queries_does_not_repeat_its_name(tmp_path):
    draw(tmp_path, b"here/a.png")
    hits = hits_at(tmp_path, b"here/a.png")
    page = contact_sheet([Section("one", hits), Section("two", hits)], title="t", summary="s")
    assert names_shown(page) == ["a.png", "a.png"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/x.jpg", "/a/1/y.jpg", "/a/2/y.jpg"], ["x.jpg", "1/y.jpg", "2/y.jpg"]),
        (["/x.jpg", "/a/x.jpg", "/b/a/x.jpg"], ["/x.jpg", "/a/x.jpg", "b/a/x.jpg"]),
        (["/t/0.tar!/x.jpg", "/t/1.tar!/x.jpg"], ["0.tar!/x.jpg", "1.tar!/x.jpg"]),
        (["x.jpg", "/a/x.jpg"], ["x.jpg", "a/x.jpg"]),
        (["/a/\u00e9.jpg", "/b/e\u0301.jpg"], ["a/\u00e9.jpg", "b/e\u0301.jpg"]),
        (["/a/\u00e9.jpg", "/a/e\u0301.jpg"], ["/a/\u00e9.jpg", "/a/e\u0301.jpg"]),
        (["/a/x", "/a/x"], ["x", "x"]),
        (["", "/"], ["", "/"]),
        ([], []),
    ],
)
def test_the_shortest_name_that_tells_paths_apart(paths, names):
    found = short_names(iter(paths))
    assert [found[path] for path in paths] == names


def test_the_alt_text_says_the_file_and_the_query(tmp_path):
    draw(tmp_path, b"a.png", b'"b".png')
    images = tags(page_of(tmp_path, b"a.png", b'"b".png', query='a "red" circle')).all("img")
    assert [image["alt"] for image in images] == [
        'a.png, result 1 for “a "red" circle”',
        '"b".png, result 2 for “a "red" circle”',
    ]


def duplicate(tmp_path, row, name, **how):
    return Duplicate(row, str(tmp_path / name), 1600, 1200, 9, 0, b"", **how)


def test_the_keeper_is_marked_among_its_duplicates(tmp_path):
    draw(tmp_path, b"one/a.png", b"two/a.png", b"b.png")
    keeper = duplicate(tmp_path, 0, "one/a.png")
    others = (
        duplicate(tmp_path, 1, "two/a.png", relation="exact"),
        duplicate(tmp_path, 2, "b.png", relation="near", similarity=0.98, cosine=0.97),
    )
    page = contact_sheet([group_section(DuplicateGroup(keeper, others), "a.png")], title="t", summary="s")
    tiles = page.split('role="listitem"')
    assert ['<span class="mark">keep</span>' in tile for tile in tiles] == [False, True, False, False]
    assert re.findall(r'class="tile([^"]*)"', page) == [" marked", "", ""]
    assert [image["alt"] for image in tags(page).all("img")] == [
        "one/a.png, which is kept",
        "two/a.png, a duplicate of one/a.png",
        "b.png, a duplicate of one/a.png",
    ]
    assert "1,600 × 1,200, same bytes<" in page
    assert "1,600 × 1,200, near 0.980, cosine 0.9700<" in page
    assert "2 duplicates" in page


def test_a_search_marks_no_keeper(tmp_path):
    draw(tmp_path, b"a.png")
    assert 'class="mark"' not in page_of(tmp_path, b"a.png")


def rows_of(count, columns):
    """The lengths of the rows that the rules for so many columns make."""
    rule = rows_style(count).splitlines()[columns - 2]
    (units,) = map(int, re.findall(r"repeat\((\d+),", rule))
    spans = [int(span) for span in re.findall(r"> \* \{ grid-column: span (\d+)", rule)] * count or [1] * count
    for wide, span in re.findall(r":nth-child\(-n\+(\d+)\) \{ grid-column: span (\d+)", rule):
        spans[: int(wide)] = [int(span)] * int(wide)
    rows: list[int] = []
    left = 0
    for span in spans:
        if left == 0:
            rows, left = [*rows, 0], units
        assert span <= left, "a tile does not fit into what is left of its row"
        rows[-1] += 1
        left -= span
    assert left == 0, "the last row has a gap"
    return rows


@pytest.mark.parametrize("columns", range(2, 7))
def test_every_row_is_full_and_no_tile_is_left_alone(columns):
    for count in range(1, 60):
        rows = rows_of(count, columns)
        assert sum(rows) == count
        assert max(rows) <= columns
        assert max(rows) - min(rows) <= 1
        assert rows == sorted(rows)  # the larger tiles first: the best hit, the keeper
        assert len(rows) == -(-count // columns)
    assert rows_of(5, 2) == [1, 2, 2]
    assert rows_of(5, 3) == [2, 3]


def test_the_rules_of_different_widths_do_not_overlap():
    rules = rows_style(5)
    assert re.findall(r"width >= (\d+)px", rules)[1:] == re.findall(r"width < (\d+)px", rules)


def test_a_page_has_the_rules_of_its_numbers_of_hits(tmp_path):
    draw(tmp_path, b"a.png", b"b.png", b"c.png")
    page = page_of(tmp_path, b"a.png", b"b.png", b"c.png")
    assert 'class="grid of-3"' in page
    assert ".of-3 " in page


def test_a_page_is_light_or_dark_as_the_reader_has_it(tmp_path):
    page = page_of(tmp_path)
    assert "color-scheme: light dark" in page
    assert "prefers-color-scheme: dark" in page


def test_a_query_without_hits_says_so(tmp_path):
    assert "no picture matches" in page_of(tmp_path)


def test_a_name_that_is_not_utf8_is_spelled_as_the_command_line_does(tmp_path):
    page = page_of(tmp_path, b"caf\xe9.png")
    assert r"caf\xe9.png" in page
    page.encode("utf-8")


def test_a_long_name_is_cut_in_the_middle(tmp_path):
    name = b"a" + b"x" * 200 + b"z.png"
    draw(tmp_path, name)
    (shown,) = names_shown(page_of(tmp_path, name))
    assert re.fullmatch(r"ax+…x+z\.png", shown)
    assert len(shown) == 81


def test_a_picture_that_is_gone_is_said_to_be(tmp_path):
    assert ">vanished<" in page_of(tmp_path, b"gone.png")


def test_what_is_no_file_any_more_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert page_of(tmp_path, b"pipe.png", b"folder.png").count(">not a file<") == 2


def test_a_page_does_not_replace_a_device_a_pipe_or_what_leads_to_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # for /dev/null, which root could replace
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "stdout").symlink_to("/proc/self/exe")  # as /dev/stdout leads to a file when it is redirected
    for name in ("pipe", "link", "stdout"):
        with pytest.raises(
            clipdex.ClipdexError, match=rf"{name}: the contact sheet cannot be written: it is a device"
        ):
            write_contact_sheet(tmp_path / name, [], title="new", summary="")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "stdout").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "stdout"]


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    sheet = tmp_path / "sheet.html"
    write_contact_sheet(sheet, [], title="old", summary="")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(clipdex.ClipdexError, match=r"sheet\.html: .*No space left"):
        write_contact_sheet(sheet, [], title="new", summary="")
    assert "<title>old</title>" in sheet.read_text()
    assert os.listdir(tmp_path) == ["sheet.html"]


def test_the_picture_of_the_readme_is_sharp_and_small():
    file = ROOT / "docs" / "contact-sheet.png"
    assert "(docs/contact-sheet.png)" in (ROOT / "README.md").read_text()
    assert file.stat().st_size < 400_000
    with Image.open(file) as image:
        assert image.width >= 2 * 800
        # Uncut: a margin below the last row.
        colours = image.crop((0, image.height - 40, image.width, image.height)).getcolors()
        assert colours is not None
        assert len(colours) == 1
