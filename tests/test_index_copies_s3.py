"""`clipdex push-index` and `clipdex pull` over S3: the commands, killed, refused, and told to print JSON."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from s3_server import BUCKET, serving_s3
from test_index_copies import content, fill, small_blocks  # noqa: F401

import clipdex
from clipdex.apps.index_copies import push as pushing
from clipdex.index import verify_index

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow

URL = f"s3://{BUCKET}/copies/x"


@pytest.fixture
def server(monkeypatch):
    with serving_s3(monkeypatch) as server:
        yield server


@pytest.fixture
def index(tmp_path):
    return fill(tmp_path / "x.clipdex", 0, 200)


def test_an_index_goes_to_a_bucket_and_back(server, index, run, tmp_path, monkeypatch):
    status, out, err = run("push-index", index, URL, "--json")
    assert (status, err) == (0, "")
    pushed = json.loads(out)
    assert pushed["bytes"] >= pushed["sent_bytes"] > 0  # two blocks of zeros are one
    status, out, _ = run("pull", URL, tmp_path / "y", "--json")
    pulled = json.loads(out)
    assert (status, pulled["rows"], pulled["bytes"]) == (0, 200, pushed["bytes"])
    assert content(tmp_path / "y") == content(index)
    monkeypatch.setenv("CLIPDEX_INDEX", str(index))
    assert "0.0 MB sent" in run("push-index", URL)[1]
    fill(index, 200, 20)
    status, out, err = run("push-index", URL, "--prune")
    assert (status, err) == (0, "")
    assert "deleted, in" in out
    status, out, _ = run("pull", URL, tmp_path / "y", "--replace")
    assert (status, "220 pictures" in out) == (0, True)
    assert content(tmp_path / "y") == content(index)


MISTAKES = [
    (("push-index", "x.clipdex", "/folder"), "is not the URL of a place in a bucket"),
    (("push-index", "x.clipdex", "s3://"), "names no bucket"),
    (("push-index", "none.clipdex", URL), "there is no such index"),
    (("push-index", "x.clipdex", "s3://other/x"), "there is no such bucket"),
    (("push-index", "x.clipdex"), "there is no URL to push to"),
    (("pull", URL, "y"), "holds no copy of an index"),
    (("pull", "x", "y"), "is not the URL of a place in a bucket"),
    (("pull", URL, "s3://b/y"), "is in a bucket"),
    (("pull", URL, "x.clipdex"), "exists already; replace it"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=lambda each: " ".join(each) if len(each) < 9 else "")
def test_a_mistake_is_one_sentence_and_changes_nothing(server, index, run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*words)
    assert (status, out, len(err.splitlines())) == (1, "", 1), err
    assert said in err
    assert [each.name for each in tmp_path.iterdir()] == ["x.clipdex"]
    assert not server.objects


REFUSALS = {
    (403, "InvalidAccessKeyId"): "the store refuses the credentials (InvalidAccessKeyId)",
    (403, "AccessDenied"): "the credentials may not write to the bucket (AccessDenied)",
    (500, "InternalError"): "the store fails: InternalError",
}


@pytest.mark.parametrize(("refusal", "words"), REFUSALS.items(), ids=lambda each: each[1] if each else "")
def test_a_store_that_refuses_to_be_written_to_is_one_sentence(server, index, run, refusal, words):
    server.refuse = lambda kind, key: refusal if kind == "PUT" else None
    status, out, err = run("push-index", index, URL)
    assert (status, out) == (1, "")
    assert err.startswith(f"clipdex: s3://{BUCKET}: {words}")
    assert len(err.splitlines()) == 1


def test_wrong_credentials_are_one_sentence_for_a_pull(server, index, run, tmp_path):
    run("push-index", index, URL)
    server.refuse = lambda kind, key: (403, "SignatureDoesNotMatch")
    status, out, err = run("pull", URL, tmp_path / "y")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "the store refuses the credentials (SignatureDoesNotMatch)" in err
    assert [each.name for each in tmp_path.iterdir()] == ["x.clipdex"]


KILLED = """
import sys
from clipdex.apps.index_copies import push
push.BLOCK_BYTES = 4096
from clipdex.cli import main
sys.argv = ["clipdex", *sys.argv[1:]]
main()
"""


def kill_at_random(drawn, done, *words):
    """Run a command until it has got as far as `done` says, and kill it there -> whether it was still running."""
    command = [sys.executable, "-c", KILLED, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and not done():
            assert time.monotonic() < end
            time.sleep(0.002)
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        return alive
    finally:
        process.communicate()


def test_pushes_and_pulls_that_are_killed_lose_nothing_and_send_nothing_twice(server, index, run, tmp_path):
    server.latency_s = 0.01
    drawn = random.Random(7)
    fill(index, 200, 3000)
    puts: list[str] = []
    server.refuse = lambda kind, key: puts.append(key) if kind == "PUT" else None
    run_through = 0
    for _ in range(8):
        goal = len(puts) + drawn.randrange(1, 12)
        run_through += not kill_at_random(drawn, lambda goal=goal: len(puts) >= goal, "push-index", index, URL)
        assert "copies/x/snapshot.json" not in server.objects or run_through
    assert run_through < 8
    assert run("push-index", index, URL)[0] == 0  # in blocks of the usual size, too: beside those
    small = [key for key in puts if "/blocks/" in key]
    assert len(small) - len(set(small)) <= 8 * pushing._AT_ONCE  # only what was on its way at a kill

    gets: list[str] = []
    server.refuse = lambda kind, key: gets.append(key) if kind == "GET" else None
    subprocess.run([sys.executable, "-c", KILLED, "push-index", str(index), URL], check=True, capture_output=True)
    killed = 0
    for _ in range(8):
        goal = len(gets) + drawn.randrange(2, 20)
        killed += kill_at_random(drawn, lambda goal=goal: len(gets) >= goal, "pull", URL, tmp_path / "y")
        if (tmp_path / "y").exists():
            break
    assert killed
    if not (tmp_path / "y").exists():
        assert run("pull", URL, tmp_path / "y")[0] == 0
    assert content(tmp_path / "y") == content(index)
    assert not verify_index(tmp_path / "y").damages
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.clipdex", "y"]
    with clipdex.Index.open(tmp_path / "y") as opened:
        assert len(opened) == 3200
