"""Zero-shot classification: labels become texts, cosines become probabilities, and the command prints them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL_REPOSITORY, noise

import clipdex
from clipdex.base.errors import InvalidArgument
from clipdex.client.classification import _check, probabilities
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

LABELS = ["a cat", "a dog", "a lamp"]
PICTURES = [noise(0), noise(1)]


def fake_client(**changes: object) -> clipdex.Client:
    client = clipdex.Client(FakeTransport())
    client.card = replace(client.card, **changes)  # type: ignore[arg-type]
    return client


def test_probabilities_follow_from_vectors_and_the_logit_scale(fake):
    found = fake.classify(PICTURES, LABELS, templates=["{}"])
    logits = fake.card.logit_scale * (fake.embed_images(PICTURES) @ fake.embed_texts(LABELS).T)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, odds / odds.sum(axis=1, keepdims=True), atol=1e-6)
    assert found.shape == (2, 3) and found.dtype == np.float32


def test_several_templates_are_averaged_and_of_norm_1_again(fake):
    templates = ["a photo of {}", "{} in the rain, {}"]
    found = fake.classify(PICTURES, LABELS, templates=templates)
    vectors = np.stack(
        [fake.embed_texts([template.replace("{}", label) for template in templates]) for label in LABELS]
    ).mean(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(found, probabilities(fake.card, fake.embed_images(PICTURES), vectors), atol=1e-6)


def test_a_label_is_put_into_clip_s_own_template_unless_told_otherwise(fake):
    with_default = fake.classify(PICTURES, ["cat", "dog"])
    np.testing.assert_array_equal(
        with_default, fake.classify(PICTURES, ["a photo of a cat", "a photo of a dog"], templates=["{}"])
    )


def test_a_model_with_a_bias_judges_each_label_alone():
    with fake_client(logit_scale=10.0, logit_bias=-5.0) as client:
        assert client.card.scoring == "sigmoid"
        found = client.classify(PICTURES, ["a cat"], templates=["{}"])
        cosines = client.embed_images(PICTURES) @ client.embed_texts(["a cat"]).T
        np.testing.assert_allclose(found, 1 / (1 + np.exp(5 - 10 * cosines)), atol=1e-6)
        assert client.classify(PICTURES, LABELS).shape == (2, 3)


def test_large_scales_overflow_nowhere():
    unit = np.eye(3, dtype=np.float32)
    for bias in (0.0, -1e4):
        with fake_client(logit_scale=1e5, logit_bias=bias) as client:
            found = probabilities(client.card, unit, np.concatenate([unit, -unit]))
        assert np.isfinite(found).all() and found.max() == 1 and found.min() == 0


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        (["a cat"], ["{}"], r"too few labels \(1\): fake says which of several fits best"),
        ([], ["{}"], r"too few labels \(0\)"),
        (["a cat", " "], ["{}"], "a label is empty"),
        (["a cat", "a cat "], ["{}"], "the label 'a cat' is given twice"),
        ("a cat", ["{}"], "labels is a single string"),
        (LABELS, "a {}", "templates is a single string"),
        (LABELS, [], "templates is empty"),
        (LABELS, ["a photo"], "the template 'a photo' has no {}"),
    ],
)
def test_what_cannot_be_classified(fake, labels, templates, message):
    with pytest.raises(InvalidArgument, match=message):
        fake.classify(PICTURES, labels, templates=templates)


def test_many_labels_are_compared_once():
    """Not each with all others: of 50,000 that takes a minute."""
    compared = 0

    class Label(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def strip(self, chars: str | None = None) -> str:
            return self

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    labels = [Label(f"thing {number}") for number in range(1000)]
    _check(FakeTransport().card, labels, ["{}"])
    assert compared < 1000


def test_no_pictures(fake):
    assert fake.classify([], LABELS).shape == (0, 3)


def test_the_asyncio_client_gives_the_same(fake):
    async def ask() -> np.ndarray:
        async with clipdex.aio.AsyncClient(lambda: clipdex.Client(FakeTransport())) as client:
            return await client.classify(PICTURES, LABELS, templates=["a {}", "the {}"])

    np.testing.assert_array_equal(
        asyncio.run(ask()), fake.classify(PICTURES, LABELS, templates=["a {}", "the {}"])
    )


# the command, with the demo model

DEMO = ["--server", f"inproc:{MODEL_REPOSITORY}", "--template", "something {}"]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Two plain pictures, one of them in a subfolder."""
    pytest.importorskip("typer")
    pytest.importorskip("onnxruntime")
    draw = pytest.importorskip("clipdex_export.demo.draw")
    from clipdex_export.demo.scenes import Ground, Single, Thing

    folder = tmp_path / "drawn"
    (folder / "more").mkdir(parents=True)
    for colour, path in (("red", folder / "a.jpg"), ("blue", folder / "more" / "b.jpg")):
        draw.save_picture(Single(Thing("star", colour), "large", "middle", Ground(("white",))), 1, path)
    return folder


@pytest.mark.parametrize("written", ["labels", "file"])
def test_a_line_for_each_picture(drawn, run, tmp_path, written):
    (tmp_path / "labels.txt").write_text("red\n\n  blue\ngreen\n")
    labels = {"labels": ["--labels", "red, blue,green"], "file": ["--labels-file", tmp_path / "labels.txt"]}[
        written
    ]
    status, out, _ = run("classify", drawn, *labels, *DEMO, "--top", 1)
    assert status == 0
    assert [line.rpartition(" ")[0].rpartition("/")[2] for line in out.splitlines()] == [
        "a.jpg: red",
        "b.jpg: blue",
    ]


def test_json_and_csv(drawn, run):
    words = ["classify", drawn / "a.jpg", drawn / "more", "--labels", "red,blue", *DEMO]
    found = json.loads(run(*words, "--json")[1])
    assert [Path(each["path"]).name for each in found] == ["a.jpg", "b.jpg"]
    assert [each["labels"][0]["label"] for each in found] == ["red", "blue"]
    assert sum(label["probability"] for label in found[0]["labels"]) == pytest.approx(1)
    rows = list(csv.reader(io.StringIO(run(*words, "--csv", "--top", 1)[1])))
    assert rows[0] == ["path", "label", "probability"] and [row[1] for row in rows[1:]] == ["red", "blue"]


def test_a_broken_picture_is_named_and_the_others_are_classified(drawn, run):
    (drawn / "broken.png").write_bytes(b"no picture")
    status, out, err = run("classify", drawn, drawn / "none.jpg", "--labels", "red, blue", *DEMO)
    assert status == 1 and len(out.splitlines()) == 2
    assert "broken.png" in err and "none.jpg: there is no such file" in err


def test_what_the_command_refuses(drawn, run, tmp_path):
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([drawn], "give either --labels"),
        ([drawn, "--labels", "a, b", "--labels-file", "x"], "give either --labels"),
        ([drawn, "--labels-file", tmp_path / "none.txt"], "none.txt: cannot be read"),
        ([drawn, "--labels", "a, b", "--json", "--csv"], "exclude each other"),
        ([drawn, "--labels", "red"], "too few labels (1)"),
        ([tmp_path / "empty", "--labels", "a, b"], "empty: holds no picture"),
    ):
        status, _, err = run("classify", *words, *DEMO)
        assert status == 1 and message in err and "Traceback" not in err


@pytest.mark.slow
def test_shapes_and_colours_of_held_out_pictures_equal_pytorch_s(drawn, tmp_path):
    """95 %, and within 0.2 points of PyTorch: every fourth scene of benchmarks/zero_shot.py, which asks all."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from clipdex_export.demo.draw import save_picture
    from clipdex_export.demo.scenes import COLOURS, SHAPES, Pair
    from demo_training import heldout
    from demo_training.torch_encoder import TorchEncoder

    held_out = [scene for scene in heldout.sample_held_out("test") if not isinstance(scene, Pair)]
    scenes = held_out[::4]
    assert len(scenes) == 168
    paths = [tmp_path / f"{number}.jpg" for number in range(len(scenes))]
    sizes = cycle(heldout._SIZES)
    for path, scene, size in zip(paths, scenes, sizes, strict=False):
        save_picture(scene, path.stem, path, size=size)
    torch = TorchEncoder(MODEL_REPOSITORY.parent / "export" / "checkpoints" / "demo")
    pictures = torch.embed_images(paths)
    with clipdex.connect(f"inproc:{MODEL_REPOSITORY}", model="demo") as client:
        for kind, labels, template in (("shape", SHAPES, "a {}"), ("colour", tuple(COLOURS), "something {}")):
            truth = [labels.index(getattr(scene.thing, kind)) for scene in scenes]
            texts = torch.embed_texts([template.replace("{}", label) for label in labels])
            theirs = ((pictures @ texts.T).argmax(axis=1) == truth).mean()
            ours = (client.classify(paths, labels, templates=[template]).argmax(axis=1) == truth).mean()
            assert ours >= 0.95
            assert abs(ours - theirs) <= 0.002
