"""The two functions clipdex began as."""

import numpy as np
import pytest
from conftest import noise, present

import clipdex
from clipdex import index_local_images, retrieve_local
from clipdex.apps import retrieval as local
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


@pytest.fixture(autouse=True)
def transport(monkeypatch):
    transport = FakeTransport()
    monkeypatch.setattr(local, "connect", lambda address, model, **_: clipdex.Client(transport, model=model))
    return transport


def test_a_folder_gives_embeddings_and_paths(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    embeddings, paths = index_local_images("pictures")
    assert embeddings is not None and embeddings.shape == (12, 8)
    assert embeddings.dtype == np.float32
    assert paths[0] == "pictures/0.png"
    assert "pictures/more/9.jpg" in paths
    with clipdex.Client(FakeTransport()) as client:
        assert np.array_equal(embeddings, client.embed_images(paths))


@pytest.mark.slow
def test_the_second_time_only_what_is_new_is_embedded(pictures, transport):
    index_local_images(pictures)
    noise(50).save(pictures / "new.png")
    (pictures / "0.png").unlink()
    transport.requests.clear()
    embeddings, paths = index_local_images(pictures)
    assert [rows for model, rows in transport.requests if model == "fake_image"] == [1]
    assert len(present(embeddings)) == len(paths) == 12
    assert str(pictures / "0.png") not in paths


@pytest.mark.parametrize("kind", ["missing", "empty", "unreadable"])
def test_no_picture_gives_none(tmp_path, kind):
    if kind != "missing":
        (tmp_path / kind).mkdir()
    if kind == "unreadable":
        (tmp_path / kind / "a.png").write_text("no picture")
    assert index_local_images(tmp_path / kind) == (None, [])


def test_retrieve_ranks_paths_by_cosine(pictures):
    embeddings, paths = index_local_images(pictures)
    answers = retrieve_local("a prompt", embeddings, paths, top_k=3)
    with clipdex.Client(FakeTransport()) as client:
        scores = embeddings @ client.embed_texts(["a prompt"])[0]
    best = np.argsort(-scores)[:3]
    assert [path for path, _ in answers] == [paths[i] for i in best]
    assert [score for _, score in answers] == pytest.approx(scores[best].tolist())
    assert all(type(score) is float for _, score in answers)


def test_retrieve_with_little_to_rank(pictures):
    embeddings, paths = index_local_images(pictures)
    assert len(retrieve_local("a", embeddings, paths, top_k=100)) == 12
    assert retrieve_local("a", None, [], top_k=5) == []


def test_retrieve_refuses_what_does_not_fit():
    ones = np.ones((2, 8), np.float32)
    with pytest.raises(clipdex.InvalidArgument, match="top_k is 0"):
        retrieve_local("a", ones, ["a", "b"], top_k=0)
    with pytest.raises(clipdex.InvalidArgument, match="2 embeddings but 1 paths"):
        retrieve_local("a", ones, ["a"])
    with pytest.raises(clipdex.InvalidArgument, match="another model"):
        retrieve_local("a", np.ones((1, 9), np.float32), ["a"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.0])
def test_embeddings_that_are_not_of_norm_1_have_no_cosines(pictures, bad):
    embeddings, paths = index_local_images(pictures)
    changed = np.array(embeddings)
    changed[4] = bad
    with pytest.raises(clipdex.InvalidArgument, match=rf"embedding 4, of .*{paths[4][-6:]}, is not finite"):
        retrieve_local("a prompt", changed, paths)


def test_a_damaged_row_of_the_cached_index_is_no_embedding(pictures, cache, monkeypatch):
    index_local_images(pictures)
    (file,) = cache.glob("indexes/*/vectors.f32")
    raw = np.fromfile(file, np.float32).reshape(-1, 8)
    raw[5] = np.nan
    # What bypasses the run over the folder, which would embed it again.
    monkeypatch.setattr(local, "index_directory", lambda client, images_dir: (raw.tofile(file), file.parent)[1])
    with pytest.raises(clipdex.IndexDamaged, match="row 5 is damaged"):
        index_local_images(pictures)
