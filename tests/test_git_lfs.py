"""A repository cloned without git-lfs: a file that is a pointer is called one, before a reader calls it broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY, ROOT, noise

import clipdex
from clipdex.base.errors import CardError, CheckpointError, InvalidArgument, LocalServerError
from clipdex.base.git_lfs import is_pointer, is_pointer_file, pointer_words
from clipdex.model.images import open_image

DEMO = ROOT / "export" / "checkpoints" / "demo"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:0000000000000000000000000000000000000000000000000000000000000000\n"
    b"size 605157884\n"
)


@pytest.mark.thin
def test_a_pointer_is_told_by_its_first_line_and_its_size(tmp_path: Path) -> None:
    assert is_pointer(POINTER) and is_pointer(b"version https://git-lfs.github.com/spec/v2\n")
    assert not is_pointer(b"") and not is_pointer(b"\n" + POINTER) and not is_pointer(POINTER.ljust(1024))
    assert not is_pointer_file(tmp_path) and not is_pointer_file(tmp_path / "none")
    (tmp_path / "file").write_bytes(POINTER)
    assert is_pointer_file(tmp_path / "file") and is_pointer_file(str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(POINTER.ljust(1024))
    assert not is_pointer_file(tmp_path / "file")
    assert pointer_words("a.bin", "the weights") == "a.bin is a git-lfs pointer, not the weights: run git lfs pull"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "checkpoint"))


@pytest.mark.torch
def test_case_10_git_lfs_pointer(run, checkpoint: Path, tmp_path: Path) -> None:
    """The weights of an otherwise whole checkpoint."""
    pytest.importorskip("torch")
    pytest.importorskip("typer")
    (checkpoint / "model.safetensors").write_bytes(POINTER)
    status, _, err = run("export", checkpoint, "--name", "x", "--repository", tmp_path / "models")
    assert status == 1
    said = err.splitlines()[-1]
    assert said.endswith("model.safetensors is a git-lfs pointer, not the weights: run git lfs pull")
    assert "Traceback" not in err and not (tmp_path / "models").exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", "the model's configuration"),
        ("preprocessor_config.json", "the preprocessor"),
        ("tokenizer.json", "the tokenizer"),
        ("tokenizer_config.json", "the tokenizer"),
        ("merges.txt", "the tokenizer"),
        ("spiece.model", "the tokenizer's SentencePiece model"),
        ("model-00002-of-00002.safetensors", "the weights"),
        ("modules.json", "the list of modules"),
        ("open_clip_config.json", "the model's configuration"),
    ],
)
def test_every_file_that_an_export_reads(checkpoint: Path, tmp_path: Path, name: str, what: str) -> None:
    pytest.importorskip("torch")
    from clipdex_export import export_model

    (checkpoint / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError) as refused:
        export_model(checkpoint, name="x", repository=tmp_path / "models")
    assert str(refused.value) == pointer_words(checkpoint / name, what)
    assert not (tmp_path / "models").exists()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["pytorch_model.bin", "flax_model.msgpack", "README.md", "training.json"])
def test_what_an_export_does_not_read_may_be_a_pointer(checkpoint: Path, name: str) -> None:
    pytest.importorskip("torch")
    from clipdex_export.families import load_checkpoint

    (checkpoint / name).write_bytes(POINTER)
    assert load_checkpoint(str(checkpoint)).embedding_dim == 128


@pytest.mark.torch
def test_modules_and_single_files_of_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from clipdex_export.hub import find_checkpoint
    from clipdex_export.weights import read_state

    (tmp_path / "0_CLIPModel").mkdir()
    (tmp_path / "0_CLIPModel" / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(
        CheckpointError, match=r"0_CLIPModel/tokenizer\.json is a git-lfs pointer, not the tokenizer"
    ):
        find_checkpoint(str(tmp_path), None)
    for name in ("weights.safetensors", "weights.bin", "weights.pt"):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(CheckpointError, match=f"{name} is a git-lfs pointer, not the weights"):
            read_state(tmp_path / name)


@pytest.mark.parametrize("name", ["picture.jpg", "queries.txt"])
def test_what_int8_is_calibrated_on(tmp_path: Path, name: str) -> None:
    pytest.importorskip("skimage")
    from clipdex.model.card import ImageSpec, TextSpec
    from clipdex_export.calibration import calibration

    for n in range(16):
        noise(n).save(tmp_path / f"{n}.png")
    (tmp_path / name).write_bytes(POINTER)
    image = ImageSpec(8, 8, "shortest_edge", "bicubic", "center", (255, 255, 255), (0.5,) * 3, (0.5,) * 3)
    text = TextSpec(8, 1, 1, "none", "2" * 64)
    with pytest.raises(InvalidArgument, match=f"{name} is a git-lfs pointer, not .* to calibrate on"):
        calibration(tmp_path, image, text, b"")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL_REPOSITORY, tmp_path / "repository"))


@pytest.mark.parametrize("part", ["image", "text", "assets"])
def test_a_model_repository_in_this_process(repository: Path, part: str) -> None:
    pytest.importorskip("onnxruntime")
    file = repository / f"demo_{part}" / "1" / "model.onnx"
    file.write_bytes(POINTER)
    with pytest.raises(CardError) as refused, clipdex.connect(f"inproc:{repository}") as client:
        client.embed_texts(["a red circle"])
        client.embed_images([np.zeros((64, 64, 3), np.uint8)])
    assert str(refused.value) == pointer_words(file, "the model")


def test_weights_beside_a_model(repository: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = repository / "demo_text" / "1" / "model.onnx.data"
    file.write_bytes(POINTER)
    with pytest.raises(CardError, match=r"model\.onnx\.data is a git-lfs pointer, not the model"):
        clipdex.connect(f"inproc:{repository}").embed_texts(["a red circle"])


def test_a_model_repository_that_is_to_be_served(repository: Path) -> None:
    from clipdex_server.checks import check_repository

    file = repository / "demo_image" / "1" / "model.onnx"
    file.write_bytes(POINTER)
    check_repository(repository, ["demo_text"])
    for models in (None, ["demo_text", "demo_image"]):
        with pytest.raises(LocalServerError) as refused:
            check_repository(repository, models)
        assert str(refused.value) == pointer_words(file, "the model")


@pytest.mark.thin
@pytest.mark.parametrize("name", ["cats.tar", "cats.csv", "cats.tsv", "cats.parquet"])
def test_a_tar_or_a_table_that_is_a_pointer_is_called_one(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(POINTER)
    failures: list[clipdex.Failure] = []
    try:
        assert list(clipdex.open_source(tmp_path / name).files(failures.append)) == []
        (said,) = [failure.detail for failure in failures]
    except clipdex.SourceError as exc:
        said = str(exc)
    assert "is a git-lfs pointer, not the " in said and said.endswith(": run git lfs pull")


@pytest.mark.thin
def test_a_picture_that_is_a_pointer_is_called_one_and_what_only_begins_so_is_not() -> None:
    with pytest.raises(clipdex.ImageError, match="a git-lfs pointer, not the file: run git lfs pull"):
        open_image(POINTER)
    with pytest.raises(clipdex.ImageError) as refused:
        open_image(POINTER.ljust(1024))
    assert "pointer" not in str(refused.value)
