"""`clipdex add --ids-from`: many pictures by their ids in one command, again and again."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import noise
from pictures_with_exif import exif_block, picture

import clipdex
from clipdex import Client, Collection, Item
from clipdex.apps import add_listed as app
from clipdex.cli import connection_options
from clipdex.sources.id_list import IdList
from clipdex.wire import FakeTransport

ADD = ("add", "-i", "x.clipdex", "--ids-from")


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    transport = FakeTransport()
    monkeypatch.setattr(connection_options, "connect", lambda *_, **__: Client(transport))
    return transport


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: FakeTransport) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(5):
        noise(i).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    return tmp_path


def held() -> dict[str | None, dict[str, Any]]:
    with Collection.open("x.clipdex", read_only=True) as collection:
        return {each.id: each.metadata for each in collection}


def embedded(transport: FakeTransport) -> int:
    return sum(rows for model, rows in transport.requests if model == "fake_image")


TABLE = 'id,path,by,tags\n17,0.png,Ada,"a, b"\n18,1.png,,\n'
FORMS = {
    "items.csv": TABLE,
    "items.tsv": TABLE.replace(', b"', '"').replace('"', "").replace(",", "\t"),
    "items.jsonl": '{"id": "17", "path": "0.png", "by": "Ada", "tags": ["a"]}\n\n{"id": 18, "file": "1.png"}\n',
    "items.txt": TABLE.replace(",", ";").replace("a; b", "a, b"),
    "more.txt": '{"id": "17", "path": "0.png", "metadata": {"by": "Ada", "tags": 1}}\n{"id": 18, "path": "1.png"}',
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_has_ids_paths_from_its_folder_and_metadata(place: Path, run: Any, name: str) -> None:
    (place / "in" / name).write_text(FORMS[name])
    status, out, err = run(*ADD, f"in/{name}", "--metadata", '{"by": "Eve", "kind": "cat"}')
    assert (status, out, err) == (0, "2 items added, 0 unchanged, 0 failed; x.clipdex holds 2\n", "")
    found = held()
    assert found.keys() == {"17", "18"}
    assert found["17"].pop("tags")
    assert found["17"] == {"by": "Ada", "kind": "cat"}
    assert found["18"] == {"by": "Eve", "kind": "cat"}


def test_lines_of_a_path_a_tab_and_an_id_start_at_the_current_folder(place: Path, run: Any) -> None:
    (place / "in" / "pairs").write_bytes(b"\xef\xbb\xbfin/0.png\tan id, with a comma\r\nin/1.png\tb\tc\n")
    assert run(*ADD, "in/pairs")[0] == 0
    assert held().keys() == {"an id, with a comma", "b\tc"}


@pytest.mark.parametrize("text", ["in/0.png\ta\nin/1.png\tb\n", "path,id\nin/0.png,a\nin/1.png,b\n"])
def test_standard_input_starts_at_the_current_folder(
    place: Path, run: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    status, out, _ = run(*ADD, "-", "--json")
    assert (status, json.loads(out)["added"]) == (0, 2)
    assert held().keys() == {"a", "b"}


def test_other_names_of_columns(place: Path, run: Any) -> None:
    (place / "in" / "t.csv").write_text("sku|shot|path\nA|0.png|p\n")
    status, _out, err = run(*ADD, "in/t.csv", "--column", "shot", "--id-column", "sku")
    assert (status, err) == (0, "")
    assert held() == {"A": {"path": "p"}}


def test_what_cannot_be_added_is_told_by_line_and_ends_nothing(place: Path, run: Any) -> None:
    (place / "in" / "t.csv").write_text(
        "id,path\na,0.png\n,1.png\nc,\nd,bad.png\ne,gone.png\na,2.png\nf,https://x.org/a.jpg\ng,3.png\n"
    )
    status, out, err = run(*ADD, "in/t.csv")
    assert (status, out) == (0, "2 items added, 0 unchanged, 6 failed; x.clipdex holds 2\n")
    lines = [line.removeprefix("clipdex: in/t.csv: ") for line in err.splitlines()]
    starts = ["row 2: has no id", "row 3: has no path", "row 4: the item 'd': ", "row 5: the item 'e': "]
    starts += ["row 6: has the same id as row 1", "row 7: "]
    assert all(any(line.startswith(start) for line in lines) for start in starts) and len(lines) == 6, err
    assert held().keys() == {"a", "g"}
    status, out, err = run(*ADD, "in/t.csv", "--strict", "--json")
    assert status == 1
    answer = json.loads(out)
    assert (answer["added"], answer["unchanged"], answer["failed"], answer["pictures"]) == (0, 2, 6, 2)
    assert {"where": "row 2", "id": "", "why": "has no id"} in answer["failures"]


def test_bad_lines_of_json_and_of_pairs_are_told(place: Path, run: Any) -> None:
    (place / "in" / "t.jsonl").write_text(
        '{"id": "a", "path": "0.png"}\n{"id": \n[1]\n{"id": true, "path": "1.png"}\n'
    )
    status, _, err = run(*ADD, "in/t.jsonl")
    assert (status, err.count("\n")) == (0, 3)
    assert "line 2: is not JSON" in err and "line 3: is no JSON object" in err and "line 4: has no id" in err
    (place / "pairs").write_text("in/1.png\tb\nin/2.png c\n")
    status, _out, err = run(*ADD, "pairs")
    assert "pairs: line 2: has no tab; expected a path, a tab and an id" in err and err.count("\n") == 1


def test_again_only_what_is_new_or_changed_is_embedded(place: Path, run: Any, transport: FakeTransport) -> None:
    (place / "in" / "t.csv").write_text("id,path\n" + "".join(f"{i},{i}.png\n" for i in range(4)))
    run(*ADD, "in/t.csv")
    assert embedded(transport) == 4
    assert run(*ADD, "in/t.csv")[1] == "0 items added, 4 unchanged, 0 failed; x.clipdex holds 4\n"
    assert embedded(transport) == 4
    noise(9).save(place / "in" / "2.png")
    (place / "in" / "t.csv").write_text("id,path,by\n0,0.png,\n1,1.png,Ada\n2,2.png,\n4,4.png,\n3,3.png,\n")
    assert run(*ADD, "in/t.csv")[1] == "3 items added, 2 unchanged, 0 failed; x.clipdex holds 5\n"
    assert held()["1"] == {"by": "Ada"}


def test_what_pictures_say_of_themselves_is_kept_unless_told_not_to(place: Path, run: Any) -> None:
    (place / "in" / "0.jpg").write_bytes(picture(exif=exif_block(model="Pixel 7")))
    (place / "in" / "t.csv").write_text("id,path\na,0.jpg\n")
    assert run(*ADD, "in/t.csv")[0] == 0
    assert run("add", "-i", "y.clipdex", "--ids-from", "in/t.csv", "--no-exif")[0] == 0
    for name, camera in (("x.clipdex", "Pixel 7"), ("y.clipdex", None)):
        with Collection.open(name, read_only=True) as collection:
            stored = collection.get("a")
        assert stored is not None
        assert (stored.exif and stored.exif.camera) == camera


def test_an_item_of_other_content_or_metadata_is_not_held(transport: FakeTransport, place: Path) -> None:
    with Client(transport) as client, Collection.open("x.clipdex", client=client) as collection:
        collection.add(Item("a", place / "in" / "0.png", metadata={"n": 1}))
        assert collection.holds(Item("a", (place / "in" / "0.png").read_bytes(), metadata={"n": 1}))
        assert not collection.holds(Item("a", place / "in" / "1.png", metadata={"n": 1}))
        assert not collection.holds(Item("a", place / "in" / "0.png", metadata={"n": 2}))
        assert not collection.holds(Item("b", place / "in" / "0.png", metadata={"n": 1}))
        assert not collection.holds(Item("a", place / "in" / "gone.png", metadata={"n": 1}))
        assert not collection.holds(Item("a", noise(0), metadata={"n": 1}))


def test_more_lines_than_one_thread_takes_at_once_and_their_progress(
    place: Path, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_AT_ONCE", 3)
    (place / "in" / "t.csv").write_text("id,path\n" + "".join(f"{i},{i % 5}.png\n" for i in range(50)))
    seen: list[int] = []
    with Client(transport) as client, Collection.open("x.clipdex", client=client) as collection:
        done = app.add_listed(collection, IdList(place / "in" / "t.csv"), progress=seen.append)
        assert (done.added, len(collection)) == (50, 50)
    assert seen == sorted(seen) and seen[-1] == 50


def test_a_table_that_breaks_off_keeps_what_came_before(place: Path, run: Any) -> None:
    (place / "in" / "t.csv").write_text('id,path\na,0.png\nb,"1.png\n')
    status, out, err = run(*ADD, "in/t.csv")
    assert (status, out) == (1, "")
    assert err.startswith("clipdex: in/t.csv: cannot be read beyond row 1: ") and err.count("\n") == 1
    assert held().keys() == {"a"}


def test_a_lost_server_is_one_sentence_and_leaves_no_index(
    place: Path, run: Any, transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise clipdex.ServerUnreachable("nobody answers")

    (place / "in" / "t.csv").write_text("id,path\na,0.png\n")
    monkeypatch.setattr(Collection, "add", lost)
    assert run(*ADD, "in/t.csv") == (1, "", "clipdex: nobody answers\n")
    assert not Path("x.clipdex").exists()


def test_an_index_in_which_nothing_could_be_put_is_not_left_behind(place: Path, run: Any) -> None:
    before = sorted(os.listdir())
    status, out, _err = run("add", "in/bad.png", "-i", "x.clipdex")
    assert (status, out) == (1, "0 items added; x.clipdex was not created\n")
    assert sorted(os.listdir()) == before
    with Client(FakeTransport()) as client:
        Collection.open("x.clipdex", client=client).close()
    assert run("add", "in/bad.png", "-i", "x.clipdex")[1] == "0 items added; x.clipdex holds 0\n"  # not its own


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give either a PICTURE or --ids-from FILE"),
        (["in/0.png", "--ids-from", "t.csv"], "give either a PICTURE or --ids-from FILE"),
        (["--ids-from", "t.csv", "--id", "a"], "--id is for one picture, but --ids-from has ids of its own"),
        (["in/0.png", "--strict"], "are for --ids-from"),
        (["--ids-from", "gone.csv"], "gone.csv: cannot be read: No such file or directory"),
        (["--ids-from", "no-id.csv"], "no-id.csv: has no column 'id'; name the one of the ids with --id-column"),
        (["--ids-from", "t.csv", "--column", "x"], "t.csv: has no column 'x'"),
    ],
)
def test_a_mistake_is_one_sentence_and_makes_no_index(
    place: Path, run: Any, words: list[str], sentence: str
) -> None:
    (place / "t.csv").write_text("id,path\na,in/0.png\n")
    (place / "no-id.csv").write_text("key,path\na,in/0.png\n")
    status, out, err = run("add", *words, "-i", "x.clipdex")
    assert (status, out) == (1, "")
    assert sentence in err and err.count("\n") == 1
    assert not Path("x.clipdex").exists()
