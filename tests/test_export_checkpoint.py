"""A checkpoint is loaded whole or refused in one sentence that names what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clipdex.base.errors import CheckpointError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

from tiny_clip import edit_json, write_tiny  # noqa: E402

from clipdex_export.checkpoint import Checkpoint  # noqa: E402
from clipdex_export.families import load_checkpoint  # noqa: E402


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def checkpoint(sound: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def refused(source: str | Path, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(source), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_weights(checkpoint: Path, change) -> None:
    path = checkpoint / "model.safetensors"
    weights = safetensors.load_file(path)
    change(weights)
    safetensors.save_file(weights, path, metadata={"format": "pt"})


def test_a_sound_one(sound: Path) -> None:
    loaded = load_checkpoint(str(sound))
    assert loaded.revision == "" and loaded.random_weights == () and loaded.unused_weights == ()
    assert {p.dtype for p in model_of(loaded).parameters()} == {torch.float32}
    assert not model_of(loaded).training


def model_of(loaded: Checkpoint) -> Any:
    """transformers' CLIPModel."""
    return loaded.image.reference.model  # type: ignore[union-attr]


# what is there at all


def test_no_such_directory(tmp_path: Path) -> None:
    assert "there is no such directory" in refused(tmp_path / "nowhere")


def test_a_file(sound: Path) -> None:
    assert "is a file: give the directory" in refused(sound / "model.safetensors")


def test_an_empty_directory(tmp_path: Path) -> None:
    assert 'looked for config.json with model_type "clip"' in refused(tmp_path)


def test_a_revision_of_a_directory(sound: Path) -> None:
    assert "a revision (main) is for hub ids only" in refused(sound, revision="main")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\x01", "null"])
def test_a_config_that_is_no_json_object(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    assert "not a checkpoint of a known kind: looked for config.json" in refused(checkpoint)


@pytest.mark.parametrize("model_type", ["blip", "bert", None])
def test_another_kind_of_model(checkpoint: Path, model_type: str | None) -> None:
    edit_json(checkpoint / "config.json", model_type=model_type)
    assert "not a checkpoint of a known kind" in refused(checkpoint)


def test_a_config_with_nonsense_in_it(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", vision_config={"hidden_size": "wide"})
    assert "cannot be loaded" in refused(checkpoint)


# weights


def test_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "has no weights: expected model.safetensors" in refused(checkpoint)


def test_missing_weights_are_named(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.pop("visual_projection.weight"))
    assert refused(checkpoint).endswith("weights are missing: visual_projection.weight")


def test_weights_under_other_names(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.update(projector=w.pop("text_projection.weight")))
    assert refused(checkpoint).endswith("missing: text_projection.weight; it has projector instead")


def test_many_missing_weights_are_counted(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: [w.pop(n) for n in list(w) if n.startswith("vision_model")])
    assert " more" in refused(checkpoint)


def test_weights_of_another_shape_are_named(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.update({"text_projection.weight": torch.zeros(7, 64)}))
    message = refused(checkpoint)
    assert (
        "do not have the shapes that config.json states: text_projection.weight ([7, 64], expected [32, 64])"
        in message
    )


def test_weights_of_another_size_of_model(checkpoint: Path) -> None:
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    edit_json(checkpoint / "config.json", text_config=text | {"num_hidden_layers": 3})
    assert "weights are missing: text_model.encoder.layers.1." in refused(checkpoint)


@pytest.mark.parametrize("keep", [0, 5, 100, 20_000])
def test_a_truncated_file(checkpoint: Path, keep: int) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "the checkpoint cannot be loaded" in refused(checkpoint)


def test_weights_that_are_no_safetensors(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"a page that says: please log in to download\n" * 40)
    assert "the checkpoint cannot be loaded" in refused(checkpoint)


def test_weights_that_nobody_wants_are_reported(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.update({"classifier.weight": torch.zeros(3)}))
    assert load_checkpoint(str(checkpoint)).unused_weights == ("classifier.weight",)


def test_the_buffers_of_old_checkpoints_are_not_weights(checkpoint: Path) -> None:
    ids = torch.arange(77)[None]
    edit_weights(checkpoint, lambda w: w.update({"text_model.embeddings.position_ids": ids}))
    assert load_checkpoint(str(checkpoint)).unused_weights == ()


def test_random_weights_only_when_asked_for(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.pop("visual_projection.weight"))
    first = load_checkpoint(str(checkpoint), allow_random=True)
    assert first.random_weights == ("visual_projection.weight",)
    (checkpoint / "model.safetensors").unlink()
    second = load_checkpoint(str(checkpoint), allow_random=True)
    assert len(second.random_weights) == len(model_of(second).state_dict())
    assert second.weights_sha256 == load_checkpoint(str(checkpoint), allow_random=True).weights_sha256


# the identity of weights


def test_the_hash_is_of_the_weights_not_of_the_file(checkpoint: Path, tmp_path: Path) -> None:
    expected = load_checkpoint(str(checkpoint))
    torch.save(model_of(expected).state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    assert load_checkpoint(str(checkpoint)).weights_sha256 == expected.weights_sha256


def test_the_hash_changes_with_one_value(checkpoint: Path) -> None:
    expected = load_checkpoint(str(checkpoint)).weights_sha256
    edit_weights(checkpoint, lambda w: w["logit_scale"].add_(1e-6))
    assert load_checkpoint(str(checkpoint)).weights_sha256 != expected


def test_half_precision_is_loaded_as_float32(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w.update({n: t.half() for n, t in w.items()}))
    assert model_of(load_checkpoint(str(checkpoint))).visual_projection.weight.dtype == torch.float32


@pytest.mark.parametrize("tower", ["vision_config", "text_config"])
@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "gelu"}, {"num_attention_heads": 2}, {"layer_norm_eps": 1e-3}],
    ids=lambda c: next(iter(c)),
)
def test_an_architecture_is_part_of_the_space(checkpoint: Path, tower: str, change: dict[str, Any]) -> None:
    """The same weights, and other vectors: nothing in a weight says which."""
    before = load_checkpoint(str(checkpoint))
    config = json.loads((checkpoint / "config.json").read_text())
    edit_json(checkpoint / "config.json", **{tower: config[tower] | change})
    after = load_checkpoint(str(checkpoint))
    assert after.card("tiny", "fp32").fingerprint != before.card("tiny", "fp32").fingerprint
    for name, weight in model_of(before).state_dict().items():
        assert torch.equal(weight, model_of(after).state_dict()[name])


def test_what_changes_no_vector_makes_no_other_space(checkpoint: Path, tmp_path: Path) -> None:
    """A precision, another directory, and a config as another release of transformers writes it."""
    first = load_checkpoint(str(checkpoint)).card("tiny", "fp32")
    assert load_checkpoint(str(checkpoint)).card("other", "fp16").fingerprint == first.fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint, moved)
    config = json.loads((moved / "config.json").read_text())
    towers = {
        name: config[name] | {"attention_dropout": 0.1, "new_in_another_release": 3}
        for name in ("vision_config", "text_config")
    }
    # What is not stated has transformers' default, which is what is stated here.
    assert towers["vision_config"].pop("layer_norm_eps", 1e-5) == 1e-5
    edit_json(moved / "config.json", transformers_version="9.9", use_cache=True, **towers)
    assert load_checkpoint(str(moved)).card("tiny", "fp32").fingerprint == first.fingerprint


def test_an_end_token_that_is_told_in_two_ways_is_one_space(checkpoint: Path) -> None:
    """Old configs say 2, and transformers then reads the vector at the largest id, which is the end token."""
    first = load_checkpoint(str(checkpoint)).card("tiny", "fp32")
    config = json.loads((checkpoint / "config.json").read_text())["text_config"]
    other = 2 if config["eos_token_id"] != 2 else first.text.end_id
    edit_json(checkpoint / "config.json", text_config=config | {"eos_token_id": other})
    assert load_checkpoint(str(checkpoint)).card("tiny", "fp32").fingerprint == first.fingerprint


# processor and tokenizer


def test_no_preprocessor(checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json cannot be read" in refused(checkpoint)


def test_a_preprocessor_of_another_model(checkpoint: Path) -> None:
    edit_json(checkpoint / "preprocessor_config.json", image_processor_type="ViTImageProcessor")
    assert "is for a ViTImageProcessor; expected a CLIPImageProcessor" in refused(checkpoint)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    assert f"has no {name} and no tokenizer.json" in refused(checkpoint)


def test_a_tokenizer_that_is_no_json(checkpoint: Path) -> None:
    (checkpoint / "vocab.json").write_text("{")
    assert "the tokenizer cannot be read" in refused(checkpoint)


def test_a_tokenizer_of_another_kind(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer")
    assert "is for a XLMRobertaTokenizer; expected a CLIPTokenizer" in refused(checkpoint)
