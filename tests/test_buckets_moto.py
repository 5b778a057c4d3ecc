"""Pictures in a bucket of moto's server, in an environment of its own: its packages clash with the tests'."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, png

import clipdex

pytest.importorskip("obstore")

MOTO = shutil.which("moto_server", path=f"{ROOT / '.venv-buckets/bin'}{os.pathsep}{os.environ['PATH']}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MOTO is None, reason="moto is not installed: make .venv-buckets/ready"),
]


@pytest.fixture
def store(monkeypatch, tmp_path):
    """An empty bucket `photos`, to put objects in."""
    from obstore.store import from_url

    log = Path(tmp_path / "moto.log")
    with log.open("w") as out:
        moto = subprocess.Popen([str(MOTO), "-H", "127.0.0.1", "-p", "0"], stdout=out, stderr=out)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert moto.poll() is None, log.read_text()
        settings = {
            "AWS_ENDPOINT_URL": found[0],
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{found[0]}/photos", method="PUT")).close()
        yield from_url("s3://photos", client_options={"allow_http": True})
    finally:
        moto.terminate()
        moto.wait()


def test_a_bucket_of_moto_is_indexed_and_kept_up_to_date(store, update):
    for number in range(60):
        store.put(f"a/{number:04}.png", png(number))
    store.put("ab/0.png", png(1))
    report, _ = update("s3://photos/a")
    assert (report.discovered, report.indexed, report.failed) == (60, 60, 0)
    store.put("a/0001.png", png(2000))
    store.put("a/new ä+%.png", png(2001))
    store.delete("a/0002.png")
    report, embedded = update("s3://photos/a")
    assert (report.unchanged, report.indexed, report.changed, report.removed) == (58, 2, 1, 1)
    assert embedded == 2


def test_tars_and_tables_in_a_bucket_of_moto_are_indexed_and_a_changed_tar_is_seen(store, update):
    def tar(*seeds):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as file:
            for seed in seeds:
                data = png(seed)
                info = tarfile.TarInfo(f"{seed:04}.png")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        return made.getvalue()

    store.put("t/0.tar", tar(*range(30)))
    store.put("t/1.tar", tar(*range(30, 60)))
    report, _ = update("s3://photos/t/*.tar")
    assert (report.indexed, report.failed) == (60, 0)
    store.put("t/1.tar", tar(*range(31, 61)))
    report, embedded = update("s3://photos/t")
    assert (report.unchanged, report.indexed, report.removed, embedded) == (59, 1, 1, 1)
    store.put("t/list.csv", b"path,caption\na.png,one\ns3://photos/b.png,two\n")
    store.put("t/a.png", png(70))
    store.put("b.png", png(71))
    report, _ = update("s3://photos/t/list.csv")
    assert (report.indexed, report.failed) == (2, 0)


def test_an_index_is_pushed_to_a_bucket_of_moto_and_pulled_from_it(store, run, tmp_path, update):
    for number in range(30):
        store.put(f"a/{number:04}.png", png(number))
    update("s3://photos/a")
    assert run("push-index", tmp_path / "x", "s3://photos/copy")[0] == 0
    assert run("pull", "s3://photos/copy", tmp_path / "y")[0] == 0
    for number in range(30, 40):
        store.put(f"a/{number:04}.png", png(number))
    update("s3://photos/a")
    sent = json.loads(run("push-index", tmp_path / "x", "s3://photos/copy", "--prune", "--json")[1])
    assert 0 < sent["sent_blocks"] == sent["pruned"]
    assert run("pull", "s3://photos/copy", tmp_path / "y", "--replace")[0] == 0
    with clipdex.Index.open(tmp_path / "x") as here, clipdex.Index.open(tmp_path / "y") as copy:
        assert copy.live_paths() == here.live_paths()
        assert (copy.vectors == here.vectors).all()


def test_a_bucket_that_moto_does_not_have_is_one_sentence(store, run, tmp_path):
    status, _, err = run("index", "s3://nothing", "-i", tmp_path / "x", "--dry-run")
    assert (status, "s3://nothing: there is no such bucket" in err) == (1, True)
