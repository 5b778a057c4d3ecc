"""Azure and Google Cloud Storage, as far as their emulators go: Azurite, and fake-gcs-server, only for reading."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from urllib.parse import quote

import pytest
from conftest import ROOT, png

import clipdex
from clipdex.base.errors import SourceError
from clipdex.sources import object_store
from clipdex.sources.object_store import Bucket
from clipdex.sources.opening import open_source

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow

AZURITE = ROOT / ".venv-buckets/azurite/node_modules/azurite/dist/src/blob/main.js"
FAKE_GCS = next(
    iter((ROOT / ".venv-buckets").glob("lib/*/site-packages/fake_gcs*/vendor/*/bin/*linux-amd64")), None
)
NODE = shutil.which("node")

# Azurite's own account, which its documentation gives.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def tar_of(*seeds):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for seed in seeds:
            info = tarfile.TarInfo(f"{seed}.png")
            info.size = len(png(seed))
            tar.addfile(info, io.BytesIO(png(seed)))
    return made.getvalue()


@contextmanager
def started(*command: str) -> Iterator[int]:
    """Start a server that takes a port, in place of PORT, and wait until it answers -> the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("PORT", str(port)) for word in command]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def settings(monkeypatch):
    for name in list(os.environ):
        if object_store._SETTINGS.match(name):
            monkeypatch.delenv(name)
    monkeypatch.setitem(object_store.RETRIES, "max_retries", 1)

    def settings(**given):
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return settings


@pytest.fixture
def azure(settings):
    """An empty container `photos`."""
    if NODE is None or not AZURITE.exists():
        pytest.skip("Azurite is not installed: make .venv-buckets/ready, where there is npm")
    options = "--blobHost 127.0.0.1 --blobPort PORT --inMemoryPersistence --silent --skipApiVersionCheck"
    with started(NODE, str(AZURITE), *options.split(), "--disableTelemetry") as port:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        settings(
            AZURE_STORAGE_ACCOUNT_NAME=ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY=KEY, AZURE_STORAGE_ENDPOINT=endpoint
        )
        now = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        version = "2021-08-06"
        signed = ["PUT", *[""] * 11, f"x-ms-date:{now}", f"x-ms-version:{version}"]
        signed += [f"/{ACCOUNT}/{ACCOUNT}/photos", "restype:container"]
        mac = hmac.new(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256).digest()
        headers = {"x-ms-date": now, "x-ms-version": version}
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"
        asked = urllib.request.Request(f"{endpoint}/photos?restype=container", method="PUT", headers=headers)
        urllib.request.urlopen(asked).close()
        yield Bucket.open("az://photos")


@pytest.fixture
def google(settings):
    """A bucket `photos` -> a function that puts an object: the server does not take obstore's own request."""
    if FAKE_GCS is None:
        pytest.skip("fake-gcs-server is not installed: make .venv-buckets/ready")
    words = "-backend memory -scheme http -host 127.0.0.1 -port PORT -public-host 127.0.0.1:PORT"
    with started(str(FAKE_GCS), *words.split()) as port:
        base = f"http://127.0.0.1:{port}"
        settings(GOOGLE_BASE_URL=base, GOOGLE_SKIP_SIGNATURE="true")

        def post(path, data, kind):
            asked = urllib.request.Request(base + path, data, {"Content-Type": kind}, method="POST")
            urllib.request.urlopen(asked).close()

        post("/storage/v1/b", b'{"name": "photos"}', "application/json")

        def put(key, data):
            name = quote(key, safe="")
            post(f"/upload/storage/v1/b/photos/o?uploadType=media&name={name}", data, "image/png")

        yield put


def fill(put):
    for number in range(5):
        put(f"a/{number}.png", png(number))
    put("a/ä ö/%41+&.png", png(5))
    put("a-b/6.png", png(6))
    put("t/0.tar", tar_of(*range(10, 20)))
    put("t/1.tar", tar_of(*range(20, 30)))
    put("l/list.csv", b"path,caption\n../a/0.png,zero\n../a/none.png,none\n")


def check_reading(scheme, put, update):
    """What every store must do, once `fill` has filled it."""
    report, _ = update(f"{scheme}://photos/a")
    assert (report.indexed, report.failed) == (6, 0)
    put("a/1.png", png(70))
    report, embedded = update(f"{scheme}://photos/a")
    assert (report.unchanged, report.changed, report.failed, embedded) == (5, 1, 0, 1)
    report, _ = update(f"{scheme}://photos/t")
    assert (report.indexed, report.failed) == (20, 0)
    put("t/1.tar", tar_of(*range(21, 31)))
    report, embedded = update(f"{scheme}://photos/t/*.tar")
    assert (report.unchanged, report.removed, report.failed, embedded) == (19, 1, 0, 1)
    report, _ = update(f"{scheme}://photos/l/list.csv")
    assert (report.unchanged, report.failed) == (1, 1)


def test_pictures_tars_and_tables_in_azure_are_indexed_and_kept_up_to_date(azure, update):
    fill(azure.put)
    check_reading("az", azure.put, update)
    azure.delete(["a/2.png"])
    report, _ = update("az://photos/a")
    assert (report.unchanged, report.removed) == (5, 1)


def test_pictures_tars_and_tables_in_google_cloud_storage_are_indexed_and_kept_up_to_date(google, update):
    fill(google)
    check_reading("gs", google, update)


def test_an_object_in_azure_that_changes_after_the_listing_fails(azure, update, tmp_path):
    fill(azure.put)
    (file, *_) = open_source("az://photos/a").files(lambda failure: None)
    azure.put("a/0.png", png(80))
    assert b"vanished" in file.request()


def test_an_index_is_pushed_to_azure_and_pulled_from_it(azure, update, run, tmp_path):
    fill(azure.put)
    update("az://photos/a")
    assert run("push-index", tmp_path / "x", "az://photos/copies/x")[0] == 0
    update("az://photos/t")
    status, out, _ = run("push-index", tmp_path / "x", "az://photos/copies/x", "--prune")
    assert (status, "deleted, in" in out) == (0, True)
    assert run("pull", "az://photos/copies/x", tmp_path / "y")[0] == 0
    with clipdex.Index.open(tmp_path / "x") as here, clipdex.Index.open(tmp_path / "y") as copy:
        assert copy.live_paths() == here.live_paths()
        assert (copy.vectors == here.vectors).all()


def test_azure_says_in_one_sentence_what_is_wrong(azure, settings, run, tmp_path):
    with pytest.raises(SourceError, match="az://none: there is no such bucket"):
        list(open_source("az://none/a").files(lambda failure: None))
    settings(AZURE_STORAGE_ACCOUNT_KEY=base64.b64encode(b"another").decode())
    status, out, err = run("index", "az://photos/a", "-i", tmp_path / "x", "--dry-run")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "credentials" in err
