"""Which family a source is of: by its prefix, or by the files that are there; what is refused, in one sentence."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import present
from PIL import Image

from clipdex.base.errors import CheckpointError, ClipdexError

pytestmark = [pytest.mark.slow, pytest.mark.torch]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_clip import edit_json  # noqa: E402
from tiny_families import FAMILIES, write_modules  # noqa: E402
from torchvision_standin import import_open_clip  # noqa: E402

from clipdex_export import families  # noqa: E402
from clipdex_export.families import load_checkpoint  # noqa: E402
from clipdex_export.families.architecture import text_model  # noqa: E402
from clipdex_export.families.open_clip_preprocessing import common_preprocessing  # noqa: E402
from clipdex_export.families.text_towers import TEXT_TOWERS  # noqa: E402

NAMES = {
    "hf_clip": "hf-clip",
    "siglip": "siglip",
    "siglip2": "siglip",
    "open_clip_vit": "open-clip",
    "open_clip_resnet": "open-clip",
    "open_clip_timm": "open-clip",
    "open_clip_coca": "open-clip",
    "open_clip_xlm_roberta": "open-clip",
    "st_clip": "sentence-transformers-clip",
    "pair_st": "pair",
    "pair_mclip": "pair",
}


@pytest.fixture
def copy_of(family_sources: dict[str, str], tmp_path: Path) -> Any:
    """A checkpoint's directory, to break."""
    return lambda case: Path(shutil.copytree(family_sources[case], tmp_path / case))


def refused(source: object, **options: Any) -> str:
    with pytest.raises(ClipdexError) as caught:
        load_checkpoint(str(source), **options)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


@pytest.mark.parametrize("case", FAMILIES)
def test_each_is_recognised(family_sources: dict[str, str], case: str) -> None:
    loaded = load_checkpoint(family_sources[case])
    assert loaded.family == NAMES[case]
    assert loaded.random_weights == loaded.unused_weights == ()


def test_every_family_has_a_checkpoint_here() -> None:
    assert set(NAMES) == set(FAMILIES)
    assert {family.name for family in families.FAMILIES} <= set(NAMES.values())


def test_an_unknown_directory_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    message = refused(tmp_path)
    assert "is not a checkpoint of a known kind: looked for config.json with model_type" in message
    assert all(family.marks in message for family in families.FAMILIES)


def weight_file(directory: Path) -> Path:
    return next(f for f in sorted(directory.rglob("*")) if f.suffix in (".safetensors", ".bin", ".pt"))


def drop_a_weight(path: Path) -> str:
    """Remove the largest matrix of the file -> its name."""
    from safetensors.torch import load_file, save_file

    safe = path.suffix == ".safetensors"
    state = load_file(path) if safe else torch.load(path, weights_only=True)
    inner = state.get("state_dict", state)
    name = max(inner, key=lambda key: inner[key].numel())
    del inner[name]
    if safe:
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)
    return name.removeprefix("module.")


def copied(source: str, to: Path) -> tuple[str, Path]:
    """A source with all its files copied -> the source that names the copies, and the directory of them."""
    paths = [part for part in re.findall(r"/[^+]+", source)]
    original = Path(
        os.path.commonpath([Path(part) if Path(part).is_dir() else Path(part).parent for part in paths])
    )
    shutil.copytree(original, to)
    for config in to.rglob("*config.json"):  # some name a directory beside them
        config.write_text(config.read_text().replace(str(original), str(to)))
    return source.replace(str(original), str(to)), to


@pytest.mark.parametrize("case", FAMILIES)
def test_a_dropped_weight_is_named(family_sources: dict[str, str], tmp_path: Path, case: str) -> None:
    source, directory = copied(family_sources[case], tmp_path / "copied")
    name = drop_a_weight(weight_file(directory))
    assert f"weights are missing: {name}" in refused(source)
    assert load_checkpoint(source, allow_random=True).random_weights == (name,)


# What an architecture of other vectors looks like, where not a weight is another: file in the checkpoint, place in
# it, value. A pair's text tower and OpenCLIP's base model are directories of their own.
LAST = "cls_last_hidden_state_pooler"
OTHER_VECTORS = [
    ("siglip", "config.json", "vision_config hidden_act", "gelu"),
    ("siglip", "config.json", "text_config num_attention_heads", 4),
    ("siglip", "config.json", "text_config layer_norm_eps", 1e-3),
    ("open_clip_vit", "open_clip_config.json", "model_cfg quick_gelu", False),
    ("open_clip_vit", "open_clip_config.json", "model_cfg vision_cfg head_width", 8),
    ("open_clip_vit", "open_clip_config.json", "model_cfg text_cfg heads", 4),
    ("open_clip_vit", "open_clip_config.json", "model_cfg text_cfg no_causal_mask", True),
    ("open_clip_vit", "open_clip_config.json", "model_cfg text_cfg pool_type", "last"),
    ("open_clip_vit", "open_clip_config.json", "model_cfg text_cfg norm_kwargs", {"eps": 1e-3}),
    ("open_clip_coca", "open_clip_config.json", "model_cfg vision_cfg attn_pooler_heads", 4),
    ("open_clip_timm", "open_clip_config.json", "model_cfg vision_cfg timm_pool", "token"),
    ("open_clip_xlm_roberta", "open_clip_config.json", "model_cfg text_cfg hf_pooler_type", LAST),
    ("open_clip_xlm_roberta", "base/config.json", "hidden_act", "relu"),
    ("open_clip_xlm_roberta", "base/config.json", "num_attention_heads", 4),
    ("pair_st", "text/1_Pooling/config.json", "pooling_mode", "cls"),
    ("pair_st", "text/config.json", "activation", "relu"),
    ("pair_st", "text/config.json", "n_heads", 4),
    ("pair_st", "image/config.json", "vision_config hidden_act", "gelu"),
    ("pair_mclip", "base/config.json", "layer_norm_eps", 1e-3),
]  # fmt: skip


@pytest.mark.parametrize(("case", "file", "place", "value"), OTHER_VECTORS)
def test_an_architecture_is_part_of_the_space(
    family_sources: dict[str, str], tmp_path: Path, case: str, file: str, place: str, value: Any
) -> None:
    source, directory = copied(family_sources[case], tmp_path / "copied")
    before = load_checkpoint(source).card("tiny", "fp32")
    data = json.loads((directory / file).read_text())
    inner = data
    *way, last = place.split()
    for name in way:
        inner = inner[name]
    inner[last] = value
    (directory / file).write_text(json.dumps(data))
    after = load_checkpoint(source).card("tiny", "fp32")
    assert after.fingerprint != before.fingerprint
    assert (after.image, after.text) == (before.image, before.text)


def test_a_text_model_that_is_in_no_list_counts_with_all_that_its_config_states() -> None:
    from transformers import ElectraConfig

    small = {"vocab_size": 90, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    first = text_model(ElectraConfig(**small))
    assert first == text_model(
        ElectraConfig(**small, use_cache=False, architectures=["X"], id2label={0: "a", 1: "b", 2: "c"})
    )
    assert first != text_model(ElectraConfig(**small | {"num_attention_heads": 4}))
    assert first != text_model(ElectraConfig(**small, hidden_act="relu"))


# pairs


def test_towers_of_different_models(family_sources: dict[str, str], copy_of: Any) -> None:
    text = family_sources["pair_st"].partition("+")[2]
    message = refused(f"pair:{family_sources['siglip']}+{text}")
    assert "vectors of 32 dimensions and the text tower of 40: they do not belong to the same model" in message


def test_a_text_tower_alone(family_sources: dict[str, str]) -> None:
    for case in ("pair_st", "pair_mclip"):
        text = family_sources[case].partition("+")[2]
        assert "is only a text tower: export it with the image tower" in refused(text)


@pytest.mark.parametrize("source", ["pair:", "pair:a", "pair:+b", "pair:a+"])
def test_half_a_pair(source: str) -> None:
    assert "expected pair:IMAGE_SOURCE+TEXT_SOURCE" in refused(source)


def test_a_pair_whose_text_is_none(family_sources: dict[str, str]) -> None:
    image = family_sources["hf_clip"]
    assert "is not a text tower of a known kind: looked for modules.json" in refused(f"pair:{image}+{image}")


def test_a_pair_s_hash_is_of_both(family_sources: dict[str, str], tmp_path: Path) -> None:
    image, _, text = family_sources["pair_st"].removeprefix("pair:").partition("+")
    other = FAMILIES["hf_clip"](tmp_path / "other")
    edit_weight(Path(other))
    hashes = [load_checkpoint(f"pair:{source}+{text}").weights_sha256 for source in (image, other)]
    assert hashes[0] != hashes[1]


def edit_weight(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(directory / "model.safetensors")
    state["logit_scale"].add_(1e-3)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "expected mean or cls"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.ReLU"}, "activates by ReLU; expected"),
        ("2_Dense/config.json", {"in_features": 7}, "weights do not have the shapes"),
        (
            "2_Dense/config.json",
            {"out_features": "many"},
            "out_features is 'many'; expected a whole number above 0",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "long"},
            "max_seq_length is 'long'; expected a whole number",
        ),
    ],
)
def test_what_sentence_transformers_can_do_and_clipdex_not(
    family_sources: dict[str, str], tmp_path: Path, file: str, changes: dict[str, Any], says: str
) -> None:
    source, directory = copied(family_sources["pair_st"], tmp_path / "copied")
    edit_json(directory / "text" / file, **changes)
    assert says in refused(source)


def test_weights_are_looked_for_where_modules_json_says(family_sources: dict[str, str], tmp_path: Path) -> None:
    """Newer directories of sentence-transformers keep the transformer in a folder, and may have other numbers."""
    source, directory = copied(family_sources["pair_st"], tmp_path / "copied")
    expected = load_checkpoint(source).weights_sha256
    text, inner = directory / "text", directory / "text" / "0_Transformer"
    inner.mkdir()
    for file in [path for path in text.iterdir() if path.is_file()]:
        file.rename(inner / file.name)
    (text / "2_Dense").rename(text / "3_Dense")
    write_modules(text, Transformer="0_Transformer", Pooling="1_Pooling", Dense="3_Dense")
    assert load_checkpoint(source).weights_sha256 == expected
    family = next(family for family in TEXT_TOWERS if family.recognises(text))
    assert [patterns[0] for patterns in family.weights(text)] == [
        "0_Transformer/model*.safetensors",
        "3_Dense/model*.safetensors",
    ]


@pytest.mark.parametrize("path", ["../../image", "/etc"])
def test_a_module_outside_of_its_directory(family_sources: dict[str, str], tmp_path: Path, path: str) -> None:
    source, directory = copied(family_sources["pair_st"], tmp_path / "copied")
    write_modules(directory / "text", Transformer="", Pooling="1_Pooling", Dense=path)
    assert f"the path {path!r} leads outside the directory" in refused(source)


@pytest.mark.parametrize("dims", [None, "many", 0, 2.5, True])
def test_a_number_of_dimensions_that_is_none(family_sources: dict[str, str], tmp_path: Path, dims: Any) -> None:
    source, directory = copied(family_sources["pair_mclip"], tmp_path / "copied")
    edit_json(directory / "text" / "config.json", numDims=dims)
    assert f"numDims is {dims!r}; expected a whole number above 0" in refused(source)


def test_code_in_a_checkpoint_is_never_run(family_sources: dict[str, str], tmp_path: Path) -> None:
    """transformers asks on the terminal whether to run it: here somebody would say yes. PLANTED has more."""
    source, directory = copied(family_sources["pair_st"], tmp_path / "copied")
    ran = tmp_path / "ran"
    configs = [path for path in directory.rglob("config.json") if "model_type" in path.read_text()]
    towers = [path for path in configs if "clip" not in json.loads(path.read_text())["model_type"]]
    assert towers
    for config in towers:
        (config.parent / "planted.py").write_text(
            f"open({str(ran)!r}, 'w')\nclass Config: ...\nclass Model: ...\n"
        )
        edit_json(
            config, model_type="planted", auto_map={"AutoConfig": "planted.Config", "AutoModel": "planted.Model"}
        )
    load = "import sys; from clipdex_export.families import load_checkpoint; load_checkpoint(sys.argv[1])"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", load, source], env=environment, input="y\n" * 9, capture_output=True, text=True
    )
    assert "CheckpointError" in done.stderr, done.stderr
    assert "needs its own code, which clipdex never runs" in done.stderr.splitlines()[-1]
    assert not ran.exists()


def test_texts_of_no_length(family_sources: dict[str, str], tmp_path: Path) -> None:
    """A T5 sets no limit of its own."""
    from transformers import T5Config

    source, directory = copied(family_sources["pair_st"], tmp_path / "copied")
    text = directory / "text"
    (text / "model.safetensors").unlink()
    (text / "sentence_bert_config.json").unlink()
    T5Config(vocab_size=900, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2).save_pretrained(text)
    assert "states no maximum text length: set max_seq_length" in refused(source, allow_random=True)


def test_a_list_of_modules_that_is_none(family_sources: dict[str, str], tmp_path: Path) -> None:
    source, directory = copied(family_sources["pair_st"], tmp_path / "copied")
    (directory / "text" / "modules.json").write_text('["Transformer"]')
    assert "is not a text tower of a known kind" in refused(source)


def test_sentence_transformers_gives_the_same(family_sources: dict[str, str]) -> None:
    """The reference is written out, module by module."""
    library = pytest.importorskip("sentence_transformers")
    text = family_sources["pair_st"].partition("+")[2]
    expected = library.SentenceTransformer(text, device="cpu").encode(["a cat", "", "une niña 猫 " * 20])
    reference = load_checkpoint(family_sources["pair_st"]).text.reference
    found = present(reference).vectors(["a cat", "", "une niña 猫 " * 20])
    assert abs(found - expected).max() < 1e-5


def test_sentence_transformers_gives_the_same_of_its_own_clip(family_sources: dict[str, str]) -> None:
    library = pytest.importorskip("sentence_transformers")
    source = family_sources["st_clip"]
    model = library.SentenceTransformer(source, device="cpu")
    checkpoint = load_checkpoint(source)
    texts = ["a cat", "two dogs on a red chair"]
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    for found, given in (
        (present(checkpoint.text.reference).vectors(texts), texts),
        (present(checkpoint.image.reference).vectors([picture]), [picture]),
    ):
        expected = model.encode(given, normalize_embeddings=True)
        assert abs(found / np.linalg.norm(found, axis=1, keepdims=True) - expected).max() < 1e-5


# SigLIP


def test_siglip_without_a_head_for_pictures(copy_of: Any) -> None:
    directory = copy_of("siglip")
    config = json.loads((directory / "config.json").read_text())
    edit_json(directory / "config.json", vision_config=config["vision_config"] | {"vision_use_head": False})
    assert "the model gives no vector for a picture" in refused(directory)


def test_siglip_that_crops(copy_of: Any) -> None:
    directory = copy_of("siglip")
    edit_json(directory / "preprocessor_config.json", size={"height": 40, "width": 48})
    assert "the preprocessor's size is" in refused(directory)


def test_siglip_that_pads_on_the_left(copy_of: Any) -> None:
    directory = copy_of("siglip2")
    edit_json(directory / "tokenizer_config.json", padding_side="left")
    assert "the tokenizer pads on the left; expected padding_side right" in refused(directory)


def test_a_broken_sentence_piece_model(copy_of: Any) -> None:
    directory = copy_of("siglip")
    (directory / "spiece.model").write_bytes(b"not a model")
    assert "the tokenizer cannot be read" in refused(directory)


def test_the_tokenizer_of_another_siglip(copy_of: Any) -> None:
    directory = copy_of("siglip")
    from tiny_families import sentence_piece_model

    (directory / "spiece.model").write_bytes(sentence_piece_model(1200))
    assert "but the text tower only 810 embeddings: they do not belong to the same model" in refused(directory)


def test_siglip_s_scale_and_bias(family_sources: dict[str, str]) -> None:
    loaded = load_checkpoint(family_sources["siglip"])
    assert loaded.logit_bias == -12.5 and loaded.logit_scale == pytest.approx(99.48, rel=1e-3)


# OpenCLIP


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("open_clip:ViT-Z-99/laion2b", "has no architecture 'ViT-Z-99': expected open_clip:ARCHITECTURE/TAG"),
        (
            "open_clip:ViT-B-32/none.bin",
            "neither a local file nor a tag of OpenCLIP's ViT-B-32; its tags: openai",
        ),
        (
            "open_clip:ViT-B-32/openai",
            "QuickGELU, but ViT-B-32 uses plain GELU: export open_clip:ViT-B-32-quick",
        ),
        ("open_clip:", "has no architecture ''"),
    ],
)
def test_what_open_clip_does_not_have(source: str, says: str) -> None:
    import_open_clip()
    assert says in refused(source)


def test_every_published_tag_has_an_architecture_of_its_kind_of_gelu() -> None:
    """What a refusal advises exists: no tag is refused for good."""
    open_clip = import_open_clip()
    for name, tag in open_clip.list_pretrained():
        quick = open_clip.get_model_config(name).get("quick_gelu", False)
        other = name.removesuffix("-quickgelu") if quick else f"{name}-quickgelu"
        if quick != open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False) and other != name:
            assert tag in open_clip.list_pretrained_tags_by_model(other), (name, tag)


def test_a_file_is_preprocessed_as_the_published_weights_of_its_architecture() -> None:
    """Or is refused: no file takes OpenAI's settings where a tag has others."""
    library = import_open_clip()
    without = set()
    for name in {name for name, _ in library.list_pretrained()}:
        ways = [
            library.transform.merge_preprocess_dict({}, library.get_pretrained_cfg(name, tag))
            for tag in library.list_pretrained_tags_by_model(name)
        ]
        try:
            found = common_preprocessing(library, name, Path("FILE"))
        except CheckpointError:
            without.add(name)
            assert any(way != ways[0] for way in ways)
        else:
            assert all(way == found for way in ways)
    assert without == {"ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu"}
    assert common_preprocessing(library, "ViT-SO400M-14-SigLIP", Path("FILE"))["resize_mode"] == "squash"
    assert common_preprocessing(library, "mt5-base-ViT-B-32", Path("FILE")) == {}


def test_a_file_with_and_without_a_tag(family_sources: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    library = import_open_clip()
    file = Path("/" + family_sources["open_clip_resnet"].partition("//")[2])
    squash = library.pretrained._slpcfg(hf_hub="acme/none/")
    monkeypatch.setitem(library.pretrained._PRETRAINED, "tiny-RN", {"one": squash, "two": dict(squash)})
    spec = load_checkpoint(f"open_clip:tiny-RN/{file}").image.spec
    assert (spec.resize, spec.mean) == ("squash", (0.5, 0.5, 0.5))
    shortest = library.pretrained._pcfg(hf_hub="acme/none/")
    monkeypatch.setitem(library.pretrained._PRETRAINED, "tiny-RN", {"one": squash, "two": shortest})
    for tag, resize in (("one", "squash"), ("two", "shortest_edge")):
        loaded = load_checkpoint(f"open_clip:tiny-RN/{tag}/{file}")
        assert (loaded.image.spec.resize, loaded.random_weights) == (resize, ())
    message = refused(f"open_clip:tiny-RN/{file}")
    assert f"use 2 kinds of preprocessing, and {file} does not say which: name a tag" in message
    assert "as in open_clip:tiny-RN/one/FILE or open_clip:tiny-RN/two/FILE, or give a directory" in message
    assert "one/none.bin: the weights file none.bin does not exist" in refused("open_clip:tiny-RN/one/none.bin")
    monkeypatch.setitem(library.pretrained._PRETRAINED, "tiny-RN", {"one": squash | {"quick_gelu": True}})
    assert f"export open_clip:tiny-RN-quickgelu/one/{file}" in refused(f"open_clip:tiny-RN/one/{file}")


def test_no_weights_by_name(family_sources: dict[str, str]) -> None:
    assert "tiny-RN has no weights" in refused("open_clip:tiny-RN")
    assert len(load_checkpoint("open_clip:tiny-RN", allow_random=True).random_weights) > 100


def test_a_revision_of_a_name() -> None:
    assert "a revision (main) is for hub ids only" in refused("open_clip:ViT-B-32/laion2b", revision="main")


def test_a_pickle_that_would_run_code_is_not_loaded(copy_of: Any, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was here",)

    directory = copy_of("open_clip_coca")
    torch.save({"visual.proj": Malicious()}, directory / "open_clip_pytorch_model.bin")
    assert "cannot be loaded as plain weights" in refused(directory)
    assert not (tmp_path / "was here").exists()


def test_a_pickle_is_not_run_by_transformers_either(copy_of: Any, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was here",)

    directory = copy_of("hf_clip")
    (directory / "model.safetensors").unlink()
    torch.save({"logit_scale": Malicious()}, directory / "pytorch_model.bin")
    assert "the checkpoint cannot be loaded" in refused(directory)
    assert not (tmp_path / "was here").exists()


# Where a checkpoint can name code of its own: the case, the file, and its Auto class.
PLANTED = [
    ("pair_st", "text/config.json", "AutoConfig"),
    ("pair_st", "text/config.json", "AutoModel"),
    ("pair_st", "text/tokenizer_config.json", "AutoTokenizer"),
    ("pair_mclip", "base/config.json", "AutoConfig"),
    ("pair_mclip", "base/config.json", "AutoModel"),
    ("siglip", "tokenizer_config.json", "AutoTokenizer"),
    ("siglip2", "tokenizer_config.json", "AutoTokenizer"),
    ("hf_clip", "config.json", "AutoModel"),
    ("open_clip_xlm_roberta", "base/config.json", "AutoConfig"),
    ("open_clip_xlm_roberta", "tokenizer_config.json", "AutoTokenizer"),
]


@pytest.mark.parametrize("unknown", [False, True], ids=["of a known kind", "of no known kind"])
@pytest.mark.parametrize(("case", "file", "kind"), PLANTED)
def test_a_checkpoint_s_own_code_is_not_run_and_nobody_is_asked(
    family_sources: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    case: str,
    file: str,
    kind: str,
    unknown: bool,
) -> None:
    source, directory = copied(family_sources[case], tmp_path / "copied")
    mark, path = tmp_path / "was here", directory / file
    (path.parent / "planted.py").write_text(f"open({str(mark)!r}, 'w')\nclass Planted:\n    pass\n")
    if kind == "AutoTokenizer":
        edit_json(path, auto_map={kind: ["planted.Planted", "planted.Planted"]})
        if unknown:
            edit_json(path, tokenizer_class="Planted")
        if case == "open_clip_xlm_roberta":  # OpenCLIP would hand this on
            config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
            config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
            edit_json(directory / "open_clip_config.json", model_cfg=config)
    else:
        edit_json(path, auto_map={kind: "planted.Planted"})
        if unknown and case != "hf_clip":
            edit_json(path, model_type="planted")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    try:
        load_checkpoint(source)
    except ClipdexError as exc:
        assert "trust_remote_code" not in str(exc) and "\n" not in str(exc)
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_image_size_are_not_stretched(copy_of: Any) -> None:
    directory = copy_of("open_clip_vit")
    config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["image_size"] = 64
    edit_json(directory / "open_clip_config.json", model_cfg=config)
    assert "weights do not have the shapes that config.json states: visual.positional_embedding" in refused(
        directory
    )


def test_open_clip_s_own_preprocessing_is_heeded(copy_of: Any) -> None:
    directory = copy_of("open_clip_vit")
    settings = {"mean": [0.5] * 3, "std": 0.25, "interpolation": "bilinear", "resize_mode": "squash"}
    edit_json(directory / "open_clip_config.json", preprocess_cfg=settings)
    spec = load_checkpoint(str(directory)).image.spec
    assert (spec.resize, spec.crop, spec.interpolation) == ("squash", "none", "bilinear")
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.25,) * 3)
    edit_json(directory / "open_clip_config.json", preprocess_cfg={"resize_mode": "longest", "fill_color": 9})
    assert "fill_color is not 0" in refused(directory)


def test_a_picture_that_is_not_square(copy_of: Any) -> None:
    directory = copy_of("open_clip_vit")
    config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"]["image_size"] = [48, 32]
    edit_json(directory / "open_clip_config.json", model_cfg=config)
    assert "takes 48 × 32 pixels; expected a square" in refused(directory, allow_random=True)


def test_where_open_clip_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert "[open-clip]'" in refused("open_clip:ViT-B-32/laion2b_s34b_b79k")
