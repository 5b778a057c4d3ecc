"""A picture that a server refuses costs itself, not its batch."""

import os

import numpy as np
import pytest

import clipdex
from clipdex import Client, Index, index_pictures
from clipdex.model.images import open_image, to_pixels
from clipdex.wire import FakeTransport

pytestmark = [pytest.mark.thin, pytest.mark.once]


def refusing(*paths, most=100):
    """A server that takes no batch with one of these pictures in it, nor more than `most` at once."""
    spec = FakeTransport().card.image
    bad = [to_pixels(open_image(path), spec) for path in paths]

    def fault(model, inputs):
        if model != "fake_image":
            return None
        rows = inputs["pixels"]
        if len(rows) > most or any(np.array_equal(row, each) for row in rows for each in bad):
            return clipdex.RequestRefused("I do not like it")
        return None

    return FakeTransport(fault=fault)


def run(transport, folder, out):
    with Client(transport) as client:
        return index_pictures(client, folder, out, workers=1)


def test_it_goes_to_the_ledger_and_the_others_are_indexed(pictures, tmp_path):
    run(FakeTransport(), pictures, tmp_path / "a")
    report = run(refusing(pictures / "3.png", pictures / "more" / "10.jpg"), pictures, tmp_path / "b")
    assert (report.indexed, report.failed) == (10, 2)
    with Index.open(tmp_path / "a") as index, Index.open(tmp_path / "b") as other:
        whole = {path: index.vectors[row].tolist() for row, path in index.live_paths()}
        assert all(other.vectors[row].tolist() == whole[path] for row, path in other.live_paths())
        assert [(os.path.basename(f.path), f.reason, f.detail) for f in other.failures()] == [
            (b"3.png", "refused", "I do not like it"),
            (b"10.jpg", "refused", "I do not like it"),
        ]
        assert all(failure.may_pass for failure in other.failures())


def test_a_limit_on_the_size_of_messages_halves_the_batches(pictures, tmp_path):
    transport = refusing(most=3)
    report = run(transport, pictures, tmp_path / "x")
    assert (report.indexed, report.failed) == (12, 0)
    assert max(rows for model, rows in transport.requests[-4:] if model == "fake_image") == 3


def test_a_server_that_refuses_everything_ends_the_run(pictures, tmp_path):
    with pytest.raises(clipdex.RequestRefused, match="I do not like it"):
        run(refusing(most=0), pictures, tmp_path / "x")
    with Index.open(tmp_path / "x") as index:
        assert (len(index), index.failures()) == (0, [])
