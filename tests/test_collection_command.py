"""`clipdex add` and `clipdex remove`, with a model that runs in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL_REPOSITORY, noise

import clipdex

SERVER = ("--server", f"inproc:{MODEL_REPOSITORY}", "--model", "demo")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        noise(i).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "sub").mkdir()
    noise(7).save(tmp_path / "sub" / "0.png")
    return tmp_path


def test_pictures_are_added_found_and_removed(place: Path, run: Any) -> None:
    status, out, err = run("add", "0.png", "--id", "cat", "--metadata", '{"n": 1}', "-i", "x.clipdex", *SERVER)
    assert (status, out) == (0, "1 item added; x.clipdex holds 1\n"), err
    status, out, err = run("add", "1.png", "bad.png", "2.png", "-i", "x.clipdex", *SERVER)
    assert (status, out) == (1, "2 items added; x.clipdex holds 3\n")
    assert err.startswith("clipdex: the item 'bad.png': ") and err.count("\n") == 1
    status, out, _ = run("search", "--like", "id:cat", "-i", "x.clipdex", "--json")
    assert {hit["path"] for hit in json.loads(out)[0]["hits"]} == {"id:1.png", "id:2.png"}
    status, out, err = run("remove", "cat", "dog", "-i", "x.clipdex")
    assert (status, out, err) == (0, "1 item removed; x.clipdex holds 2\n", "there is no item dog\n")
    assert run("index", ".", "--out", "x.clipdex", *SERVER)[0] == 0
    with clipdex.Collection.open("x.clipdex", read_only=True) as collection:
        assert list(collection.ids()) == ["1.png", "2.png"]
        assert len(collection) == 6


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["add", "0.png", "1.png", "--id", "a"], "--id 'a' is for one picture, but 2 are given"),
        (["add", "0.png", "sub/0.png"], "2 pictures have the name 0.png, their id"),
        (["add", "0.png", "--metadata", "{"], "--metadata is not JSON"),
        (["add", "0.png", "--metadata", "[1]"], "--metadata is '[1]'; expected a JSON object"),
        (["add", "0.png", "--id", ""], "the id '' is empty"),
        (["remove", "a"], "there is no such index"),
    ],
)
def test_a_mistake_is_one_sentence_and_makes_no_index(
    place: Path, run: Any, words: list[str], sentence: str
) -> None:
    more = SERVER if words[0] == "add" else ()
    status, out, err = run(*words, "-i", "x.clipdex", *more)
    assert (status, out) == (1, "")
    assert sentence in err and err.count("\n") == 1
    assert not (place / "x.clipdex").exists()
