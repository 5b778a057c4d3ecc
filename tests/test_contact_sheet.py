"""The contact sheet: one file, nothing in it that runs, whatever the paths are called."""

import base64
import io
import os
import re

import pytest
from conftest import noise
from PIL import Image

import clipdex
from clipdex.apps.contact_sheet import Section, contact_sheet, write_contact_sheet
from clipdex.index import Hit

pytestmark = pytest.mark.thin


def page_of(tmp_path, *names, query="a query"):
    hits = [
        Hit(i, 0.5 - i / 10, os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        for i, name in enumerate(names)
    ]
    return contact_sheet([Section(query, hits, "note")], title="title", summary="summary")


def test_every_hit_is_a_thumbnail_inside_the_page(tmp_path):
    noise(1, size=(800, 400)).save(tmp_path / "a.png")
    page = page_of(tmp_path, b"a.png")
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (240, 120)
    assert "0.500" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_names_and_queries_are_text(tmp_path):
    name = b"<script>alert(1)</script>&\"'.png".replace(b"/", b"_")
    noise(1).save(os.path.join(os.fsencode(tmp_path), name).decode(), "PNG")
    page = page_of(tmp_path, name, query="<img src=x onerror=alert(1)>")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "default-src 'none'" in page


def test_a_name_that_is_not_utf8(tmp_path):
    page = page_of(tmp_path, b"caf\xe9.png")
    assert r"caf\udce9.png" in page
    page.encode("utf-8")


def test_a_picture_that_is_gone_is_said_to_be(tmp_path):
    assert ">vanished<" in page_of(tmp_path, b"gone.png")


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
