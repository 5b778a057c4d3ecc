"""A server that is killed under a run costs time, and no rows; `make prove-restarts` does it twenty times."""

import time

import numpy as np
import pytest
from proofs import restarts
from proofs.bulk_memory import Packed, anonymous_bytes, measure
from proofs.restarts import Killer, index_rows

import clipdex

pytestmark = pytest.mark.triton


def index(directory, source, kill_at):
    with Killer(kill_at) as killer, clipdex.connect(killer.address) as client:
        report = clipdex.index_pictures(client, source, directory, workers=1, progress=killer.watch)
    return killer.killed, report


@pytest.mark.slow
def test_the_index_equals_an_undisturbed_one(triton, tmp_path):
    source = Packed.draw(tmp_path / "pictures", 600)
    with clipdex.connect(triton.address, model="demo") as client:
        clipdex.index_pictures(client, source, tmp_path / "a", workers=1)
    killed, report = index(tmp_path / "b", source, [64, 320])
    assert killed == 2
    assert (report.indexed, report.failed) == (600, 0)
    (rows, bits), (rows_too, bits_too) = index_rows(tmp_path / "a"), index_rows(tmp_path / "b")
    assert rows == rows_too
    assert np.array_equal(bits, bits_too)


@pytest.mark.slow
def test_a_server_that_does_not_start_again_ends_the_run(monkeypatch):
    """And not the proof's fifteen minutes later."""
    starts, waited = [], False

    class Once(restarts.LocalTriton):  # type: ignore[name-defined]
        def __enter__(self):
            starts.append(self)
            if len(starts) > 1:
                raise clipdex.ClipdexError("no second start")
            return super().__enter__()

    monkeypatch.setattr(restarts, "LocalTriton", Once)
    with pytest.raises(clipdex.ClipdexError, match="no second start"), Killer([1]) as killer:
        killer.watch(clipdex.Progress(1, 0, 0, None, 0.0))
        time.sleep(60)
        waited = True
    assert not waited


@pytest.mark.slow
def test_a_run_takes_little_memory(tmp_path):
    """`make prove-memory` does it with a million pictures; that it does not grow shows only there."""
    before = anonymous_bytes()
    found = measure(tmp_path, 2_000, "auto", workers=1)
    assert found.report.indexed == 2_000
    assert found.report.transfer == "shared memory"
    assert found.peak - before < 40e6  # 12 as a rule
