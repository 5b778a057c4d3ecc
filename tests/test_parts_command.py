"""The commands on an index of parts: made, searched, described, split, merged; and what is missing is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import clipdex
from clipdex import Client, Index
from clipdex.cli import connection_options as connection
from clipdex.index.part_plan import PartPlan
from clipdex.wire import FakeTransport

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder in which each of three parts has at least two of `pictures`: parts follow from paths."""
    names = [*(f"pictures/{i}.png" for i in range(9)), *(f"pictures/more/{i}.jpg" for i in range(9, 12))]
    part_of = PartPlan(3, "f", "m", 8).part_of
    for number in range(10_000):
        place = tmp_path / str(number)
        held = [part_of(os.fsencode(place / name)) for name in names]
        if min(held.count(part) for part in range(3)) >= 2:
            place.mkdir()
            return place
    raise AssertionError


@pytest.fixture(autouse=True)
def fake_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(FakeTransport(), model=model))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def parts(fake: Client, pictures: Path, tmp_path: Path) -> Path:
    """x.parts: 12 pictures and a failure, in three parts."""
    (pictures / "bad.png").write_text("no picture")
    clipdex.index_pictures(fake, "pictures", "one", workers=1)
    clipdex.split_index("one", "x.parts", 3)
    return tmp_path / "x.parts"


@pytest.mark.slow
def test_parts_are_made_one_by_one(run: Run, pictures: Path) -> None:
    plan = run("index", "pictures", "-o", "x.parts", "--parts", "2", "--dry-run")
    assert plan[0] == 0 and plan[1].startswith("12 pictures found: 12 new")
    rows = 0
    for part in ("1", "0"):
        status, out, _ = run("index", "pictures", "-o", "x.parts", "--parts", "2", "--part", part, "--json")
        assert status == 0
        found = json.loads(out)
        assert found["index"] == f"x.parts/part-0000{part}.clipdex"
        rows += found["rows"]
    assert rows == 12
    (pictures / "bad.png").write_text("no picture")
    status, out, _ = run("index", "pictures", "--out", "y.parts", "--parts", "2")
    assert status == 0 and out.startswith("13 pictures found: 12 indexed, 0 unchanged, 1 failed")
    assert "y.parts holds 12" in out
    (pictures / "bad.png").unlink()
    assert run("index", "pictures", "-o", "x.parts")[1].startswith("12 pictures found: 0 indexed, 12 unchanged")
    status, _, err = run("index", "pictures", "-o", "x.parts", "--parts", "3")
    assert status == 1 and "x.parts has 2 parts, and 3 are asked for" in err and "Traceback" not in err


@pytest.mark.slow
def test_every_command_that_reads_takes_it(run: Run, parts: Path, tmp_path: Path) -> None:
    status, out, _ = run("info", "x.parts")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0
    assert (lines["parts"], lines["rows"], lines["failures"]) == ("3", "12", "1: 1 not_a_picture")
    assert {"part-00000.clipdex", "part-00001.clipdex", "part-00002.clipdex"} <= set(lines)
    found = json.loads(run("info", "x.parts", "--json")[1])
    assert sum(part["rows"] for part in found["parts"]) == found["rows"] == 12 and found["missing"] == []
    (answer,) = json.loads(run("search", "-i", "x.parts", "--image", "pictures/3.png", "-k", "12", "--json")[1])
    assert answer["hits"][0]["path"].endswith("/3.png") and len(answer["hits"]) == 12 and "missing" not in answer
    assert run("verify", "x.parts")[1].startswith("x.parts: sound (12 rows in 3 commits")
    assert run("failures", "x.parts")[1].startswith("pictures/bad.png: not_a_picture")
    assert run("optimize", "x.parts")[1].startswith("x.parts: 12 rows have int8 codes")
    assert run("dump", "x.parts", "v.npy")[1].startswith("v.npy: 12 × 8")
    shutil.copy("pictures/3.png", "pictures/copy.png")
    run("index", "pictures", "-o", "x.parts")
    assert len(json.loads(run("duplicates", "x.parts", "--kind", "exact", "--json")[1])) == 1
    assert run("forget", "-i", "x.parts", "pictures/copy.png")[0] == 0
    assert run("compact", "x.parts")[1] == "x.parts: 1 tombstone dropped\n"
    Path("pictures/bad.png").unlink()
    shutil.copy("pictures/4.png", "pictures/bad.png")
    assert "1 retried: 1 indexed, 0 failed" in run("failures", "x.parts", "--retry")[1]


def test_what_is_missing_is_an_error_or_said_in_the_answer(run: Run, parts: Path, tmp_path: Path) -> None:
    (parts / "part-00001.clipdex").rename(tmp_path / "away")
    for command in (("search", "x", "-i", "x.parts"), ("info", "x.parts"), ("dump", "x.parts", "v.npy")):
        status, out, err = run(*command)
        assert status == 1 and not out and "part-00001.clipdex of 3 parts is missing" in err
    assert run("verify", "x.parts")[0] == 1
    status, out, err = run("search", "x", "-i", "x.parts", "--allow-missing", "--json")
    assert status == 0 and "1 part is missing, and not in the answer: part-00001.clipdex" in err
    assert json.loads(out)[0]["missing"] == ["part-00001.clipdex"]
    found = json.loads(run("info", "x.parts", "--allow-missing", "--json")[1])
    assert found["missing"] == ["part-00001.clipdex"] and len(found["parts"]) == 2
    assert (
        run("info", "x.parts", "--allow-missing")[1].splitlines()[1].split(maxsplit=1)[1] == "3, 1 of them missing"
    )


def test_split_and_merge(run: Run, parts: Path, tmp_path: Path) -> None:
    assert (
        run("split", "x.parts", "--parts", "5", "--out", "y.parts")[1] == "y.parts holds 12 pictures in 5 parts\n"
    )
    assert run("merge", "y.parts", "--out", "one.clipdex")[1] == "one.clipdex holds 12 pictures\n"
    assert json.loads(run("split", "one.clipdex", "--parts", "2", "--out", "z", "--json")[1])["parts"] == 2
    with Index.open("one.clipdex") as one, Index.open("z") as z:
        assert {path for _, path in one.live_paths()} == {path for _, path in z.live_paths()}
    status, _, err = run("split", "one.clipdex", "--parts", "2", "--out", "z")
    assert status == 1 and "exists already" in err


def test_what_writes_single_items_refuses_it_in_a_sentence(run: Run, parts: Path) -> None:
    for command in (("add", "pictures/1.png", "--id", "a", "-i", "x.parts"), ("remove", "a", "-i", "x.parts")):
        status, _, err = run(*command)
        assert status == 1 and "index of parts" in err and len(err.splitlines()) == 1


def test_approximate_search_goes_through_the_parts(run: Run, parts: Path) -> None:
    pytest.importorskip("faiss")
    from clipdex.ann import AnnIndex, PartedAnn

    status, _, err = run("search", "x", "-i", "x.parts", "--ann")
    assert status == 1 and "part-0000" in err
    assert run("ann", "build", "x.parts")[1].count("hnsw of") == 3
    exact = json.loads(run("search", "x", "-i", "x.parts", "--json")[1])
    status, out, err = run("search", "x", "-i", "x.parts", "--ann", "--json")
    assert (status, json.loads(out)) == (0, exact) and "recall@10" in err
    with Index.open(parts) as index:
        ann = PartedAnn.open(index)
        query = index.vector(5)
        for where in (None, "row % 2 = 1"):
            hits = index.search(query, 4, where=where, ann=ann)[0]
            assert [(h.row, h.score) for h in hits] == [
                (h.row, h.score) for h in index.search(query, 4, where=where)[0]
            ]
        with pytest.raises(Exception, match="PartedAnn"):
            AnnIndex.open(index)
    assert PartPlan.read(parts).parts == 3
