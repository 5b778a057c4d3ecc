"""`verify` finds every change to an index's data, and never stumbles over one."""

import random
import shutil

import pytest
from conftest import unit_vectors
from damage import DIM, ROWS, damage_and_verify, write_index

import clipdex
from clipdex.index import Index, verify_index

pytestmark = pytest.mark.thin


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "x.clipdex"
    write_index(path)
    return path


@pytest.fixture
def index(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "x.clipdex")


def test_a_sound_index_is_said_to_be(index):
    report = verify_index(index)
    assert report.damages == []
    assert (report.rows, report.extents, report.bytes_read) == (ROWS, 3, ROWS * DIM * 2)


def test_a_flipped_bit_names_the_rows_it_touches_and_the_rest_is_searched(index):
    flip(index / "vectors.f16", 150 * DIM * 2, 3)
    (damage,) = verify_index(index).damages
    assert damage.rows == (100, 200)
    with Index.open(index) as opened:
        assert len(opened.search(unit_vectors(ROWS, DIM)[0], top_k=10)[0]) == 10


def flip(path, byte, bit):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_in_the_data_is_found(sound, tmp_path, seed):
    """200 here; benchmarks/prove_damage.py flips 2,000 and cuts 500 times."""
    missed = damage_and_verify(sound, tmp_path / "x.clipdex", random.Random(seed), flips=50, cuts=0)
    assert missed == []


def test_every_cut_is_found(sound, tmp_path):
    assert damage_and_verify(sound, tmp_path / "x.clipdex", random.Random(9), flips=0, cuts=60) == []


@pytest.mark.parametrize("name", ["manifest.json", "rows.sqlite", "vectors.f16"])
def test_a_missing_file_is_damage(index, name):
    (index / name).unlink()
    assert verify_index(index).damages


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(clipdex.IndexNotFound):
        verify_index(tmp_path / "nothing")
