"""A whole export: what it installs, what it refuses, and that a failed one leaves no trace."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdex.base.errors import CardError, CheckpointError, ExportError, InvalidArgument, MissingExtra
from clipdex.model.assets import unpack_assets

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("pytorch_once")]
pytest.importorskip("torch")
pytest.importorskip("transformers")
onnxruntime = pytest.importorskip("onnxruntime")

from tiny_clip import TINY, edit_json, everything_in, write_tiny  # noqa: E402

from clipdex_export import ExportReport, export_model  # noqa: E402
from clipdex_export.families import load_checkpoint  # noqa: E402

DEMO = Path(__file__).parent.parent / "export" / "checkpoints" / "demo"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoint"), merges=100)


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, stages: list[str]) -> ExportReport:
    repository = tmp_path_factory.mktemp("exported") / "repository"
    return export_model(checkpoint, name="tiny", repository=repository, max_batch_size=8, progress=stages.append)


def run(report: ExportReport, tower: str, inputs: dict[str, np.ndarray]) -> Any:
    path = report.paths[tower] / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def installed_assets(report: ExportReport) -> Any:
    everything = {"start": np.array([0]), "end": np.array([2**62])}
    return unpack_assets(run(report, "assets", everything).tobytes())


def test_three_models_and_nothing_else(report: ExportReport) -> None:
    files = [
        f"tiny_{tower}{rest}"
        for tower in ("assets", "image", "text")
        for rest in ("", "/1", "/1/model.onnx", "/config.pbtxt")
    ]
    assert everything_in(report.repository) == sorted(files)
    assert [p.name for p in report.repository.parent.iterdir()] == ["repository"]
    assert set(report.paths) == {"image", "text", "assets"}
    sizes = [f.stat().st_size for f in report.repository.rglob("*") if f.is_file()]
    assert report.bytes_on_disk == sum(sizes)


def test_the_card_inside_the_assets_is_the_report_s(report: ExportReport, checkpoint: Path) -> None:
    card = installed_assets(report).card
    assert card == report.card
    assert (card.name, card.source, card.revision) == ("tiny", str(checkpoint), "")
    assert (card.embedding_dim, card.image.size) == (TINY.projection, TINY.image_size)
    assert (card.text.context_length, card.precision) == (77, "fp32")
    assert card.logit_scale == pytest.approx(np.exp(2.6592), rel=1e-4)


def test_the_card_carries_the_gate_s_report(report: ExportReport) -> None:
    parity = report.card.parity
    assert parity["images"] >= 30 and parity["texts"] >= 40
    assert parity["pixel_mismatches"] == parity["token_mismatches"] == parity["random_weights"] == 0
    assert 0.9999 <= parity["image_cosine_min"] <= parity["image_cosine_mean"] <= 1
    assert 0.9999 <= parity["text_cosine_min"] <= parity["text_cosine_mean"] <= 1
    assert {"torch", "transformers", "onnxruntime"} <= set(parity["versions"])


def test_progress_names_the_stages(report: ExportReport, stages: list[str]) -> None:
    assert stages[0] == "loading the checkpoint" and stages[-1] == "installing"
    assert "comparing the export with the checkpoint" in stages


@pytest.mark.slow
def test_the_same_source_twice_has_one_fingerprint(report: ExportReport, checkpoint: Path, tmp_path: Path) -> None:
    again = export_model(checkpoint, name="other", repository=tmp_path)
    assert again.card.fingerprint == report.card.fingerprint


def test_another_preprocessing_has_another_fingerprint(
    report: ExportReport, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    edit_json(tmp_path / "checkpoint" / "preprocessor_config.json", resample=2)
    card = load_checkpoint(str(tmp_path / "checkpoint")).card("tiny", "fp32")
    assert card.weights_sha256 == report.card.weights_sha256 and card.text == report.card.text
    assert card.fingerprint != report.card.fingerprint


def test_other_weights_have_another_fingerprint(report: ExportReport, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "checkpoint", merges=100, seed=9)
    card = load_checkpoint(str(other)).card("tiny", "fp32")
    assert card.text == report.card.text and card.image == report.card.image
    assert card.fingerprint != report.card.fingerprint


@pytest.mark.slow
def test_a_model_of_the_name_is_replaced_only_when_allowed(report: ExportReport, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(report.repository, repository)
    first = replace(report, repository=repository, paths={t: repository / f"tiny_{t}" for t in report.paths})
    other = write_tiny(tmp_path / "other", seed=9)
    before = everything_in(tmp_path)
    with pytest.raises(ExportError, match="already has a model tiny"):
        export_model(other, name="tiny", repository=repository)
    assert installed_assets(first).card.fingerprint == first.card.fingerprint
    second = export_model(other, name="tiny", repository=repository, overwrite=True)
    assert installed_assets(second).card.fingerprint == second.card.fingerprint != first.card.fingerprint
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("name", ["", "Big", "a-b", "a b", "../x", "a.b", "é"])
def test_names_that_are_none(checkpoint: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CardError, match="is not a valid model name"):
        export_model(checkpoint, name=name, repository=tmp_path / "repository")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "8"])
def test_batch_sizes_that_are_none(checkpoint: Path, tmp_path: Path, size: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"max_batch_size is .*; expected a whole number from 1"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository", max_batch_size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_refused_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        export_model(tmp_path / "nowhere", name="tiny", repository=tmp_path / "a" / "repository")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    """Ids up to 1,113 meet a text tower of 600 embeddings that ends at another token."""
    checkpoint, other = write_tiny(tmp_path / "checkpoint"), write_tiny(tmp_path / "other", merges=600)
    for name in ("vocab.json", "merges.txt"):
        (other / name).rename(checkpoint / name)
    with pytest.raises(
        CheckpointError, match=r"the text tower reads its vector at token 513 .*ends texts with 1113"
    ):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.slow
def test_a_tokenizer_larger_than_the_text_tower(tmp_path: Path) -> None:
    checkpoint, other = write_tiny(tmp_path / "checkpoint"), write_tiny(tmp_path / "other", merges=680)
    vocabulary = (other / "vocab.json").read_text().replace('"<|endoftext|>": 1193', '"<|endoftext|>": 1200')
    (checkpoint / "vocab.json").write_text(vocabulary)
    (other / "merges.txt").rename(checkpoint / "merges.txt")
    with pytest.raises(CheckpointError, match=r"ids up to 1200, but the text tower only 1200 embeddings"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository")


@pytest.mark.slow
def test_random_weights_are_counted_in_the_card(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="has no weights"):
        export_model(tmp_path, name="tiny", repository=tmp_path / "repository")
    made_up = export_model(tmp_path, name="tiny", repository=tmp_path / "repository", allow_random=True)
    assert made_up.card.parity["random_weights"] == len(made_up.random_weights) > 10


def test_ctrl_c_leaves_no_trace(checkpoint: Path, tmp_path: Path) -> None:
    def interrupt(stage: str) -> None:
        if stage == "comparing the export with the checkpoint":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_no_trace(checkpoint: Path, tmp_path: Path) -> None:
    """The process may write no file of more than 100 kB, the least of the towers is larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(stage: str) -> None:
        if stage == "writing the image tower":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        with pytest.raises(ExportError) as caught:
            export_model(checkpoint, name="tiny", repository=tmp_path / "repository", progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value) == f"{tmp_path}/repository: the export cannot be written: File too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["torch", "onnx", "skimage"])
def test_a_missing_package_names_the_extra(
    package: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "clipdex.base.extras.find_spec", lambda name: None if name == package else util.find_spec(name)
    )
    with pytest.raises(MissingExtra, match=r"exporting a model needs .*: run  .*pip install .*\[export\]'"):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository")
    assert list(tmp_path.iterdir()) == []


def test_a_torchvision_of_another_build_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(
        MissingExtra, match=r"torchvision.* cannot be imported \(RuntimeError: operator torchvision"
    ):
        export_model(checkpoint, name="tiny", repository=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'transformers', 'onnx', 'onnxruntime', 'skimage', 'safetensors'}"
    code = f"import sys, clipdex_export; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow
def test_an_odd_size_and_a_short_context(tmp_path: Path) -> None:
    """Nothing is hard-coded to 224 or 77."""
    shape = replace(TINY, image_size=96, patch_size=24, context_length=19, projection=48)
    checkpoint = write_tiny(tmp_path / "checkpoint", shape=shape)
    edit_json(checkpoint / "preprocessor_config.json", size=100, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    card = export_model(checkpoint, name="odd", repository=tmp_path / "repository").card
    assert (card.image.size, card.image.resize_to) == (96, 100)
    assert (card.text.context_length, card.embedding_dim) == (19, 48)


@pytest.mark.slow
def test_the_demo_checkpoint(tmp_path: Path) -> None:
    report = export_model(DEMO, name="demo", repository=tmp_path)
    assert report.card.parity["image_cosine_min"] >= 0.99999
    assert report.card.parity["text_cosine_min"] >= 0.99999
    assert report.unused_weights == ()


def test_onnxruntime_is_told_to_send_nothing_before_it_is_imported():
    code = (
        "import os, sys; os.environ.pop('ORT_DISABLE_TELEMETRY', None); import clipdex_export; "
        "assert 'onnxruntime' not in sys.modules; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
