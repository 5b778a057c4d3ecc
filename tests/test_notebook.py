"""What a notebook shows of a search: pictures, bounded, and never an exception."""

import copy
import io
import os
import pickle
import re

import numpy as np
import pytest
from conftest import noise
from drawn_index import drawn_index
from PIL import Image

import clipdex
from clipdex.sources.thumbnail import ThumbnailSize, thumbnail

pytestmark = pytest.mark.thin


def hits_at(folder, *names):
    return clipdex.Hits(clipdex.Hit(i, 0.5, os.path.join(folder, name)) for i, name in enumerate(names))


def test_a_search_returns_hits_that_a_notebook_shows(tmp_path):
    noise(1).save(tmp_path / "000.png")
    paths = [os.fsencode(tmp_path / f"{i:03}.png") for i in range(3)]
    vectors = np.eye(3, 8, dtype=np.float32)
    with clipdex.Index.open(drawn_index(tmp_path / "x", vectors=vectors, path=paths)) as index:
        (hits,) = index.search(vectors[0], 2)
        (grouped,) = index.search(vectors[0], 2, grouping=clipdex.Grouping())
    assert type(hits) is type(grouped) is clipdex.Hits
    page = hits._repr_html_()
    assert page.count("<img ") == 1
    assert 'alt="000.png, result 1"' in page
    assert ">1.000<" in page
    assert page.count(">vanished<") == 1


def test_hits_are_a_list():
    hits = clipdex.Hits([clipdex.Hit(0, 0.5, "/a.png"), clipdex.Hit(1, 0.4, "/b.png")])
    assert hits == [clipdex.Hit(0, 0.5, "/a.png"), clipdex.Hit(1, 0.4, "/b.png")]
    assert hits[0] == clipdex.Hit(0, 0.5, "/a.png")
    assert type(hits[:1]) is clipdex.Hits and hits[:1] == [hits[0]]
    assert pickle.loads(pickle.dumps(hits)) == hits == copy.deepcopy(hits)
    assert repr(hits).startswith("[Hit(row=0,")


def test_no_hits_are_said_to_be_none():
    assert "no hits" in clipdex.Hits()._repr_html_()


def test_a_notebook_shows_twenty_and_counts_the_others(tmp_path):
    noise(1).save(tmp_path / "a.png")
    page = hits_at(tmp_path, *["a.png"] * 1021)._repr_html_()
    assert page.count("<img ") == 20
    assert "and 1,001 more" in page


@pytest.mark.slow
def test_what_a_notebook_keeps_is_bounded_whatever_the_pictures_and_names(tmp_path):
    name = "'" * 200 + ".png"
    for i in range(20):
        (tmp_path / f"{i}").mkdir()
        noise(i, size=(400, 400)).save(tmp_path / f"{i}" / name)
    hits = hits_at(tmp_path, *[f"{i}/{name}" for i in range(20)])
    copies = (clipdex.Hit(0, 0.5, "/" + "'" * 4000),) * 1000
    many = clipdex.Hits(clipdex.Hit(hit.row, hit.score, hit.path, copies=copies) for hit in [*hits, *hits])
    page = many._repr_html_()
    assert page.count("<img ") == 20
    assert len(page.encode()) < 1_000_000


@pytest.mark.parametrize("most", [24 << 10, 2_000, 400])
def test_a_thumbnail_has_no_more_bytes_than_asked(tmp_path, most):
    noise(1, size=(700, 500)).save(tmp_path / "a.png")
    found = thumbnail(str(tmp_path / "a.png"), ThumbnailSize(180, most))
    assert len(found.jpeg) <= max(most, 900)  # what a JPEG of 16 pixels has at least
    width, height = Image.open(io.BytesIO(found.jpeg)).size
    assert abs(width / height - 1.4) < 0.15


def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_bytes(b"these are words")
    (tmp_path / "half.png").write_bytes(noise_bytes()[:200])
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "large.png").write_bytes(noise_bytes())
    os.truncate(tmp_path / "large.png", 300 << 20)
    names = ("empty.png", "words.png", "half.png", "folder.png", "pipe.png", "large.png", "gone.png")
    page = hits_at(tmp_path, *names)._repr_html_()
    assert re.findall(r'class="gone">([^<]*)<', page) == [
        "empty",
        "not a picture",
        "truncated",
        "not a file",
        "not a file",
        "too large",
        "vanished",
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (OSError(5, "I/O error"), "broken"),
        (ZeroDivisionError(), "broken"),
        (RecursionError(), "broken"),
        (clipdex.ClipdexError("no decoder"), "unreadable"),
    ],
)
def test_nothing_that_happens_to_one_picture_reaches_the_notebook(tmp_path, monkeypatch, error, reason):
    def fails(*args, **options):
        raise error

    noise(1).save(tmp_path / "a.png")
    monkeypatch.setattr("clipdex.sources.thumbnail.open_image", fails)
    page = hits_at(tmp_path, "a.png")._repr_html_()
    assert re.findall(r'class="gone">([^<]*)<', page) == [reason]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "vanished"),
        ("/", "not a file"),
        ("\0", "unreadable"),
        ("a\0b.png", "unreadable"),
        ("\ud800.png", "unreadable"),
        ("x" * 5000, "unreadable"),
        ("/a.tar!/b.png", "vanished"),
        ("/dev/null/a.png", "vanished"),
        ("/dev/zero", "not a file"),
    ],
)
def test_no_path_is_too_strange(path, reason):
    page = clipdex.Hits([clipdex.Hit(0, float("nan"), path)])._repr_html_()
    assert re.findall(r'class="gone">([^<]*)<', page) == [reason]
    page.encode("utf-8")


def test_names_are_text_and_nothing_is_linked(tmp_path):
    name = "\"><script>alert(1)<&'.png"
    noise(1).save(tmp_path / name)
    page = hits_at(tmp_path, name)._repr_html_()
    assert "<script" not in page
    assert "alert(1)&lt;&amp;&#x27;.png" in page
    assert "href" not in page


def test_the_style_of_a_notebook_is_its_own(tmp_path):
    """Every rule is for what is inside the output, and takes its ink from the notebook, light or dark."""
    page = hits_at(tmp_path, "a.png", "b.png")._repr_html_()
    (style,) = re.findall("<style>(.*)</style>", page, re.S)
    selectors = re.findall(r"(?:^|[{}])\s*([.:\w][^{}@]*)\{", style)
    assert len(selectors) >= 10
    assert all(selector.startswith(".clipdex-tiles") for selector in selectors)
    assert ":root" not in style and "body" not in style


def noise_bytes():
    file = io.BytesIO()
    noise(1).save(file, "PNG")
    return file.getvalue()
