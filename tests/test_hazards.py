"""Bad and unusual pictures, all in one run: each is indexed right, or in the ledger with its reason."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import ROOT, no_failure
from hazards import HEIC_HEADER, hazards, noise, saved

import clipdex
from clipdex import Client, Failure, RunReport, index_pictures
from clipdex.base.limits import Limits
from clipdex.model.images import open_image
from clipdex.pipeline.decode import DecodePool
from clipdex.pipeline.ring import PixelRing
from clipdex.pipeline.worker_process import WorkerProcess
from clipdex.sources import PathList
from clipdex.sources.scan import scan
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]

HAZARDS = hazards()


@dataclass
class Outcome:
    report: RunReport
    rows: dict  # name -> (width, height, pixels uint8 (S, S, 3))
    ledger: dict  # name -> (reason, detail)
    peaks: list  # resident bytes of each worker, at most


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hazards")
    for hazard in HAZARDS:
        (folder / hazard.name).write_bytes(hazard.data)
    pixels, peaks = [], []

    def look_at_request(model, inputs):
        if model == "fake_image":
            pixels.extend(inputs["pixels"].copy())

    one_by_one = FakeTransport(max_batch_size=1, fault=look_at_request)  # so in the order of the rows

    def stop(worker, stop=WorkerProcess.stop):
        peaks.append(peak_memory(worker.process.pid))
        stop(worker)

    index = tmp_path_factory.mktemp("index") / "hazards.clipdex"
    paths = PathList([os.fsencode(folder / hazard.name) for hazard in HAZARDS], "hazards")
    with pytest.MonkeyPatch.context() as patch, Client(one_by_one) as client:
        patch.setattr(WorkerProcess, "stop", stop)
        # Where the machine is busy with other things, a file that takes long is no hazard.
        limits = Limits(file_timeout_s=900, large_memory_bytes=0)
        report = index_pictures(client, paths, index, workers=2, limits=limits)
    store = sqlite3.connect(index / "rows.sqlite")
    rows = store.execute("SELECT path, width, height FROM rows ORDER BY row").fetchall()
    ledger = store.execute("SELECT path, reason, detail FROM failures").fetchall()
    store.close()
    assert len(pixels) == len(rows)
    return Outcome(
        report,
        {name(path): (*size, seen) for (path, *size), seen in zip(rows, pixels, strict=True)},
        {name(path): (reason, detail) for path, reason, detail in ledger},
        peaks,
    )


def name(path):
    return os.path.basename(os.fsdecode(path))


def peak_memory(pid):
    """The most that a living process has had resident, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_the_run_finishes_and_adds_up(outcome):
    report = outcome.report
    assert report.discovered == len(HAZARDS) == report.indexed + report.unchanged + report.failed
    assert (report.indexed, report.failed) == (len(outcome.rows), len(outcome.ledger))
    assert report.rows == sum(not hazard.reason for hazard in HAZARDS)


@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda hazard: hazard.name)
def test_a_hazard_is_indexed_right_or_has_its_reason(outcome, hazard):
    if hazard.reason:
        reason, detail = outcome.ledger[hazard.name]
        assert reason == hazard.reason, detail
        assert detail
        return
    assert hazard.name in outcome.rows, outcome.ledger.get(hazard.name)
    width, height, pixels = outcome.rows[hazard.name]
    assert (width, height) == hazard.size
    for (y, x), expected in zip(((4, 4), (4, -5), (-5, 4), (-5, -5)), hazard.corners, strict=True):
        np.testing.assert_allclose(pixels[y, x].astype(int), expected, atol=hazard.tolerance)


def test_there_are_hazards_of_every_kind():
    kinds = Counter(hazard.kind for hazard in HAZARDS)
    assert len(HAZARDS) - kinds["truncated"] >= 60
    assert {hazard.reason for hazard in HAZARDS} == {
        "",
        "broken",
        "empty",
        "not_a_picture",
        "out_of_memory",
        "too_many_pixels",
        "truncated",
        "unsupported",
    }


def test_two_hazards_are_never_the_same():
    names = [hazard.name for hazard in HAZARDS]
    contents = [hazard.data for hazard in HAZARDS if hazard.data]
    assert len(set(names)) == len(names)
    assert len(set(contents)) == len(contents)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_no_worker_takes_a_gibibyte(outcome):
    assert len(outcome.peaks) >= 2
    # The giants were really decoded, and in bounds.
    assert 700 << 20 < max(outcome.peaks) < 1 << 30
    print(f"the most that a worker took: {max(outcome.peaks) >> 20} MiB")


def test_a_decoder_that_only_says_it_failed_for_want_of_memory(tmp_path):
    """libwebp does; a picture that is whole must not be called broken."""
    size = (3_000, 3_000)
    (tmp_path / "a.webp").write_bytes(saved(noise().resize(size), "WEBP", quality=1, method=0))
    limits = Limits(worker_memory_bytes=128 << 20, large_memory_bytes=0)
    spec = FakeTransport().card.image
    with PixelRing(spec.size, 4, 2) as ring, DecodePool(spec, ring, workers=1, limits=limits) as pool:
        (result,) = pool.decode(scan(tmp_path, no_failure))
    assert isinstance(result, Failure) and result.reason == "out_of_memory"


def test_no_worker_is_lost_to_a_hazard(outcome):
    """Not one of them crashes a decoder; a worker that runs out of memory says so and goes on."""
    assert len(outcome.peaks) == 2


def test_heic_is_read_where_its_package_is_installed(outcome):
    pytest.importorskip("pillow_heif", reason="needs the extra 'heic'")
    assert {"plain.heic", "turned6.heic", "alpha.heic"} <= outcome.rows.keys()


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(clipdex.ImageError, match=r"pip install .*\[heic\]'") as caught:
        open_image(HEIC_HEADER)
    assert caught.value.reason == "missing_extra"


def test_mutated_pictures_are_decoded_or_refused():
    """Whatever the bytes, a picture or an ImageError: a quick run of tests/proofs/mutated_pictures.py."""
    script = ROOT / "tests" / "proofs" / "mutated_pictures.py"
    done = subprocess.run([sys.executable, script, "300", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == 300
    assert counts["indexed"] > 30
    assert counts["broken"] + counts["truncated"] > 60
