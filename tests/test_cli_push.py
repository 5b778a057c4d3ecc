"""`clipdex push`, and `clipdex search --in`, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, unit_vectors
from numpy_sink import NumpySink

from clipdex import Client, Index, IndexWriter, Manifest, Picture
from clipdex.base.errors import MissingExtra, SinkError
from clipdex.cli import connection_options as connection
from clipdex.cli import push as push_cli
from clipdex.cli import search as search_cli
from clipdex.sinks.payloads import point_id
from clipdex.sinks.sink import Found
from clipdex.wire import FakeTransport

URL = "qdrant://db1/photos"


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> NumpySink:
    """The database at every address."""
    made = NumpySink()
    for module in (push_cli, search_cli):
        monkeypatch.setattr(module, "open_sink", lambda url: made)
    return made


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve drawn pictures by the fake model."""
    monkeypatch.chdir(tmp_path)
    transport = FakeTransport()
    monkeypatch.setattr(connection, "connect", lambda address, model, **_: Client(transport, model=model))
    with Client(transport) as client:
        pictures = [
            Picture(
                b"/p/%02d.png" % i, i, i * 10**9, bytes([i]) * 16, 40 + i, 30, json.dumps({"year": 2000 + i % 3})
            )
            for i in range(12)
        ]
        with IndexWriter.open_or_create(tmp_path / "x.clipdex", Manifest.of(client.card)) as writer:
            writer.append(pictures, client.embed_images([noise(i) for i in range(12)]))
    return tmp_path / "x.clipdex"


def asked(run: Any, *words: object) -> Any:
    status, out, err = run("search", "--in", URL, *words, "--json")
    assert status == 0, err
    return json.loads(out)


def paths(answer: Any) -> list[str]:
    return [hit["path"] for hit in answer["hits"]]


# push


def test_push_says_what_it_did_and_the_next_that_nothing_had_changed(run, index, sink):
    assert run("push", "x.clipdex", URL)[:2] == (0, matching("12 pictures, 12 sent, 0 deleted in "))
    assert run("push", "-i", "x.clipdex", URL)[:2] == (0, matching("12 pictures, 0 sent, 0 deleted in "))
    assert len(sink.points) == 12


class matching(str):
    """Equal to every text that has it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(self) in other

    __hash__ = str.__hash__


def test_push_with_verify_prints_the_comparison(run, index, sink):
    status, out, _ = run("push", "x.clipdex", URL, "--verify", "--queries", 5, "--where", "width > 45")
    assert status == 0
    assert "12 points for 12 pictures; 12 of 12 sampled are the same" in out
    assert "5 pictures of the index as queries: 1.000, with the condition 1.000" in out


def test_push_in_json_is_one_object(run, index, sink):
    status, out, _ = run("push", "x.clipdex", URL, "--verify", "--json")
    said = json.loads(out)
    verified = said.pop("verified")
    assert status == 0 and verified["recall"] == 1.0 and verified["filtered_recall"] is None
    assert said.pop("seconds") >= 0
    assert said == {
        "index": "x.clipdex", "url": URL, "pictures": 12, "upserted": 12, "deleted": 0, "compared": False,
        "shortened": 0,
    }  # fmt: skip


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_verify_that_finds_a_difference_ends_with_status_1(run, index, sink, form):
    assert run("push", "x.clipdex", URL)[0] == 0
    del sink.points[point_id(b"/p/03.png")]
    status, out, err = run("push", "x.clipdex", URL, "--verify", *form)
    assert status == 1
    if form:
        assert json.loads(out)["verified"]["different"] == ["/p/03.png"]
    else:
        assert "11 points for 12 pictures; 11 of 12 sampled are the same" in out
        assert "missing or different: /p/03.png" in err


def test_verify_shows_ten_differences_and_counts_the_rest(run, index, sink):
    assert run("push", "x.clipdex", URL)[0] == 0
    sink.points.clear()
    status, _, err = run("push", "x.clipdex", URL, "--verify")
    assert status == 1 and err.count("missing or different") == 10 and "and 2 more" in err


def test_metadata_that_was_left_out_is_said(run, index, sink):
    with IndexWriter(index) as writer:
        writer.annotate(b"/p/03.png", json.dumps({"notes": ["x" * 500, 1]}))
    sink.most_payload = 400
    status, _, err = run("push", "x.clipdex", URL)
    assert status == 0 and "1 point was sent without metadata, which is longer than the 400 bytes" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("x.clipdex",), "there is no URL to push to; give one"),
        (("x.clipdex", "http://db1/x"), "is no address of a collection; expected one of milvus://HOST/COLLECTION"),
        (("x.clipdex", URL, "--where", "width > 3"), "--where restricts the queries of --verify"),
        (("x.clipdex", URL, "--verify", "--queries", 0), "--queries is 0; expected 1 or more"),
        (("y.clipdex", URL), "y.clipdex"),
    ],
)
def test_a_mistake_of_push_is_one_sentence(run, index, words, sentence):
    status, out, err = run("push", *words)
    assert status != 0 and sentence in err and not out and "Traceback" not in err


@pytest.mark.parametrize("command", [("push", "x.clipdex", URL), ("search", "--in", URL, "a dog")])
@pytest.mark.parametrize(
    "error",
    [
        SinkError("the collection photos of Qdrant at db1:6333 cannot be reached: Connection refused"),
        MissingExtra("qdrant-client", "qdrant", "Qdrant"),
    ],
)
def test_a_server_that_is_not_there_and_a_missing_client_are_one_sentence(run, index, monkeypatch, command, error):
    def fail(url: str) -> Any:
        raise error

    for module in (push_cli, search_cli):
        monkeypatch.setattr(module, "open_sink", fail)
    status, out, err = run(*command)
    assert status != 0 and not out and err.count("\n") == 1
    assert str(error).splitlines()[0] in err


def test_ctrl_c_ends_a_push_with_one_sentence_and_the_next_goes_on(run, index, sink, monkeypatch):
    def interrupted(points: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sink, "upsert", interrupted)
        status, out, err = run("push", "x.clipdex", URL)
    assert (status, out) == (130, "")
    assert err.strip().splitlines()[-1] == "clipdex: stopped; the next push goes on"
    assert run("push", "x.clipdex", URL)[1] == matching("12 pictures, 12 sent")


def test_the_help_names_every_form_of_address(run):
    from clipdex.sinks.urls import FORMS

    _, out, _ = run("push", "--help")
    words = " ".join(out.split()).replace("[:19530]", "").replace("[:6333]", "").replace("[:8080]", "")
    assert [form for form in FORMS if form not in words] == []


# search --in


@pytest.fixture
def filled(run: Any, index: Path, sink: NumpySink) -> NumpySink:
    assert run("push", "x.clipdex", URL)[0] == 0
    return sink


def test_search_in_a_database_answers_as_the_index_does(run, filled):
    for words in (
        ("a dog", "-k", 7),
        ("a dog", "-k", 3, "--offset", 2),
        ("--text", "a dog", "--minus", "a cat", "-k", 4),
        ("a dog", "--where", "width > 43 AND meta ->> 'year' = 2001"),
        ("a dog", "--where", "width > :w", "--param", "w=47"),
        ("--like", "/p/04.png", "-k", 5),
        ("--like", "/p/04.png", "-k", 2, "--offset", 1),
    ):
        status, out, _ = run("search", "-i", "x.clipdex", *words, "--json")
        (expected,), (answer,) = json.loads(out), asked(run, *words)
        assert status == 0 and paths(answer) == paths(expected) and paths(answer)
        assert answer["query"] == expected["query"]
        np.testing.assert_allclose(
            [hit["score"] for hit in answer["hits"]], [hit["score"] for hit in expected["hits"]], atol=5e-4
        )
        assert [hit["metadata"] for hit in answer["hits"]] == [hit["metadata"] for hit in expected["hits"]]


def test_a_least_score_leaves_out_what_is_below(run, filled):
    (whole,) = asked(run, "--like", "/p/04.png", "-k", 11)
    least = whole["hits"][3]["score"] - 1e-6
    (answer,) = asked(run, "--like", "/p/04.png", "-k", 11, "--min-score", least)
    assert paths(answer) == paths(whole)[:4]


def test_lines_and_csv_are_printed_too(run, filled):
    assert "/p/04.png" in run("search", "--in", URL, "--like", "/p/05.png", "-k", 11)[1]
    assert "/p/04.png" in run("search", "--in", URL, "--like", "/p/05.png", "-k", 11, "--csv")[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a dog", "--group"), "--in asks a vector database, which has neither --ann nor --group"),
        (("a dog", "--ann"), "--in asks a vector database, which has neither --ann nor --group"),
        (("a dog", "--group-cosine", 0.9), "--in asks a vector database, which has neither"),
        (("a dog", "--where", "lower(name) = 'a'"), "uses 'lower'; a vector database takes comparisons"),
        (("a dog", "--where", "meta ->> 'nowhere' = 1"), "which is no field of this collection"),
        (("a dog", "--where", "width > :w"), r"that was not given (:w)"),
        (("a dog", "--param", "w=3"), "--param gives a value to --where, but --where is not given"),
        (("a dog", "-k", 0), "top_k is 0"),
        (("a dog", "--offset", -1), "offset is -1"),
        (("--like", "/p/nowhere.png"), "/p/nowhere.png is not a picture in the collection in memory"),
        (("a dog", "-i", "x.clipdex"), "--in asks a vector database, and --index an index; give one of them"),
    ],
)
def test_a_mistake_of_search_in_a_database_is_one_sentence(run, filled, words, sentence):
    status, out, err = run("search", "--in", URL, *words)
    assert status != 0 and sentence in err and not out and "Traceback" not in err


def test_an_index_of_the_environment_does_not_stand_in_the_way(run, filled, monkeypatch):
    monkeypatch.setenv("CLIPDEX_INDEX", "x.clipdex")
    assert asked(run, "a dog")


def test_a_collection_that_is_not_there_says_so(run, index, sink):
    status, _, err = run("search", "--in", URL, "a dog")
    assert (
        status != 0 and "the collection in memory does not exist: push an index into it with  clipdex push" in err
    )


def test_metadata_that_is_no_json_there_is_said(run, filled, monkeypatch):
    broken = [Found("x", 1.0, {"path": "/p/1.png", "metadata": "{"})]
    monkeypatch.setattr(filled, "query", lambda *_: broken)
    status, _, err = run("search", "--in", URL, "a dog")
    assert status != 0 and "the metadata of /p/1.png is no JSON object there" in err


def test_vectors_of_another_model_are_not_asked(run, index, sink, tmp_path):
    from clipdex.sinks.push import push

    other = tmp_path / "o.clipdex"
    with IndexWriter.open_or_create(other, Manifest("e" * 64, "other", 8)) as writer:
        writer.append([Picture(b"/p/a.png", 1, 1, bytes(16), 1, 1, None)], unit_vectors(1, 8))
    with Index.open(other) as opened:
        push(opened, sink)
    status, out, err = run("search", "--in", URL, "a dog")
    assert status != 0 and not out and "Traceback" not in err
