"""`verify` says by its exit status whether an index is sound, damaged, or cannot be looked at."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from damage import write_killed_index

import clipdex
from clipdex.index import Index, rows


@pytest.mark.parametrize(
    "name", ["manifest.json", "vectors.f16", "rows.sqlite-wal", "vectors.int8", "vectors.ann"]
)
@pytest.mark.parametrize(
    "number, damaged", [(errno.EACCES, False), (errno.EMFILE, False), (errno.ENOMEM, False), (errno.EIO, True)]
)
def test_a_file_that_the_system_does_not_open_is_damage_only_if_its_disk_fails(
    tmp_path, monkeypatch, run, name, number, damaged
):
    path = tmp_path / "x.clipdex"
    write_killed_index(path)
    for side in ("vectors.int8", "vectors.ann"):
        if side == name:
            (path / side).touch()
    real = os.open

    def refuse(where, *arguments, **options):
        if Path(os.fsdecode(where)).name == name:
            raise OSError(number, os.strerror(number))
        return real(where, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    status, _, err = run("verify", path)
    assert status == (1 if damaged else 3)
    assert os.strerror(number) in err
    if name in ("manifest.json", "vectors.f16"):
        with pytest.raises(clipdex.IndexFault, match=os.strerror(number)) as error:
            Index.open(path)
        assert isinstance(error.value, clipdex.IndexDamaged) == damaged


def test_a_full_disk_is_told_from_damage(tmp_path, monkeypatch, run):
    path = tmp_path / "x.clipdex"
    write_killed_index(path)
    assert run("verify", path)[0] == 0
    assert run("verify", tmp_path / "none")[0] == 1
    with monkeypatch.context() as patch:

        def full(path, *, write):
            raise sqlite3.OperationalError("unable to open database file")

        patch.setattr(rows, "connect", full)
        status, out, err = run("verify", path)
    assert (status, out) == (3, "")
    assert len(err.splitlines()) == 1
    raw = bytearray((path / "vectors.f16").read_bytes())
    raw[5] ^= 1
    (path / "vectors.f16").write_bytes(raw)
    assert run("verify", path)[0] == 1
