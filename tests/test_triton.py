"""The client against a real Triton that serves the committed model."""

import subprocess

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY, ROOT, noise
from PIL import Image

import clipdex
from clipdex.wire import open_transport

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def served(triton):
    with clipdex.connect(triton.address, model="demo") as client:
        yield client


@pytest.fixture(scope="module")
def inproc():
    with clipdex.connect(f"inproc:{MODEL_REPOSITORY}", model="demo") as client:
        yield client


PICTURES = [noise(i, size=(30 + 7 * i, 90 - 3 * i)) for i in range(20)] + [Image.new("RGB", (64, 64), "red")]
TEXTS = ["a red circle", "", "three blue stars on a black background", "日本 🎈", "word " * 200]


def test_the_server_says_it_is_triton(served):
    assert served.server.name == "triton"
    assert served.server.version.startswith("2.")


def test_the_model_is_found_without_being_named(triton):
    with clipdex.connect(triton.address) as client:
        assert client.card.name == "demo"


def test_the_card_from_the_server_is_that_of_the_files(served, inproc):
    assert served.card == inproc.card
    assert served.max_batch_size == inproc.max_batch_size


def test_in_process_and_triton_give_the_same_vectors(served, inproc):
    for a, b in (
        (served.embed_images(PICTURES), inproc.embed_images(PICTURES)),
        (served.embed_texts(TEXTS), inproc.embed_texts(TEXTS)),
    ):
        assert a.dtype == b.dtype == np.float32
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)


def test_more_than_one_batch(served):
    pictures = PICTURES * 8
    vectors = served.embed_images(pictures)
    assert vectors.shape == (len(pictures), served.card.embedding_dim)
    np.testing.assert_allclose(vectors[: len(PICTURES)], vectors[-len(PICTURES) :], atol=1e-5)


def test_an_unknown_model_is_answered_with_those_there_are(triton):
    with pytest.raises(clipdex.ModelNotFound, match=r"has no model 'nope'; it has demo"):
        clipdex.connect(triton.address, model="nope")


@pytest.mark.parametrize("repository", [None, MODEL_REPOSITORY], ids=["triton", "inproc"])
class TestRefusals:
    """What a server refuses, it refuses in the same terms served and in process."""

    @pytest.fixture
    def transport(self, triton, repository):
        transport = open_transport(f"inproc:{repository}" if repository else triton.address)
        yield transport
        transport.close()

    def ask(self, transport, model, array, name="pixels"):
        return transport.submit(model, {name: array}, "embedding", 30).result()

    def test_a_batch_above_the_limit(self, transport):
        with pytest.raises(clipdex.RequestRefused):
            self.ask(transport, "demo_image", np.zeros((1000, 64, 64, 3), np.uint8))

    def test_another_shape(self, transport):
        with pytest.raises(clipdex.RequestRefused):
            self.ask(transport, "demo_image", np.zeros((1, 32, 32, 3), np.uint8))

    def test_another_dtype(self, transport):
        with pytest.raises(clipdex.RequestRefused):
            self.ask(transport, "demo_image", np.zeros((1, 64, 64, 3), np.float32))

    def test_another_input(self, transport):
        with pytest.raises(clipdex.RequestRefused):
            self.ask(transport, "demo_image", np.zeros((1, 64, 64, 3), np.uint8), name="picture")

    def test_another_model(self, transport):
        with pytest.raises(clipdex.ModelNotFound):
            transport.config("nope", 30)

    def test_it_goes_on_afterwards(self, transport):
        assert self.ask(transport, "demo_image", np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 128)

    def test_after_close_it_says_so(self, transport):
        transport.close()
        transport.close()
        with pytest.raises(clipdex.Closed, match="is closed"):
            self.ask(transport, "demo_image", np.zeros((2, 64, 64, 3), np.uint8))


def test_a_deadline_is_kept(triton):
    transport = open_transport(triton.address)
    with pytest.raises(clipdex.DeadlineExceeded):
        transport.submit(
            "demo_image", {"pixels": np.zeros((64, 64, 64, 3), np.uint8)}, "embedding", 0.0001
        ).result()
    transport.close()


def test_a_port_that_speaks_something_else(tmp_path):
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(clipdex.ServerError):
            clipdex.connect(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=5)
        thread.join()


@pytest.mark.parametrize("what", ["missing", "empty", "broken config", "no version"])
def test_a_repository_that_is_none_is_refused(tmp_path, what):
    repository = tmp_path / "repository"
    if what != "missing":
        repository.mkdir()
    if what in ("broken config", "no version"):
        for part in ("image", "text", "assets"):
            (repository / f"x_{part}").mkdir()
            text = "{{{" if what == "broken config" else f'name: "x_{part}" backend: "onnxruntime"'
            (repository / f"x_{part}" / "config.pbtxt").write_text(text)
    with pytest.raises(clipdex.ModelError, match=r"repository"):
        clipdex.connect(f"inproc:{repository}")


THIN_PYTHON = ROOT / ".venv-thin" / "bin" / "python"


@pytest.mark.skipif(not THIN_PYTHON.exists(), reason="make test-thin makes the environment that this needs")
def test_the_base_install_with_the_newest_numpy_gives_the_same_vectors(triton, served, tmp_path):
    """The thin client's own environment, against the same server."""
    script = (
        "import sys, numpy as np, clipdex\n"
        "assert int(np.__version__.split('.')[0]) >= 2, np.__version__\n"
        "with clipdex.connect(sys.argv[1]) as clip:\n"
        "    images = clip.embed_pixels(np.load(sys.argv[2]))\n"
        "    np.save(sys.argv[3], np.concatenate([images, clip.embed_texts(['a', 'b'])]))\n"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    subprocess.run(
        [THIN_PYTHON, "-c", script, triton.address, tmp_path / "pixels.npy", tmp_path / "thin.npy"], check=True
    )
    here = np.concatenate([served.embed_pixels(pixels), served.embed_texts(["a", "b"])])
    np.testing.assert_allclose(np.load(tmp_path / "thin.npy"), here, atol=1e-6)
