"""Local features of an index: which rows have them, and that they follow the content of files."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present
from PIL import Image
from test_local_features import same, scene

import clipdex
from clipdex.features.store import FeatureStore
from clipdex.index import Index
from clipdex.looks.local_features import extract
from clipdex.pipeline.build_features import build_features
from clipdex.wire import FakeTransport

pytest.importorskip("cv2")

RECIPE: dict[str, Any] = {"most": 60, "side": 256}


def drawn(folder: Path, seeds: range) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        scene(seed, (200, 150)).save(folder / f"{seed}.png")
    return folder


def indexed(source, index: Path, **options) -> Path:
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, source, index, workers=1, **options)
    return index


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder of four pictures, the first of which is there twice, and an index of it with features."""
    place = tmp_path_factory.mktemp("built")
    folder = drawn(place / "p", range(4))
    shutil.copy(folder / "0.png", folder / "copy.png")
    index = indexed(folder, place / "x.clipdex")
    done = build_features(index, workers=1, **RECIPE)
    assert (done.made, done.had, done.failed, done.items) == (5, 0, {}, 0)
    return place


@pytest.fixture
def own(built, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(built / "x.clipdex", tmp_path / "x.clipdex")
    return tmp_path / "x.clipdex"


def test_features_of_rows_are_those_of_their_files(built):
    with Index.open(built / "x.clipdex") as index, FeatureStore.open(index) as store:
        assert store.rows.tolist() == [0, 1, 2, 3, 4] and store.rows.dtype == np.int64
        assert store.kind == "sift" and store.generation is index.generation
        for row in store.rows:
            expected = extract(Image.open(os.fsdecode(index.picture(int(row)).path)), **RECIPE)
            assert same(present(store.of(row)), expected)
        assert store.of(99) is None


def test_blocks_are_all_descriptors_with_their_rows(built):
    with Index.open(built / "x.clipdex") as index, FeatureStore.open(index) as store:
        rows, descriptors = (np.concatenate(each) for each in zip(*store.blocks(), strict=True))
        assert descriptors.dtype == np.uint8 and rows.dtype == np.int64
        for row in range(5):
            assert np.array_equal(descriptors[rows == row], present(store.of(row)).descriptors)


def test_a_second_build_reads_only_what_is_new(built, own, tmp_path):
    folder = drawn(tmp_path / "more", range(10, 12))
    indexed(folder, own)
    done = build_features(own, workers=1)
    assert (done.made, done.had) == (2, 5)
    done = build_features(own, workers=1)
    assert (done.made, done.had, done.points) == (0, 7, 0)
