"""`clipdex models`: what a server or a repository holds, and that what is wrong with one hides no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MODEL_REPOSITORY

import clipdex
from clipdex.base.errors import ModelNotFound, ServerUnreachable
from clipdex.client.held_models import list_models
from clipdex.model.assets import pack_assets, unpack_assets

pytest.importorskip("typer")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The demo model."""
    shutil.copytree(MODEL_REPOSITORY, tmp_path / "repository", ignore=shutil.ignore_patterns(".*"))
    return tmp_path / "repository"


def add(repository: Path, name: str, **changes: object) -> None:
    """The demo's towers once more, with another card."""
    from clipdex_export.assets_model import write_assets_model
    from clipdex_export.triton_config import assets_config

    old = onnx.load(repository / "demo_assets" / "1" / "model.onnx").graph.initializer[0]
    assets = unpack_assets(onnx.numpy_helper.to_array(old).tobytes())
    card = replace(assets.card, name=name, **changes)  # type: ignore[arg-type]
    for part in ("image", "text", "assets"):
        shutil.copytree(repository / f"demo_{part}", repository / f"{name}_{part}")
        config = repository / f"{name}_{part}" / "config.pbtxt"
        said = config.read_text().replace(f'name: "demo_{part}"', f'name: "{name}_{part}"')
        config.write_text(said.replace(assets.card.fingerprint, card.fingerprint))
    data = pack_assets(card, assets.tokenizer_json)
    write_assets_model(data, repository / f"{name}_assets" / "1" / "model.onnx")
    (repository / f"{name}_assets" / "config.pbtxt").write_text(assets_config(card, data))


@pytest.mark.parametrize("form", ["{}", "inproc:{}"])
def test_a_repository(repository: Path, form: str) -> None:
    add(repository, "small", precision="int8")
    demo, small = list_models(form.format(repository))
    assert (demo.name, small.name) == ("demo", "small")
    assert demo.card is not None and small.card is not None
    assert demo.card.fingerprint == small.card.fingerprint and small.card.precision == "int8"
    assert demo.max_batch_size == 64
    parts = [path for part in ("image", "text", "assets") for path in (repository / f"demo_{part}").rglob("*")]
    assert demo.bytes_on_disk == sum(path.stat().st_size for path in parts if path.is_file())


def test_a_table_and_its_remarks(repository: Path, run) -> None:
    parity = {"image_cosine_min": 0.97, "text_cosine_min": 1.0, "top10_overlap": 0.8, "text_precision": "fp32"}
    add(
        repository,
        "small",
        precision="int8",
        parity=parity | {"forced": True, "problem": "the image tower departs", "random_weights": 3},
    )
    status, out, err = run("models", repository)
    assert status == 0
    head, demo, small = (line.split() for line in out.splitlines())
    assert head[:6] == ["model", "dim", "pixels", "tokens", "precision", "cosine"]
    assert demo[:6] == ["demo", "128", "64", "32", "fp32", "1.000000"]
    assert small[:7] == ["small", "128", "64", "32", "int8", "0.970000!", "0.800"]
    assert err.splitlines() == [
        "small: installed although the image tower departs",
        "small: its text tower is in fp32",
        "small: 3 weights are random: its vectors are meaningless",
    ]


def test_json(repository: Path, run) -> None:
    (found,) = json.loads(run("models", repository, "--json")[1])
    with clipdex.connect(f"inproc:{repository}") as client:
        assert found["fingerprint"] == client.card.fingerprint and found["parity"] == dict(client.card.parity)
    assert found["embedding_dim"] == 128 and found["below_floor"] is None


def test_a_model_that_cannot_be_read_hides_no_other(repository: Path, run) -> None:
    add(repository, "broken")
    shutil.copy(repository / "demo_assets" / "1" / "model.onnx", repository / "broken_assets" / "1" / "model.onnx")
    demo, broken = sorted(list_models(str(repository)), key=lambda model: model.name, reverse=True)
    assert demo.card is not None and broken.card is None and "sha256" in broken.error
    status, out, err = run("models", repository)
    assert status == 0 and "cannot be read" in out and "broken: " in err
    assert "error" in json.loads(run("models", repository, "--json")[1])[0]


def test_one_of_them(repository: Path, run) -> None:
    add(repository, "small")
    assert [model.name for model in list_models(str(repository), model="small")] == ["small"]
    with pytest.raises(ModelNotFound, match="no model 'other'; it has demo, small"):
        list_models(str(repository), model="other")


def test_nothing_there(repository: Path, tmp_path: Path, run) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="contains no Triton model"):
        list_models(str(tmp_path / "empty"))
    shutil.rmtree(repository / "demo_text")
    status, out, err = run("models", repository)
    assert status == 0 and len(out.splitlines()) == 1 and "holds no model that clipdex exported" in err
    with pytest.raises(ServerUnreachable):
        list_models("127.0.0.1:1", timeout_s=1)


@pytest.mark.parametrize("place", ["nowhere", "./nowhere", "nowhere/deep", "/nowhere:1"])
def test_a_directory_that_does_not_exist_is_called_that(place: str, run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = f"{place}: there is no such directory; give a model repository, or a server's address as HOST:PORT"
    assert run("models", place) == (1, "", f"clipdex: {sentence}\n")


@pytest.mark.slow
@pytest.mark.triton
def test_two_models_live_side_by_side_in_one_server(repository: Path, run) -> None:
    from clipdex_server import LocalTriton

    add(repository, "small", weights_sha256="a" * 64)
    with LocalTriton(repository, stop_timeout_s=0) as server:
        here, there = (list_models(place) for place in (str(repository), server.address))
        assert [(m.name, m.card, m.max_batch_size) for m in here] == [
            (m.name, m.card, m.max_batch_size) for m in there
        ]
        assert {m.bytes_on_disk for m in there} == {None}
        assert here[0].card is not None and here[1].card is not None
        assert here[0].card.fingerprint != here[1].card.fingerprint
        status, out, _ = run("models", server.address)
        assert status == 0 and [line.split()[0] for line in out.splitlines()] == ["model", "demo", "small"]
        with pytest.raises(ModelNotFound, match="several models"):
            clipdex.connect(server.address)
        with clipdex.connect(server.address, model="small") as client:
            assert client.embed_texts(["a red circle"]).shape == (1, 128)
