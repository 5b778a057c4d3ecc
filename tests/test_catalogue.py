"""The list of models by name: complete, sourced, and what commands make of a name."""

import json
import re

import pytest

from clipdex.base.errors import InvalidArgument
from clipdex.model.card import check_model_name
from clipdex_export.catalogue import CATALOGUE, available_models, find_available, read_catalogue, resolve

MODELS = available_models().models
DATA = json.loads(CATALOGUE.read_text())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_entry_says_what_a_user_chooses_by_and_where_that_is_from(model):
    check_model_name(model.model_name)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.source) or model.onnx is None
    assert model.title and model.licence and model.languages
    assert model.pixels in (224, 256, 336, 384) and model.dim in (512, 768, 1024)
    figures = {"size": model.image_mb, "imagenet": model.imagenet, "recall": model.recall, "ms": model.ms}
    for fact, value in figures.items():
        assert (value is None) or model.sources[fact].startswith("https://")
    assert {"licence", "languages"} <= set(model.sources)


def test_the_list_is_short_and_its_names_are_one_each():
    names = [model.name for model in MODELS]
    assert 10 <= len(names) == len(set(names)) <= 20
    assert available_models().default in names
    default = find_available(available_models().default)
    assert default is not None and default.onnx, "what clipdex find takes needs no PyTorch"
    assert {model.languages == "English" for model in MODELS} == {True, False}
    assert {source for entry in DATA["models"] for source in entry["sources"].values() if source} == set(
        DATA["sources"]
    )


def test_speeds_are_in_the_order_of_the_times():
    order = ["fast", "medium", "slow", "very slow"]
    ranks = [
        order.index(str(speed)) for _, speed in sorted((model.ms, model.speed) for model in MODELS if model.ms)
    ]
    assert ranks == sorted(ranks) and set(ranks) == {0, 1, 2, 3}
    assert all(model.speed is None for model in MODELS if model.ms is None)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda data: data["models"][0].pop("licence"), "licence"),
        (lambda data: data["models"][0].update(name="ViT B/32"), "not lower-case words joined by hyphens"),
        (lambda data: data["models"][0].update(onnx=None, torch=None), "it has no source to export"),
        (lambda data: data["models"][0].update(imagenet=633), "imagenet is 633"),
        (lambda data: data["models"][0]["sources"].update(imagenet=None), "imagenet has no source"),
        (lambda data: data["models"][0]["sources"].update(licence=None), "have no source"),
        (lambda data: data["models"][0]["sources"].update(size="hearsay"), "unknown source 'hearsay'"),
        (lambda data: data["models"].append(data["models"][0]), "listed twice"),
        (lambda data: data.update(default="vit"), "the default 'vit' is not listed"),
        (lambda data: data.update(models=3), "not a catalogue"),
    ],
)
def test_a_faulty_list_is_refused_with_the_place(change, words, tmp_path):
    data = json.loads(CATALOGUE.read_text())
    change(data)
    (tmp_path / "list.json").write_text(json.dumps(data))
    with pytest.raises(InvalidArgument, match=re.escape(words)) as refused:
        read_catalogue(tmp_path / "list.json")
    assert str(tmp_path / "list.json") in str(refused.value)


def test_a_name_stands_for_its_repository_and_anything_else_for_itself(tmp_path, monkeypatch):
    assert resolve("vit-b-32") == resolve("vit_b_32") == "Xenova/clip-vit-base-patch32"
    assert resolve("vit-b-32-256-datacomp").startswith("laion/")
    assert resolve("vit-b-32", "torch") == "openai/clip-vit-base-patch32"
    assert resolve("vit-b-32", "onnx") == "Xenova/clip-vit-base-patch32"
    with pytest.raises(InvalidArgument, match="vit-b-32-256-datacomp is not available as onnx: leave --from out"):
        resolve("vit-b-32-256-datacomp", "onnx")
    for source in ("openai/clip-vit-base-patch32", "open_clip:ViT-B-32/openai", "./vit-b-32", "export/demo"):
        assert resolve(source) == source
    with pytest.raises(InvalidArgument, match=r"vit-b-33 is neither .* did you mean vit-b-32\? clipdex models"):
        resolve("vit-b-33")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit-b-32").mkdir()
    assert resolve("vit-b-32") == "vit-b-32"


def test_models_available_prints_the_list_and_what_is_not_known_as_a_dash(run):
    status, out, err = run("models", "--available")
    assert status == 0
    head, *lines = out.splitlines()
    assert head.split()[0] == "name" and len(lines) == len(MODELS)
    (m_clip,) = [line for line in lines if line.startswith("m-clip-b-32 ")]
    assert m_clip.split() == ["m-clip-b-32", "351", "—", "224", "512", "100", "—", "—", "—", "MIT"]
    assert "(needs PyTorch)" in next(line for line in lines if line.startswith("vit-b-32-256-datacomp "))
    assert available_models().default in err


@pytest.mark.parametrize("place", [["model_repository"], ["--server", "localhost:1"]])
def test_the_list_is_of_no_server_and_no_directory(run, place):
    status, out, err = run("models", "--available", *place)
    assert (status, out) == (1, "")
    assert err == "clipdex: --available lists what can be exported, and needs no server or directory\n"


def test_models_available_as_json_brings_the_sources(run):
    status, out, _ = run("models", "--available", "--json")
    models = json.loads(out)
    assert status == 0 and [model["name"] for model in models] == [model.name for model in MODELS]
    (first,) = [model for model in models if model["name"] == "vit-b-32"]
    assert first["imagenet"] == 63.3 and first["sources"]["imagenet"].endswith("docs/openclip_results.csv")
    assert [model["name"] for model in models if model["default"]] == [available_models().default]


def test_export_takes_a_name_and_calls_the_model_after_it(run, monkeypatch):
    import clipdex_export.exporting

    asked = []

    def export_model(source, **options):
        asked.append((source, options["name"]))
        raise InvalidArgument("no further")

    monkeypatch.setattr(clipdex_export.exporting, "export_model", export_model)
    run("export", "vit-b-32")
    run("export", "vit-b-32", "--name", "mine")
    status, _, err = run("export", "openai/clip-vit-base-patch32")
    assert asked == [("vit-b-32", "vit_b_32"), ("vit-b-32", "mine")]
    assert status == 1
    assert err == (
        "clipdex: openai/clip-vit-base-patch32 needs a name in the repository: add one, such as  --name my_clip\n"
    )
